"""Whole frames on a CUDA GPU without TensorRT: bytes in host memory to masks in host memory.

    python benchmarks/gpu_frame.py                  # writes benchmarks/results/<gpu>-frames.{csv,json}
    python benchmarks/gpu_frame.py --check-only

Everything is the TensorRT runner's own (`runtime.frame_pipeline`): buffers, copies, compiled kernels, events,
graphs, overlap; through cuda-bindings and through PyCUDA, whichever are installed. Only the network is
another:

    torch     PyTorch, as a CUDA graph of its own: the frame is one graph between launches of ours
    given     none: its outputs lie on the device already, so the frame is one graph of our kernels alone

Both are checked against the CPU (OpenCV, PyTorch in float32, NumPy) on every image before anything is timed.
Without a GPU the script goes as far as it can: it compiles the kernels and computes what they should find.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import solo_edge
from solo_edge import environment
from solo_edge.checkpoint import Checkpoint, load_checkpoint
from solo_edge.config import PostprocessConfig
from solo_edge.data.synthetic.scene import render_scene
from solo_edge.errors import ResourceError
from solo_edge.export.device_files import write_kernels
from solo_edge.files import write_json
from solo_edge.instances import Instances
from solo_edge.kernels.aot_targets import find_target, target_for
from solo_edge.kernels.tiles import gpu_slug
from solo_edge.manifest import cell_strides, describe_tensors
from solo_edge.postprocess import instances_from_slots, network_tensors, postprocess_arrays
from solo_edge.runtime.base import FrameResult
from solo_edge.runtime.cuda_driver import CudaDriver
from solo_edge.runtime.device_kernels import DeviceArray, LoadedKernels
from solo_edge.runtime.frame_pipeline import FramePipeline

RESULTS = Path(__file__).parent / "results"
DEMO = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
SMALLEST_IOU = {"fp32": 0.999, "fp16": 0.98}
LARGEST_SCORE_ERROR = {"fp32": 1e-3, "fp16": 2e-2}
Images = Sequence[np.ndarray[Any, np.dtype[np.uint8]]]


class Reference:
    """What the CPU finds: the model in float32 between OpenCV and NumPy."""

    def __init__(self, loaded: Checkpoint, images: Images):
        self.config = PostprocessConfig()
        self.outputs: list[tuple[np.ndarray[Any, Any], ...]] = []
        self.found: list[Instances] = []
        for image in images:
            prepared, geometry = loaded.preprocess(image)
            with torch.no_grad():
                raw = loaded.model.eval()(torch.from_numpy(prepared)[None])
            arrays = tuple(tensor.numpy() for tensor in network_tensors(raw))
            self.outputs.append(arrays)
            scores, mask_kernels, features = (array[0] for array in arrays[:3])
            found = postprocess_arrays(
                scores, mask_kernels, features, arrays[3], self.config, geometry, loaded.class_names
            )
            self.geometry = geometry  # the images have one size
            self.found.append(found)


class TorchNetwork:
    """The model on torch's side of the driver's stream, replayed from a graph of its own."""

    capturable = False  # a graph cannot hold another one's launch

    def __init__(
        self, driver: CudaDriver, loaded: Checkpoint, config: PostprocessConfig, kind: Any
    ):
        from solo_edge.runtime.graphs import graph_module

        module = graph_module(loaded.model, "network", kind, config).cuda()
        inputs, outputs = describe_tensors(loaded.config, "network", config)
        self._stream = torch.cuda.ExternalStream(driver.stream)
        self._image = torch.zeros(inputs[0].shape, device="cuda")
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(3):
                module(self._image)
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._made = [tensor.float().contiguous() for tensor in module(self._image)]
        every = zip((*inputs, *outputs), (self._image, *self._made), strict=True)
        self.tensors = {
            spec.name: DeviceArray(tensor.data_ptr(), spec.shape, np.dtype(spec.dtype))
            for spec, tensor in every
        }

    def queue(self) -> None:
        with torch.cuda.stream(self._stream):
            self._graph.replay()


class GivenNetwork:
    """Outputs that were computed elsewhere; `give` sets them."""

    capturable = True

    def __init__(self, driver: CudaDriver, loaded: Checkpoint, config: PostprocessConfig):
        self._driver = driver
        inputs, outputs = describe_tensors(loaded.config, "network", config)
        self._names = [spec.name for spec in outputs]
        self.tensors, self._host = {}, {}
        for spec in (*inputs, *outputs):
            array = DeviceArray(0, spec.shape, np.dtype(spec.dtype))
            self.tensors[spec.name] = array._replace(address=driver.allocate(array.size, spec.name))
            memory = driver.host_memory(array.size, spec.name)
            self._host[spec.name] = memory.view(array.dtype).reshape(array.shape)

    def give(self, outputs: Sequence[np.ndarray[Any, Any]]) -> None:
        for name, array in zip(self._names, outputs, strict=False):
            np.copyto(self._host[name], array)
            self._driver.copy_to_device(self.tensors[name].address, self._host[name])
        self._driver.synchronize()

    def image(self) -> np.ndarray[Any, Any]:
        """What preprocessing handed over, [3, height, width]."""
        self._driver.copy_from_device(self._host["image"], self.tensors["image"].address)
        self._driver.synchronize()
        image: np.ndarray[Any, Any] = self._host["image"][0]
        return image

    def queue(self) -> None:
        """Nothing is left to be done."""


def drivers() -> dict[str, Callable[[], CudaDriver]]:
    """Those that are installed."""
    from solo_edge.runtime.cuda_bindings_driver import CudaBindings
    from solo_edge.runtime.pycuda_driver import PyCuda

    found: dict[str, Callable[[], CudaDriver]] = {}
    for name, kind in (("cuda-bindings", CudaBindings), ("pycuda", PyCuda)):
        try:
            kind().close()
        except ImportError:
            print(f"{name} is not installed, and left out")
        else:
            found[name] = kind
    return found


@contextmanager
def opened(kind: Callable[[], CudaDriver]) -> Iterator[CudaDriver]:
    with kind() as driver, driver.active():
        yield driver


def require_same(result: FrameResult, reference: Reference, i: int, kind: str, names: Any) -> float:
    """The smallest IoU of two masks.

    Raises:
        SystemExit: the GPU found something else than the CPU.
    """
    wanted = reference.found[i]
    found = instances_from_slots(
        result.labels.astype(np.int64), result.scores, result.probabilities, len(result.scores),
        reference.config, reference.geometry, names,
    )  # fmt: skip
    if len(found) != len(wanted) or not (found.labels == wanted.labels).all():
        raise SystemExit(f"image {i}: {len(found)} instances or other labels, not {len(wanted)}")
    error = float(np.abs(found.scores - wanted.scores).max(initial=0.0))
    pairs = zip(found.masks, wanted.masks, strict=True)
    ious = [float((a & b).sum() / max((a | b).sum(), 1)) for a, b in pairs]
    smallest = min(ious, default=1.0)
    if error > LARGEST_SCORE_ERROR[kind] or smallest < SMALLEST_IOU[kind]:
        raise SystemExit(f"image {i}: scores differ by {error:.2e}, smallest IoU {smallest:.4f}")
    return smallest


def require_close(found: np.ndarray[Any, Any], loaded: Checkpoint, image: Any) -> None:
    """Raise SystemExit unless the network's input is within one grey level of OpenCV's."""
    difference = np.abs(found - loaded.preprocess(image)[0])
    levels = float((difference.max(axis=(1, 2)) * loaded.preprocess.pixel_std).max())
    if levels > 1.001:
        raise SystemExit(f"preprocessing differs by {levels:.2f} grey levels")


def timed(pipeline: FramePipeline, images: Images, geometry: Any, frames: int) -> dict[str, float]:
    """Stages and latency frame by frame; then the rate with frames that overlap."""
    rows, latency = [], []
    for i in range(frames):
        start = time.perf_counter()
        _, times = pipeline.segment(images[i % len(images)], geometry)
        latency.append(1000.0 * (time.perf_counter() - start))
        rows.append(times)
    row = {}
    for name, values in (
        *zip(rows[0]._fields, zip(*rows, strict=True), strict=True),
        ("latency_ms", latency),
    ):
        ordered = sorted(values)[len(values) // 10 :]  # the first frames capture graphs
        stem = name.removesuffix("_ms")
        row[f"{stem}_p50_ms"] = round(statistics.median(ordered), 4)
        row[f"{stem}_p99_ms"] = round(ordered[int(0.99 * (len(ordered) - 1))], 4)
    start = time.perf_counter()
    for i in range(frames):
        pipeline.submit(images[i % len(images)], geometry)
        if i + 1 >= pipeline.depth:
            pipeline.collect()
    for _ in range(pipeline.depth - 1):
        pipeline.collect()
    row["fps_overlapped"] = round(frames / (time.perf_counter() - start), 2)
    row["fps_one_by_one"] = round(1000.0 / statistics.mean(latency), 2)
    return row


def measure(
    loaded: Checkpoint, images: Images, options: argparse.Namespace, folder: Path
) -> list[dict[str, Any]]:
    reference, rows = Reference(loaded, images), []
    config = reference.config
    geometry = reference.geometry
    for driver_name, kind in drivers().items():
        for network_name in ("given", "torch"):
            with opened(kind) as driver:
                kernels = LoadedKernels(driver, folder)
                given = GivenNetwork(driver, loaded, config) if network_name == "given" else None
                network = given or TorchNetwork(driver, loaded, config, options.precision)
                strides = cell_strides(loaded.config)
                pipeline = FramePipeline(driver, network, kernels, config, strides)
                precision, smallest = "fp32" if given else options.precision, 1.0
                for i, image in enumerate(images):
                    if given:
                        given.give(reference.outputs[i])
                    for _ in range(3):  # both slots, first without the graph and then with it
                        result, _ = pipeline.segment(image, geometry)
                        iou = require_same(result, reference, i, precision, loaded.class_names)
                        smallest = min(smallest, iou)
                    if given:
                        require_close(given.image(), loaded, image)
                row = {"driver": driver_name, "network": network_name, "precision": precision}
                row |= {
                    "frame": "x".join(map(str, images[0].shape[:2])),
                    "graph": driver.has_graphs,
                }
                row["smallest_iou"] = round(smallest, 6)
                if not options.check_only:
                    row |= timed(pipeline, images, geometry, options.frames)
                print(row)
                rows.append(row)
    return rows


def write_results(stem: Path, rows: list[dict[str, Any]]) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(stem.with_suffix(".json"), {**environment.describe(), "rows": rows})
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {stem}.json, {stem}.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, default=DEMO)
    parser.add_argument("--size", type=int, nargs=2, default=(1080, 1920), metavar=("H", "W"))
    parser.add_argument("--precision", choices=sorted(SMALLEST_IOU), default="fp32")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--check-only", action="store_true", help="time nothing")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = [render_scene(rng, tuple(options.size)).image for _ in range(4)]
    loaded = load_checkpoint(options.checkpoint)
    with tempfile.TemporaryDirectory(prefix="frames-") as name:
        folder = Path(name)
        if not torch.cuda.is_available():
            write_kernels(
                folder, loaded.config, PostprocessConfig(), find_target("orin"), report=print
            )
            LoadedKernels(None, folder)  # type: ignore[arg-type]  # reads and checks every file
            found = [len(each) for each in Reference(loaded, images[:1]).found]
            raise SystemExit(
                f"no CUDA GPU here; the kernels compile, the CPU finds {found} instances"
            )
        # Convolutions would otherwise be computed in TF32, with 10 bits.
        torch.backends.cudnn.allow_tf32 = False
        target = target_for("{}.{}".format(*torch.cuda.get_device_capability()))
        write_kernels(folder, loaded.config, PostprocessConfig(), target, report=print)
        try:
            rows = measure(loaded, images, options, folder)
        except ResourceError as error:
            raise SystemExit(str(error)) from error
    if not rows:
        raise SystemExit("neither cuda-bindings nor PyCUDA is installed")
    if not options.check_only:
        write_results(options.out / f"{gpu_slug(torch.cuda.get_device_name())}-frames", rows)


if __name__ == "__main__":
    main()
