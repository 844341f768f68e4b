"""Engines: from an image to instances, whatever runs the network."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

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

__all__ = ["Engine", "StageTimes", "load_engine", "open_predictor", "open_runner"]


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

    def __call__(self, image: NDArray[np.uint8]) -> Instances:
        """The instances in `image`, [H, W, 3] uint8 RGB of any size, best first."""
        return self.run(image)[0]

    def run(self, image: NDArray[np.uint8]) -> tuple[Instances, StageTimes]:
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
        prepared, geometry = self.preprocess(image)
        prepared_at = time.perf_counter()
        outputs = self.runner.infer({"image": prepared[np.newaxis]})
        inferred_at = time.perf_counter()
        found = self._instances(outputs, geometry)
        end = time.perf_counter()
        times = (prepared_at - start, inferred_at - prepared_at, end - inferred_at)
        return found, StageTimes(*(1000.0 * seconds for seconds in times))

    def run_all(
        self, images: Iterable[NDArray[np.uint8]]
    ) -> Iterator[tuple[Instances, StageTimes]]:
        """As `run` for one image after the other, for throughput.

        Where the runner can, the next image is on its way while one is worked on; a result is given
        out when the image after it has been sent. The times are those of the stages themselves, which
        overlap. Call nothing else of the engine until the last result is out.
        """
        frames = self.runner.frames
        if frames is None:
            yield from map(self.run, images)
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

    def _collect(self, frames: FrameRunner, geometry: Geometry) -> tuple[Instances, StageTimes]:
        result, times = frames.collect()
        return self._from_frame(result, geometry), times

    def _geometry(self, image: NDArray[np.uint8]) -> Geometry:
        check_image(image)
        return self.preprocess.geometry((image.shape[0], image.shape[1]))

    def _from_frame(self, result: FrameResult, geometry: Geometry) -> Instances:
        config, names, count = self.postprocess_config, self.class_names, len(result.scores)
        labels = result.labels.astype(np.int64)
        return instances_from_slots(
            labels, result.scores, result.probabilities, count, config, geometry, names
        )

    def _instances(self, outputs: dict[str, NDArray[Any]], geometry: Geometry) -> Instances:
        config, names = self.postprocess_config, self.class_names
        if self.graph == "full":
            labels, scores, masks = (outputs[name][0] for name in ("labels", "scores", "masks"))
            count = int(outputs["valid_count"][0])
            return instances_from_slots(labels, scores, masks, count, config, geometry, names)
        return postprocess_arrays(
            outputs["category_scores"][0],
            outputs["mask_kernels"][0],
            outputs["mask_features"][0],
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
    inputs, outputs = describe_tensors(manifest.model, manifest.graph, config)
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
