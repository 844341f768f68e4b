"""Kernels compiled ahead of time, on a device that has neither Triton nor torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.runtime.cuda_driver import CudaDriver
from solo_edge.runtime.kernel_folder import (
    Argument,
    Kernel,
    KernelFolder,
    Variant,
    check_names,
    read_kernels,
)

__all__ = ["DeviceArray", "DeviceKernels", "LoadedKernels"]

ALIGNMENT = 16  # of addresses; the kernels load several numbers at once


class DeviceArray(NamedTuple):
    """Memory on the device."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


class LoadedKernels:
    """The kernels of a folder, loaded by one device's driver. For several `DeviceKernels`.

    Raises:
        UsageError: there is no such folder.
        ArtifactError: the folder is damaged.
    """

    def __init__(self, driver: CudaDriver, folder: str | Path | KernelFolder):
        self.driver = driver
        self.content = folder if isinstance(folder, KernelFolder) else read_kernels(folder)
        self._functions: dict[str, tuple[Any, Variant]] = {}

    def function(self, name: str) -> tuple[Any, Variant]:
        """The kernel of that name, ready for launching, and the file that it is from.

        Raises:
            ArtifactError: no file is for this device, or its driver takes none.
        """
        if name not in self._functions:
            self._functions[name] = self._load(self.content.kernels[name])
        return self._functions[name]

    def _load(self, kernel: Kernel) -> tuple[Any, Variant]:
        """The first of the kernel's files that is for this device and that its driver takes."""
        driver, folder, refused = self.driver, self.content.folder, []
        for variant in kernel.variants:
            if not variant.fits(driver.compute_capability):
                continue
            image = (folder / variant.file).read_bytes()
            shared = variant.shared_bytes
            try:
                function = driver.load_function(image, kernel.entry, shared_bytes=shared)
            except ResourceError as error:
                if driver.lost:
                    raise
                refused.append(f"{variant.file}: {error.what}")
                continue
            return function, variant
        gpu = f"{driver.device_name} ({driver.compute_capability})"
        detail = f": {'; '.join(refused)}" if refused else ""
        what = f"no file of {kernel.entry} is for {gpu}{detail}"
        raise ArtifactError(what, where=folder, fix="build the kernels for this GPU")


class DeviceKernels:
    """One plan of a folder of kernels on one device, with all memory that it needs.

    Make and use it inside `with driver.active():`. The memory is the driver's and lives as long as it.

    Args:
        driver: an open device. Everything is queued on its stream for computing.
        folder: written by `solo-edge kernels build`; or what is loaded of it already.
        plan: which of its plans.
        memory: address of each buffer that already lies on the device, such as TensorRT's outputs or
            scratch memory of other kernels of the same stream; a multiple of 16. The other buffers
            get memory here.
        numbers: thresholds instead of those that the folder was built with, by the parameter's name.

    Raises:
        UsageError: there is no such folder, plan, buffer or threshold.
        ArtifactError: the folder is damaged, or no file in it is for this device.
        ResourceError: the device has not enough memory.
    """

    def __init__(
        self,
        driver: CudaDriver,
        folder: str | Path | LoadedKernels,
        plan: str = "postprocess",
        *,
        memory: Mapping[str, int] | None = None,
        numbers: Mapping[str, float] | None = None,
    ):
        self._driver = driver
        loaded = folder if isinstance(folder, LoadedKernels) else LoadedKernels(driver, folder)
        self.plan = loaded.content.plan(plan)
        given = dict(memory or {})
        check_names("buffer", given, self.plan.buffers)
        self._numbers = {**self.plan.numbers, **(numbers or {})}
        check_names("threshold", self._numbers, self.plan.numbers)
        for name, number in self._numbers.items():
            if not math.isfinite(number):
                raise UsageError(f"{name} is {number}", fix="it must be a finite number")
        self._functions = [loaded.function(launch.kernel) for launch in self.plan.launches]
        self.arrays: dict[str, DeviceArray] = {}
        for name, buffer in self.plan.buffers.items():
            array = DeviceArray(0, buffer.shape, np.dtype(buffer.dtype))
            if name not in given:
                given[name] = driver.allocate(array.size, f"{name} of the kernels")
            self.arrays[name] = array
        self.bind(given)
        self._host: dict[str, NDArray[Any]] = {}

    def bind(self, memory: Mapping[str, int]) -> None:
        """Use other memory for these buffers from the next run on. A captured graph keeps the old."""
        check_names("buffer", memory, self.plan.buffers)
        for name, address in memory.items():
            if address % ALIGNMENT:
                raise UsageError(f"the address of {name} is no multiple of {ALIGNMENT}")
            self.arrays[name] = self.arrays[name]._replace(address=address)
        buffers = self.plan.buffers
        self._zeroed = [self.arrays[name] for name in buffers if buffers[name].zeroed]
        self._arguments = [
            [(each.kind, self._value(each)) for each in launch.arguments]
            for launch in self.plan.launches
        ]

    @property
    def inputs(self) -> dict[str, DeviceArray]:
        """Where the inputs are read from."""
        return {name: self.arrays[name] for name in self.plan.inputs}

    @property
    def outputs(self) -> dict[str, DeviceArray]:
        """Where the outputs are written to."""
        return {name: self.arrays[name] for name in self.plan.outputs}

    @property
    def scratch(self) -> tuple[str, ...]:
        """The buffers that are neither input nor output."""
        others = {*self.plan.inputs, *self.plan.outputs}
        return tuple(name for name in self.plan.buffers if name not in others)

    def addresses(self, names: Iterable[str]) -> dict[str, int]:
        """Where these buffers lie, for the `memory` of other kernels."""
        return {name: self.arrays[name].address for name in names}

    def queue(self) -> None:
        """Queue one run; `CudaDriver.capture` can make a graph of it, alone or with what comes before."""
        driver = self._driver
        for array in self._zeroed:
            driver.zero(array.address, array.size)
        every = zip(self.plan.launches, self._functions, self._arguments, strict=True)
        for launch, (function, variant), arguments in every:
            driver.launch(function, launch.grid, variant.block, variant.shared_bytes, arguments)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Copy the inputs to the device, run, wait, and copy the outputs back.

        Args:
            inputs: arrays of the shapes and types that `self.inputs` says; those that are absent
                already lie on the device.

        Returns:
            The outputs, in memory that the next call uses again.
        """
        check_names("input", inputs, self.plan.inputs)
        for name, value in inputs.items():
            self.write(name, value)
        self.queue()
        results = {name: self._host_array(name) for name in self.plan.outputs}
        for name, result in results.items():
            self._driver.copy_from_device(result, self.arrays[name].address)
        self._driver.synchronize()
        return results

    def write(self, name: str, value: NDArray[Any]) -> None:
        """Queue the copy of an array into one buffer; what `value` holds is taken at once.

        Raises:
            UsageError: it has another shape or type.
        """
        array = self.arrays[name]
        if value.shape != array.shape or value.dtype != array.dtype:
            what = f"{name} must be {array.dtype} {list(array.shape)}"
            raise UsageError(f"{what}, got {value.dtype} {list(value.shape)}")
        np.copyto(self._host_array(name), value)
        self._driver.copy_to_device(array.address, self._host_array(name))

    def _host_array(self, name: str) -> NDArray[Any]:
        if name not in self._host:
            array = self.arrays[name]
            memory = self._driver.host_memory(array.size, name)
            self._host[name] = memory.view(array.dtype).reshape(array.shape)
        return self._host[name]

    def _value(self, argument: Argument) -> float:
        if argument.kind == "pointer":
            return self.arrays[cast(str, argument.value)].address
        if argument.kind == "float32":
            return self._numbers[argument.name]
        return cast(float, argument.value)
