"""INT8 without pairs in the graph, for TensorRT 10 and its DLA: a calibrator, and our ranges instead of one.

With implicit INT8 a graph stays as it is, TensorRT is told one range for each tensor and decides itself
which layers become INT8. TensorRT 11 has lost it, and before that pairs in the graph
(`solo_edge.calibration.qdq`) are better on a GPU: they say which layers, and their weights have a scale
for each channel just as well. What remains for this module is the DLA of JetPack 6, which takes no pairs.

The network must be weakly typed, that is, created without STRONGLY_TYPED, from a float32 graph. Its
ranges come from one of:

- `make_calibrator`: TensorRT runs the images itself and keeps what it found in a file;
- `write_cache_text`: our ranges in the format of its cache, for `trtexec --calib` too;
- `set_ranges`: our ranges, tensor by tensor.

A layer becomes INT8 only if all that it reads *and writes* has a range. Those in a file of
`solo-edge calibrate` are of what convolutions read: enough where the next layer is a convolution, not
before a norm. `collect(graph, float_tensors(graph), images)` measures all.

TensorRT is imported by the caller and given as `trt`.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.calibration.observers import LEVELS
from solo_edge.calibration.qdq import placement
from solo_edge.calibration.ranges import Ranges
from solo_edge.errors import ArtifactError, DataError, ResourceError
from solo_edge.files import read_json, write_json

__all__ = [
    "Algorithm",
    "CalibrationFile",
    "DeviceMemory",
    "float_tensors",
    "make_calibrator",
    "read_cache_text",
    "require_implicit_int8",
    "set_ranges",
    "tensor_limits",
    "use_implicit_int8",
    "write_cache_text",
]

log = logging.getLogger(__name__)

Algorithm = Literal["entropy", "minmax"]
CLASSES: dict[Algorithm, str] = {
    "entropy": "IInt8EntropyCalibrator2",
    "minmax": "IInt8MinMaxCalibrator",
}
HEADERS: dict[Algorithm, str] = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}
FORMAT = 1  # of CalibrationFile


def require_implicit_int8(trt: Any) -> None:
    """Raise ResourceError if this TensorRT has no implicit INT8."""
    if not hasattr(trt, CLASSES["entropy"]) or not hasattr(trt.BuilderFlag, "INT8"):
        what = f"TensorRT {trt.__version__} has no calibrators and no implicit INT8"
        raise ResourceError(what, fix="use INT8 with pairs in the graph: build with --calib")


def use_implicit_int8(trt: Any, config: Any, calibrator: Any = None) -> None:
    """Let the builder choose INT8, and float16 where there is no range.

    Args:
        config: an `IBuilderConfig`.
        calibrator: of `make_calibrator`; None if the network has ranges.

    Raises:
        ResourceError: this TensorRT has no implicit INT8.
    """
    require_implicit_int8(trt)
    config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.FP16)
    if calibrator is not None:
        config.int8_calibrator = calibrator


def float_tensors(model: onnx.ModelProto) -> tuple[str, ...]:
    """What may have a range: all of a float32 graph that is computed from its inputs."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    computed = {value.name for value in graph.input}
    for node in graph.node:
        if computed.intersection(node.input):
            computed.update(node.output)
    order = [*(value.name for value in graph.input), *(n for x in graph.node for n in x.output)]
    return tuple(
        name for name in order if name in computed and kinds.get(name) == onnx.TensorProto.FLOAT
    )


def tensor_limits(model: onnx.ModelProto, ranges: Mapping[str, float]) -> dict[str, float]:
    """Ranges by site, as in a file of `solo-edge calibrate`, by the tensors of one graph.

    Raises:
        ArtifactError: one is missing.
    """
    sites = placement(model).sites
    for site in sites.values():
        if site not in ranges:
            raise ArtifactError(f"there is no range of {site}", fix="calibrate again")
    return {tensor: ranges[site] for tensor, site in sites.items()}


def set_ranges(network: Any, limits: Mapping[str, float]) -> tuple[str, ...]:
    """Tell TensorRT our ranges.

    Args:
        network: an `INetworkDefinition`, weakly typed.
        limits: tensor -> the absolute value that becomes 127.

    Returns:
        Names of the network's other tensors.

    Raises:
        ArtifactError: a range is no positive number, is of no tensor there, or TensorRT refuses it.
    """
    missing = set(limits)
    without = []
    for tensor in _tensors(network):
        limit = limits.get(tensor.name)
        if limit is None:
            without.append(str(tensor.name))
            continue
        missing.discard(tensor.name)
        if not tensor.set_dynamic_range(-_checked(tensor.name, limit), limit):
            raise ArtifactError(f"TensorRT refuses the range {limit} of {tensor.name}")
    if missing:
        what = f"the network has no tensor {min(missing)!r}"
        raise ArtifactError(what, fix="calibrate the checkpoint that the graph was exported from")
    return tuple(without)


def _tensors(network: Any) -> Iterator[Any]:
    for i in range(network.num_inputs):
        yield network.get_input(i)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        for k in range(layer.num_outputs):
            yield layer.get_output(k)


def _checked(name: str, limit: float) -> float:
    if not (math.isfinite(limit) and limit > 0):
        raise ArtifactError(f"the range of {name} is {limit}", fix="calibrate again")
    return limit


def write_cache_text(
    limits: Mapping[str, float], version: str, algorithm: Algorithm = "entropy"
) -> bytes:
    """Ranges as the cache of TensorRT's calibrator: scale = limit / 127 in hexadecimal.

    Args:
        limits: tensor -> the absolute value that becomes 127.
        version: `trt.__version__`. TensorRT 10 takes no cache of another version.
        algorithm: of the calibrator, or of `trtexec --calib` ("entropy"), that will read it.

    Raises:
        ArtifactError: a range is no positive number, or a name has a line break.
    """
    lines = [_header(version, algorithm)]
    for name, limit in limits.items():
        if "\n" in name:
            raise ArtifactError(f"the tensor name {name!r} fits no calibration cache")
        scale = np.float32(_checked(name, limit)) / np.float32(LEVELS)
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return ("\n".join(lines) + "\n").encode()


def read_cache_text(text: bytes) -> tuple[str, dict[str, float]]:
    """Header and ranges of a cache of TensorRT's calibrator.

    Raises:
        ArtifactError: it is none.
    """
    try:
        header, *lines = text.decode().splitlines()
        if not header.startswith("TRT-"):
            raise ValueError(header[:40])
        limits = {}
        for line in filter(None, lines):
            name, value = line.rsplit(": ", 1)
            # Leading zeros may be left out.
            scale = struct.unpack(">f", bytes.fromhex(value.rjust(8, "0")))[0]
            limits[name] = float(scale) * LEVELS
    except (ValueError, struct.error) as error:
        raise ArtifactError(f"this is no calibration cache of TensorRT ({error})") from error
    return header, limits


def _header(version: str, algorithm: Algorithm) -> str:
    """TRT-100300-EntropyCalibration2 for 10.3.0."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    return f"TRT-{10000 * major + 100 * minor + patch}-{HEADERS[algorithm]}"


@dataclass(frozen=True)
class CalibrationFile:
    """Where a calibrator keeps what it found, and of what it was found.

    TensorRT's own cache says nothing about model and images, and is used for any.
    """

    path: Path
    checkpoint_sha256: str
    preprocess: Mapping[str, Any]  # Preprocess.to_dict()
    images: Sequence[str]  # SHA-256 of each

    @classmethod
    def beside(cls, ranges: Ranges, path: Path) -> CalibrationFile:
        """Of the same model and images as `ranges`."""
        digests = [digest for _, digest in ranges.images]
        return cls(path, ranges.checkpoint_sha256, ranges.preprocess, digests)

    def read(self, header: str) -> bytes | None:
        """The cache, if it is of this model, these images, and TensorRT's version and algorithm."""
        if not self.path.exists():
            return None
        values = read_json(self.path, "calibration cache", ArtifactError)
        text = values.pop("cache", None)
        if values != self._key() or not isinstance(text, str):
            log.warning("%s: of another model or other images; calibrating anew", self.path)
            return None
        if not text.startswith(f"{header}\n"):
            log.warning("%s: of another TensorRT or algorithm; calibrating anew", self.path)
            return None
        return text.encode()

    def write(self, cache: bytes) -> None:
        write_json(self.path, {**self._key(), "cache": cache.decode()})

    def _key(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "checkpoint_sha256": self.checkpoint_sha256,
            "preprocess": json.loads(json.dumps(dict(self.preprocess))),  # as it is read again
            "images": sorted(self.images),
        }


class DeviceMemory(Protocol):
    """What of `solo_edge.runtime.cuda_driver.CudaDriver` a calibrator needs."""

    def allocate(self, size: int) -> int: ...

    def host_memory(self, size: int) -> NDArray[np.uint8]: ...

    def copy_to_device(self, address: int, array: NDArray[Any]) -> None: ...

    def synchronize(self) -> None: ...


def make_calibrator(
    trt: Any,
    driver: DeviceMemory,
    images: Iterable[NDArray[np.float32]],
    file: CalibrationFile,
    *,
    batch: int = 1,
    algorithm: Algorithm = "entropy",
) -> Any:
    """A calibrator for `use_implicit_int8`, for a network with the one input `image`.

    TensorRT swallows what a calibrator raises, and would build from the images until then. Call its
    `check()` behind the build, whether that succeeded or not.

    Args:
        driver: active in this thread until the build is over.
        images: [1, 3, H, W] each, prepared as for the network. Those that fill no batch are left out.
        batch: of the network's input.

    Raises:
        ResourceError: this TensorRT has no calibrators.
    """
    require_implicit_int8(trt)
    base: Any = getattr(trt, CLASSES[algorithm])
    header = _header(trt.__version__, algorithm)
    feed = _Feed(driver, images, batch)

    class Calibrator(base):
        def __init__(self) -> None:
            base.__init__(self)
            self.error: Exception | None = None

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: list[str]) -> list[int] | None:
            try:
                if self.error is not None:
                    return None
                if names != ["image"]:
                    raise ArtifactError(f"the network's inputs are {names}, not ['image']")
                address = feed.next()
            except Exception as error:
                self.error = error
                return None
            return None if address is None else [address]

        def read_calibration_cache(self) -> bytes | None:
            try:
                return file.read(header)
            except Exception as error:
                self.error = error
                return None

        def write_calibration_cache(self, cache: Any) -> None:
            try:
                if self.error is None:
                    file.write(bytes(cache))
            except Exception as error:
                self.error = error

        def check(self) -> None:
            """Raise what went wrong while TensorRT called."""
            if self.error is not None:
                raise self.error

    return Calibrator()


class _Feed:
    """Batches on the device, one after the other in the same memory."""

    def __init__(self, driver: DeviceMemory, images: Iterable[NDArray[np.float32]], batch: int):
        self._driver, self._images, self._batch = driver, iter(images), batch
        self._count = 0
        self._host: NDArray[Any] | None = None
        self._address = 0

    def next(self) -> int | None:
        """Address of the next batch; None if there is none."""
        batch = list(itertools.islice(self._images, self._batch))
        if len(batch) < self._batch:
            if self._count == 0:
                what = f"{len(batch)} images are no batch of {self._batch}"
                raise DataError(what, fix="calibrate with more images")
            return None
        if self._host is None:
            size = sum(image.nbytes for image in batch)
            self._host, self._address = self._driver.host_memory(size), self._driver.allocate(size)
        values = np.concatenate(batch)
        np.copyto(self._host.view(np.float32).reshape(values.shape), values, casting="no")
        self._driver.copy_to_device(self._address, self._host)
        self._driver.synchronize()
        self._count += 1
        return self._address
