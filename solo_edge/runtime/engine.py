"""Engines: from an image to instances, whatever runs the network."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.config import PostprocessConfig, from_dict
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.instances import Instances
from solo_edge.manifest import (
    HOW_TO_BUILD,
    MANIFEST,
    Backend,
    Graph,
    Manifest,
    Precision,
    cell_strides,
    describe_tensors,
    read_manifest,
    verify,
)
from solo_edge.portable_folder import refuse_portable
from solo_edge.postprocess import instances_from_slots, postprocess_arrays
from solo_edge.preprocess import Geometry, Preprocess, check_image
from solo_edge.runtime.base import FrameResult, FrameRunner, Runner, StageTimes, check_tensors

__all__ = ["Engine", "StageTimes", "Started", "load_engine", "open_predictor", "open_runner"]

Image = NDArray[np.uint8]  # [H, W, 3] RGB


class Started(NamedTuple):
    """Images that went through the network, or are on their way, and are not finished yet."""

    geometries: tuple[Geometry, ...]
    outputs: dict[str, NDArray[Any]] | None  # of the network; None while a device works on it
    preprocess_ms: float  # of all images together, like the next
    network_ms: float


@dataclasses.dataclass(frozen=True, eq=False)
class Engine(Closing):
    """A network with everything from the image to the instances. Made by `load_engine` or `open_predictor`.

    Not for several threads at once. Use it as a context manager or call `close`.
    """

    name: str
    backend: Backend
    precision: Precision  # what it computes in here
    graph: Graph
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # COCO category id of each label
    preprocess: Preprocess
    postprocess_config: PostprocessConfig
    runner: Runner
    cell_strides: NDArray[np.float32]  # [T]
    manifest: Manifest | None = None  # None when made straight from a checkpoint

    def __call__(self, image: Image) -> Instances:
        """The instances in `image`, [H, W, 3] uint8 RGB of any size, best first."""
        return self.run(image)[0]

    @property
    def batch_size(self) -> int:
        """Images that go through the network at once."""
        return self.runner.inputs[0].shape[0]

    def run(self, image: Image) -> tuple[Instances, StageTimes]:
        """The instances in `image`, [H, W, 3] uint8 RGB, and how long each stage took.

        Rendering the masks is not part of it: that happens when they are asked for.

        Raises:
            ValueError: not such an image.
        """
        start = time.perf_counter()
        if self.runner.frames is not None:
            geometry = self._geometry(image)
            result, on_device = self.runner.frames.segment(image, geometry)
            found = self._from_frame(result, geometry)
            total_ms = 1000.0 * (time.perf_counter() - start)
            first, second, _ = on_device
            # What the device did not spend on those, the host and the way back took.
            return found, StageTimes(first, second, max(total_ms - first - second, 0.0))
        return self.finish(self.start([image]))[0]

    def run_on_host(self, image: Image) -> Instances:
        """As `run`, but nothing except the network on the device: what its kernels are checked against."""
        geometry = self._geometry(image)
        outputs = self.runner.infer({"image": self._prepare([image])})
        return self._instances(outputs, 0, geometry)

    def start(self, images: Sequence[Image]) -> Started:
        """Send images through the network: the first half of `run`, for up to `batch_size` images.

        `finish` may run in another thread than `start`. What is returned has to be finished before the
        call after the next one.

        Raises:
            ValueError: no image, more than `batch_size`, or one that is not [H, W, 3] uint8.
        """
        if not 1 <= len(images) <= self.batch_size:
            raise ValueError(f"the engine takes 1 to {self.batch_size} images, got {len(images)}")
        geometries = tuple(self._geometry(image) for image in images)
        if self.runner.frames is not None:
            self.runner.frames.submit(images[0], geometries[0])
            return Started(geometries, None, 0.0, 0.0)
        begin = time.perf_counter()
        batch = self._prepare(images)
        prepared = time.perf_counter()
        outputs = self.runner.infer({"image": batch})
        if not self.runner.lasting:
            outputs = {name: values.copy() for name, values in outputs.items()}
        inferred = time.perf_counter()
        times = (1000.0 * (prepared - begin), 1000.0 * (inferred - prepared))
        return Started(geometries, outputs, *times)

    def finish(self, started: Started) -> list[tuple[Instances, StageTimes]]:
        """The instances in each image that `start` was given, in that order: the second half of `run`.

        The times of preprocessing and network are the batch's, divided by its images.
        """
        if started.outputs is None:
            assert self.runner.frames is not None
            return [self._collect(self.runner.frames, started.geometries[0])]
        count = len(started.geometries)
        shared = started.preprocess_ms / count, started.network_ms / count
        results = []
        for i, geometry in enumerate(started.geometries):
            begin = time.perf_counter()
            found = self._instances(started.outputs, i, geometry)
            times = StageTimes(*shared, 1000.0 * (time.perf_counter() - begin))
            results.append((found, times))
        return results

    def run_all(self, images: Iterable[Image]) -> Iterator[tuple[Instances, StageTimes]]:
        """As `run` for one image after the other, for throughput.

        Where the runner can, the next image is on its way while one is worked on, and `batch_size`
        images go through the network together; a result may be given out only when images after it
        have been taken. The times are those of the stages themselves, which may overlap. Call
        nothing else of the engine until the last result is out.
        """
        images = iter(images)
        frames = self.runner.frames
        if frames is None:
            while batch := list(islice(images, self.batch_size)):
                yield from self.finish(self.start(batch))
            return
        under_way: deque[Geometry] = deque()
        try:
            for image in images:
                geometry = self._geometry(image)
                frames.submit(image, geometry)
                under_way.append(geometry)
                if len(under_way) == frames.depth:
                    yield self._collect(frames, under_way.popleft())
            while under_way:
                yield self._collect(frames, under_way.popleft())
        finally:
            frames.discard()  # whoever stops early leaves none behind for the next call

    def _prepare(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """The network's input, [B, 3, H, W]; where images are missing, it is padding."""
        if self.batch_size == 1:
            return self.preprocess(images[0])[0][np.newaxis]
        height, width = self.preprocess.input_size
        batch = np.zeros((self.batch_size, height, width, 3), dtype=np.float32)
        for place, image in zip(batch, images, strict=False):
            place[:] = self.preprocess(image)[0].transpose(1, 2, 0)
        return batch.transpose(0, 3, 1, 2)

    def _collect(self, frames: FrameRunner, geometry: Geometry) -> tuple[Instances, StageTimes]:
        result, times = frames.collect()
        return self._from_frame(result, geometry), times

    def _geometry(self, image: Image) -> Geometry:
        check_image(image)
        return self.preprocess.geometry((image.shape[0], image.shape[1]))

    def _from_frame(self, result: FrameResult, geometry: Geometry) -> Instances:
        config, names, count = self.postprocess_config, self.class_names, len(result.scores)
        labels = result.labels.astype(np.int64)
        return instances_from_slots(
            labels, result.scores, result.probabilities, count, config, geometry, names
        )

    def _instances(self, outputs: dict[str, NDArray[Any]], i: int, geometry: Geometry) -> Instances:
        """Those in image i of a batch."""
        config, names = self.postprocess_config, self.class_names
        if self.graph == "full":
            labels, scores, masks = (outputs[name][i] for name in ("labels", "scores", "masks"))
            count = int(outputs["valid_count"][i])
            return instances_from_slots(labels, scores, masks, count, config, geometry, names)
        return postprocess_arrays(
            outputs["category_scores"][i],
            outputs["mask_kernels"][i],
            outputs["mask_features"][i],
            self.cell_strides,
            config,
            geometry,
            names,
        )

    def close(self) -> None:
        """Give back memory and devices. Closing twice is fine."""
        self.runner.close()


def load_engine(path: str | Path, *, threads: int | None = None, **thresholds: Any) -> Engine:
    """The engine in a folder made by `solo-edge build-engine`.

    Every file is compared with its SHA-256 in the manifest before anything is loaded.

    Args:
        path: the folder.
        threads: CPU threads of the network; None is one for each core.
        thresholds: fields of `PostprocessConfig` that replace the stored ones.

    Raises:
        UsageError: nothing there; an unknown threshold, or one that is built into the engine's graph.
        ArtifactError: no engine, damaged, or made for another machine.
        ResourceError: the backend's package or device is missing.
    """
    folder = Path(path)
    refuse_portable(folder)
    manifest = read_manifest(folder)
    config = _with_thresholds(manifest.postprocess, thresholds)
    if manifest.graph == "full" and manifest.backend != "torch" and config != manifest.postprocess:
        what = "the thresholds of a full graph are built in"
        fix = "build it again with these thresholds, or with --graph network"
        raise UsageError(what, where=folder, fix=fix)
    runner = open_runner(folder, manifest, config, threads)
    inputs, outputs = describe_tensors(manifest.model, manifest.graph, config, manifest.batch)
    try:
        check_tensors("input", inputs, runner.inputs, folder)
        check_tensors("output", outputs, runner.outputs, folder)
    except ArtifactError:
        runner.close()
        raise
    return Engine(
        name=manifest.name,
        backend=manifest.backend,
        precision=runner.fallback or manifest.precision,
        graph=manifest.graph,
        class_names=manifest.class_names,
        category_ids=manifest.category_ids,
        preprocess=manifest.preprocess,
        postprocess_config=config,
        runner=runner,
        cell_strides=manifest.cell_strides,
        manifest=manifest,
    )


def open_runner(
    folder: Path, manifest: Manifest, config: PostprocessConfig, threads: int | None
) -> Runner:
    """Check the files of an engine folder, then load them with the backend that it was built for."""
    if manifest.backend == "tensorrt":
        from solo_edge.runtime.tensorrt_runner import open_tensorrt

        return open_tensorrt(folder, manifest, config)
    file = verify(folder, manifest)
    if manifest.backend == "openvino":
        from solo_edge.runtime.openvino_runner import OpenVINORunner

        return OpenVINORunner(file, precision=manifest.precision, threads=threads)
    if manifest.backend == "onnxruntime":
        from solo_edge.runtime.onnx_runner import OnnxRunner

        return OnnxRunner(file, threads=threads)
    from solo_edge.runtime.torch_runner import TorchRunner, open_checkpoint

    return TorchRunner(
        open_checkpoint(file).model,
        graph=manifest.graph,
        precision=manifest.precision,
        config=config,
        batch=manifest.batch,
        threads=threads,
    )


def open_predictor(path: str | Path, *, threads: int | None = None, **thresholds: Any) -> Engine:
    """An engine folder as `load_engine` opens it; or a checkpoint or training run, in PyTorch and float32.

    Raises:
        As `load_engine`. A checkpoint needs PyTorch (ResourceError).
    """
    path = Path(path)
    refuse_portable(path)
    if path.is_dir() and not any(path.glob("*.safetensors")) and not (path / MANIFEST).exists():
        what = "this is neither an engine folder nor a training run"
        raise ArtifactError(what, where=path, fix=HOW_TO_BUILD)
    if (path / MANIFEST).exists():
        return load_engine(path, threads=threads, **thresholds)
    if not path.exists():
        raise UsageError("engine or checkpoint not found", where=path, fix="check the path")
    from solo_edge.runtime.torch_runner import TorchRunner, open_checkpoint

    config = _with_thresholds(PostprocessConfig(), thresholds)
    checkpoint = open_checkpoint(path)
    return Engine(
        name=path.name if path.is_dir() else path.stem,
        backend="torch",
        precision="fp32",
        graph="network",
        class_names=checkpoint.class_names,
        category_ids=checkpoint.category_ids,
        preprocess=checkpoint.preprocess,
        postprocess_config=config,
        runner=TorchRunner(checkpoint.model, config=config, threads=threads),
        cell_strides=cell_strides(checkpoint.config),
    )


def _with_thresholds(config: PostprocessConfig, thresholds: dict[str, Any]) -> PostprocessConfig:
    return from_dict(PostprocessConfig, {**dataclasses.asdict(config), **thresholds})
