"""Kernels compiled ahead of time, on a device that has neither Triton nor torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ArtifactError, ResourceError, UsageError, did_you_mean
from solo_edge.files import read_json, sha256_of
from solo_edge.kernels.aot_folder import FORMAT, KERNELS_FILE
from solo_edge.kernels.plan import Buffer
from solo_edge.runtime.cuda_driver import ArgumentKind, CudaDriver, Size3

__all__ = ["DeviceArray", "DeviceKernels", "KernelFolder", "read_kernels"]

HOW_TO_BUILD = "build it with solo-edge kernels build"
ALIGNMENT = 16  # of addresses; the kernels load several numbers at once
KINDS = ("pointer", "int32", "float32")


@dataclass(frozen=True)
class Variant:
    """One file of a kernel, and how it is launched."""

    file: str
    sha256: str
    compute_capability: tuple[int, int]
    newer_too: bool  # else for exactly that compute capability
    block: Size3
    shared_bytes: int

    def fits(self, compute_capability: tuple[int, int]) -> bool:
        same = compute_capability == self.compute_capability
        return same or (self.newer_too and compute_capability > self.compute_capability)


@dataclass(frozen=True)
class Kernel:
    """One kernel: its name in the files, which are in the order to try them."""

    entry: str
    variants: tuple[Variant, ...]


class Argument(NamedTuple):
    """A parameter's value: the name of a buffer, or a number."""

    name: str
    kind: ArgumentKind
    value: str | float


@dataclass(frozen=True)
class PlannedLaunch:
    """One launch of one kernel."""

    kernel: str
    grid: Size3
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class KernelFolder:
    """What `kernels.json` says."""

    folder: Path
    target: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buffers: Mapping[str, Buffer]
    kernels: Mapping[str, Kernel]
    launches: tuple[PlannedLaunch, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """The thresholds: parameters of kind float32, by name."""
        every = (argument for launch in self.launches for argument in launch.arguments)
        return {each.name: float(each.value) for each in every if each.kind == "float32"}


class DeviceArray(NamedTuple):
    """Memory on the device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class DeviceKernels:
    """The kernels of a folder on one device, with all memory that they need.

    Make and use it inside `with driver.active():`. The memory is the driver's and lives as long as it.

    Args:
        driver: an open device. Everything is queued on its stream.
        folder: written by `solo-edge kernels build`.
        inputs: address of each input that already lies on the device, such as TensorRT's outputs; a
            multiple of 16. The other inputs get memory here.
        numbers: thresholds instead of those that the folder was built with, by the parameter's name.

    Raises:
        UsageError: there is no such folder, input or threshold.
        ArtifactError: the folder is damaged, or no file in it is for this device.
        ResourceError: the device has not enough memory.
    """

    def __init__(
        self,
        driver: CudaDriver,
        folder: str | Path,
        *,
        inputs: Mapping[str, int] | None = None,
        numbers: Mapping[str, float] | None = None,
    ):
        self._driver = driver
        self._content = content = read_kernels(folder)
        given = dict(inputs or {})
        _check_names("input", given, content.inputs)
        for name, address in given.items():
            if address % ALIGNMENT:
                raise UsageError(f"the address of {name} is no multiple of {ALIGNMENT}")
        chosen = {**content.numbers, **(numbers or {})}
        _check_names("threshold", chosen, content.numbers)
        for name, number in chosen.items():
            if not math.isfinite(number):
                raise UsageError(f"{name} is {number}", fix="it must be a finite number")
        functions = {name: self._load(kernel) for name, kernel in content.kernels.items()}
        self.arrays: dict[str, DeviceArray] = {}
        for name, buffer in content.buffers.items():
            array = DeviceArray(given.get(name, 0), buffer.shape, np.dtype(buffer.dtype))
            if name not in given:
                array = array._replace(address=driver.allocate(array.size))
            self.arrays[name] = array
        self._zeroed = [
            self.arrays[name] for name, buffer in content.buffers.items() if buffer.zeroed
        ]
        self._launches = [
            (
                *functions[launch.kernel],
                launch.grid,
                [(each.kind, self._value(each, chosen)) for each in launch.arguments],
            )
            for launch in content.launches
        ]
        self._host: dict[str, NDArray[Any]] = {}

    @property
    def inputs(self) -> dict[str, DeviceArray]:
        """Where the inputs are read from."""
        return {name: self.arrays[name] for name in self._content.inputs}

    @property
    def outputs(self) -> dict[str, DeviceArray]:
        """Where the outputs are written to."""
        return {name: self.arrays[name] for name in self._content.outputs}

    def queue(self) -> None:
        """Queue one run; `CudaDriver.capture` can make a graph of it, alone or with what comes before."""
        for array in self._zeroed:
            self._driver.zero(array.address, array.size)
        for function, variant, grid, arguments in self._launches:
            self._driver.launch(function, grid, variant.block, variant.shared_bytes, arguments)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Copy the inputs to the device, run, wait, and copy the outputs back.

        Args:
            inputs: arrays of the shapes and types that `self.inputs` says; those that are absent
                already lie on the device.

        Returns:
            The outputs, in memory that the next call uses again.
        """
        _check_names("input", inputs, self._content.inputs)
        for name, value in inputs.items():
            array = self.arrays[name]
            if value.shape != array.shape or value.dtype != array.dtype:
                what = f"{name} must be {array.dtype} {list(array.shape)}"
                raise UsageError(f"{what}, got {value.dtype} {list(value.shape)}")
            np.copyto(self._host_array(name), value)
            self._driver.copy_to_device(array.address, self._host_array(name))
        self.queue()
        results = {name: self._host_array(name) for name in self._content.outputs}
        for name, result in results.items():
            self._driver.copy_from_device(result, self.arrays[name].address)
        self._driver.synchronize()
        return results

    def _host_array(self, name: str) -> NDArray[Any]:
        if name not in self._host:
            array = self.arrays[name]
            memory = self._driver.host_memory(array.size)
            self._host[name] = memory.view(array.dtype).reshape(array.shape)
        return self._host[name]

    def _value(self, argument: Argument, numbers: Mapping[str, float]) -> float:
        if argument.kind == "pointer":
            return self.arrays[cast(str, argument.value)].address
        return cast(float, numbers[argument.name] if argument.kind == "float32" else argument.value)

    def _load(self, kernel: Kernel) -> tuple[Any, Variant]:
        """The first of the kernel's files that is for this device and that its driver takes."""
        major, _, minor = self._driver.compute_capability.partition(".")
        here = int(major), int(minor)
        folder, refused = self._content.folder, []
        for variant in kernel.variants:
            if not variant.fits(here):
                continue
            image = (folder / variant.file).read_bytes()
            try:
                function = self._driver.load_function(
                    image, kernel.entry, shared_bytes=variant.shared_bytes
                )
            except ResourceError as error:
                refused.append(f"{variant.file}: {error.what}")
                continue
            return function, variant
        gpu = f"{self._driver.device_name} ({self._driver.compute_capability})"
        detail = f": {'; '.join(refused)}" if refused else ""
        what = f"no file of {kernel.entry} is for {gpu}{detail}"
        raise ArtifactError(what, where=folder, fix="build the kernels for this GPU")


def read_kernels(folder: str | Path) -> KernelFolder:
    """Read `kernels.json` and check every file that it names.

    Raises:
        UsageError: there is no such folder.
        ArtifactError: it is no folder of kernels, or a file is missing or not what it was.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError("folder of kernels not found", where=folder, fix="check the path")
    path = folder / KERNELS_FILE
    if not path.is_file():
        raise ArtifactError("this is no folder of kernels", where=folder, fix=HOW_TO_BUILD)
    values = read_json(path, "kernel folder's description", ArtifactError)
    if values.get("format") != FORMAT:
        what = f"format {values.get('format')!r}, this version reads {FORMAT}"
        raise ArtifactError(what, where=path, fix=HOW_TO_BUILD)
    with _damage_is_an_error(path):
        content = _decode(folder, values)
    for variant in (each for kernel in content.kernels.values() for each in kernel.variants):
        file = folder / variant.file
        if not file.is_file():
            raise ArtifactError("file is missing", where=file, fix=HOW_TO_BUILD)
        if sha256_of(file) != variant.sha256:
            what = "SHA-256 differs: the file is not the one that was built"
            raise ArtifactError(what, where=file, fix=HOW_TO_BUILD)
    return content


@contextmanager
def _damage_is_an_error(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise ArtifactError(f"{error} is missing", where=path, fix=HOW_TO_BUILD) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(f"damaged ({error})", where=path, fix=HOW_TO_BUILD) from None


def _decode(folder: Path, values: dict[str, Any]) -> KernelFolder:
    buffers = {
        name: Buffer(_sizes(each["shape"]), np.dtype(each["dtype"]).name, bool(each["zeroed"]))
        for name, each in values["buffers"].items()
    }
    kernels = {
        name: Kernel(str(each["entry"]), tuple(_variant(v) for v in each["variants"]))
        for name, each in values["kernels"].items()
    }
    launches = tuple(_launch(each, kernels, buffers) for each in values["launches"])
    inputs, outputs = tuple(values["inputs"]), tuple(values["outputs"])
    for name in (*inputs, *outputs):
        if name not in buffers:
            raise ValueError(f"no buffer {name!r}")
    return KernelFolder(folder, str(values["target"]), inputs, outputs, buffers, kernels, launches)


def _variant(values: dict[str, Any]) -> Variant:
    file = str(values["file"])
    if Path(file).name != file:
        raise ValueError(f"{file!r} is no plain file name")
    major, _, minor = str(values["compute_capability"]).partition(".")
    return Variant(
        file,
        str(values["sha256"]),
        (int(major), int(minor)),
        bool(values["newer_too"]),
        _three(values["block"]),
        int(values["shared_bytes"]),
    )


def _launch(
    values: dict[str, Any], kernels: Mapping[str, Kernel], buffers: Mapping[str, Buffer]
) -> PlannedLaunch:
    if values["kernel"] not in kernels:
        raise ValueError(f"no kernel {values['kernel']!r}")
    arguments = []
    for each in values["arguments"]:
        kind = each["kind"]
        if kind not in KINDS:
            raise ValueError(f"unknown kind {kind!r}")
        value = each["buffer" if kind == "pointer" else "value"]
        if kind == "pointer" and value not in buffers:
            raise ValueError(f"no buffer {value!r}")
        if kind != "pointer" and not isinstance(value, (int, float)):
            raise ValueError(f"{each['name']} is {value!r}")
        arguments.append(Argument(str(each["name"]), kind, value))
    return PlannedLaunch(values["kernel"], _three(values["grid"]), tuple(arguments))


def _sizes(values: Any) -> tuple[int, ...]:
    sizes = tuple(values)
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{values!r} are no sizes")
    return sizes


def _three(values: Any) -> Size3:
    x, y, z = _sizes(values)
    return x, y, z


def _check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"the kernels have no {what} {name!r}", fix=did_you_mean(name, known))
