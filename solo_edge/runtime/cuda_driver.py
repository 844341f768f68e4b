"""What TensorRT needs of CUDA: memory, copies and a stream, from cuda-bindings or PyCUDA.

Both are thin layers over the driver; neither PyTorch nor the CUDA toolkit is needed.
"""

from __future__ import annotations

import ctypes
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.errors import ResourceError

__all__ = ["CudaDriver", "open_cuda"]


class CudaDriver(Closing):
    """The first CUDA device, one stream on it, and all memory that was allocated here.

    Use everything but `close` inside `with driver.active():`, in whichever thread. Errors of CUDA are
    ResourceErrors.
    """

    device_name: str
    compute_capability: str  # "8.7" for Orin
    stream: int  # handle of a CUDA stream
    _closed = False

    @abstractmethod
    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device current in this thread."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device."""

    @abstractmethod
    def host_memory(self, size: int) -> NDArray[np.uint8]:
        """[size] page-locked memory, which the device copies without a detour. Gone after `close`."""

    @abstractmethod
    def copy_to_device(self, address: int, array: NDArray[Any]) -> None:
        """Queue a copy of page-locked `array`."""

    @abstractmethod
    def copy_from_device(self, array: NDArray[Any], address: int) -> None:
        """Queue a copy into page-locked `array`."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all that was queued is done."""

    def close(self) -> None:
        """Free everything. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _release(self) -> None:
        """What `close` does, once."""


def open_cuda() -> CudaDriver:
    """The first CUDA device.

    Raises:
        ResourceError: neither package is installed, or there is no driver or no device.
    """
    drivers = (CudaBindings, PyCuda)
    for driver in drivers:
        try:
            return driver()
        except ImportError:
            continue
    fix = "pip install cuda-bindings (the version of the driver's CUDA), or pycuda"
    raise ResourceError("TensorRT engines need cuda-bindings or PyCUDA", fix=fix)


class CudaBindings(CudaDriver):
    """Through NVIDIA's cuda-bindings."""

    def __init__(self) -> None:
        from cuda.bindings import driver as cuda

        self._cuda = cuda
        self._device_memory: list[Any] = []
        self._host_addresses: list[int] = []
        try:
            status = cuda.cuInit(0)
        except (RuntimeError, OSError) as error:  # the driver's library cannot be loaded
            raise _no_gpu(str(error)) from error
        if status[0] != cuda.CUresult.CUDA_SUCCESS:
            raise _no_gpu(self._describe(status[0]))
        if self._call(cuda.cuDeviceGetCount()) == 0:
            raise _no_gpu("no device")
        self._device = self._call(cuda.cuDeviceGet(0))
        name: bytes = self._call(cuda.cuDeviceGetName(256, self._device))
        self.device_name = name.split(b"\0")[0].decode("utf-8", "replace")
        attribute = cuda.CUdevice_attribute
        major, minor = (
            self._call(cuda.cuDeviceGetAttribute(which, self._device))
            for which in (
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.compute_capability = f"{major}.{minor}"
        self._context = self._call(cuda.cuDevicePrimaryCtxRetain(self._device))
        with self.active():
            flags = cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
            self._stream = self._call(cuda.cuStreamCreate(flags))
            self.stream = int(self._stream)

    def _call(self, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise _failure(self._describe(status))
        return values[0] if values else None

    def _describe(self, status: Any) -> str:
        found, text = self._cuda.cuGetErrorString(status)
        known = found == self._cuda.CUresult.CUDA_SUCCESS and text
        return text.decode("utf-8", "replace") if known else str(status)

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call(self._cuda.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            self._call(self._cuda.cuCtxPopCurrent())

    def allocate(self, size: int) -> int:
        memory = self._call(self._cuda.cuMemAlloc(size))
        self._device_memory.append(memory)
        return int(memory)

    def host_memory(self, size: int) -> NDArray[np.uint8]:
        address = int(self._call(self._cuda.cuMemHostAlloc(size, 0)))
        self._host_addresses.append(address)
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memoryview(memory), dtype=np.uint8)

    def copy_to_device(self, address: int, array: NDArray[Any]) -> None:
        source, size = array.ctypes.data, array.nbytes
        self._call(self._cuda.cuMemcpyHtoDAsync(address, source, size, self._stream))

    def copy_from_device(self, array: NDArray[Any], address: int) -> None:
        target, size = array.ctypes.data, array.nbytes
        self._call(self._cuda.cuMemcpyDtoHAsync(target, address, size, self._stream))

    def synchronize(self) -> None:
        self._call(self._cuda.cuStreamSynchronize(self._stream))

    def _release(self) -> None:
        with self.active():
            for memory in self._device_memory:
                self._call(self._cuda.cuMemFree(memory))
            for address in self._host_addresses:
                self._call(self._cuda.cuMemFreeHost(address))
            self._call(self._cuda.cuStreamDestroy(self._stream))
        self._call(self._cuda.cuDevicePrimaryCtxRelease(self._device))


class PyCuda(CudaDriver):
    """Through PyCUDA."""

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._device_memory: list[Any] = []
        self._host_memory: list[NDArray[np.uint8]] = []
        try:
            cuda.init()
            count = cuda.Device.count()
        except cuda.Error as error:
            raise _no_gpu(str(error)) from error
        if count == 0:
            raise _no_gpu("no device")
        device = self._call(cuda.Device, 0)
        self.device_name = self._call(device.name)
        self.compute_capability = "{}.{}".format(*self._call(device.compute_capability))
        self._context = self._call(device.retain_primary_context)
        with self.active():
            self._stream = self._call(cuda.Stream, 1)  # CU_STREAM_NON_BLOCKING
            self.stream = int(self._stream.handle)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise _failure(str(error)) from error

    @contextmanager
    def active(self) -> Iterator[None]:
        self._call(self._context.push)
        try:
            yield
        finally:
            self._call(self._context.pop)

    def allocate(self, size: int) -> int:
        memory = self._call(self._cuda.mem_alloc, size)
        self._device_memory.append(memory)
        return int(memory)

    def host_memory(self, size: int) -> NDArray[np.uint8]:
        memory: NDArray[np.uint8] = self._call(self._cuda.pagelocked_empty, size, np.uint8)
        self._host_memory.append(memory)
        return memory

    def copy_to_device(self, address: int, array: NDArray[Any]) -> None:
        self._call(self._cuda.memcpy_htod_async, address, array, self._stream)

    def copy_from_device(self, array: NDArray[Any], address: int) -> None:
        self._call(self._cuda.memcpy_dtoh_async, array, address, self._stream)

    def synchronize(self) -> None:
        self._call(self._stream.synchronize)

    def _release(self) -> None:
        with self.active():
            for memory in self._device_memory:
                self._call(memory.free)
            for array in self._host_memory:
                owner: Any = array.base  # PyCUDA's allocation, which the array looks at
                self._call(owner.free)
            del self._stream
        self._call(self._context.detach)


def _no_gpu(detail: str) -> ResourceError:
    what = f"there is no usable CUDA device ({detail})"
    return ResourceError(what, fix="install NVIDIA's driver, or use an engine for the CPU")


def _failure(detail: str) -> ResourceError:
    return ResourceError(f"CUDA failed: {detail}", fix="free GPU memory and start again")
