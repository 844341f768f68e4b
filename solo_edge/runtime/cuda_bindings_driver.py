"""The CUDA driver through NVIDIA's cuda-bindings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.runtime.cuda_driver import ArgumentKind, CudaDriver, Size3, failure, no_gpu

__all__ = ["CudaBindings"]

C_TYPES = {"pointer": ctypes.c_void_p, "int32": ctypes.c_int, "float32": ctypes.c_float}


class CudaBindings(CudaDriver):
    """cuda-bindings, 12.0 or later."""

    has_graphs = True

    def __init__(self) -> None:
        from cuda.bindings import driver as cuda

        self._cuda = cuda
        self._device_memory: list[Any] = []
        self._host_addresses: list[int] = []
        self._modules: list[Any] = []
        self._graphs: list[Any] = []
        self._events: list[Any] = []
        try:
            status = cuda.cuInit(0)
        except (RuntimeError, OSError) as error:  # the driver's library cannot be loaded
            raise no_gpu(str(error)) from error
        if status[0] != cuda.CUresult.CUDA_SUCCESS:
            raise no_gpu(self._describe(status[0]))
        if self._call(cuda.cuDeviceGetCount()) == 0:
            raise no_gpu("no device")
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
            raise failure(self._describe(status))
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

    def zero(self, address: int, size: int) -> None:
        self._call(self._cuda.cuMemsetD8Async(address, 0, size, self._stream))

    def synchronize(self) -> None:
        self._call(self._cuda.cuStreamSynchronize(self._stream))

    def _load(self, image: bytes, name: str) -> Any:
        module = self._call(self._cuda.cuModuleLoadData(image))
        self._modules.append(module)
        return self._call(self._cuda.cuModuleGetFunction(module, name.encode()))

    def _allow_shared(self, function: Any, shared_bytes: int) -> None:
        attribute = self._cuda.CUfunction_attribute
        which = attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call(self._cuda.cuFuncSetAttribute(function, which, shared_bytes))

    def launch(
        self,
        function: Any,
        grid: Size3,
        block: Size3,
        shared_bytes: int,
        arguments: Sequence[tuple[ArgumentKind, float]],
    ) -> None:
        values = tuple(value for _, value in arguments)
        types = tuple(C_TYPES[kind] for kind, _ in arguments)
        launch = self._cuda.cuLaunchKernel
        self._call(launch(function, *grid, *block, shared_bytes, self._stream, (values, types), 0))

    def _capture(self, queue: Callable[[], object]) -> Callable[[], object]:
        cuda = self._cuda
        # What other threads do with CUDA meanwhile is their affair.
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(cuda.cuStreamBeginCapture(self._stream, mode))
        try:
            queue()
        except BaseException:
            # The stream is of no use until its capture has ended.
            status, graph = cuda.cuStreamEndCapture(self._stream)
            if status == cuda.CUresult.CUDA_SUCCESS:
                cuda.cuGraphDestroy(graph)
            raise
        graph = self._call(cuda.cuStreamEndCapture(self._stream))
        try:
            executable = self._call(cuda.cuGraphInstantiate(graph, 0))
        finally:
            cuda.cuGraphDestroy(graph)
        self._graphs.append(executable)
        return lambda: self._call(cuda.cuGraphLaunch(executable, self._stream))

    def event(self) -> Any:
        event = self._call(self._cuda.cuEventCreate(0))
        self._events.append(event)
        return event

    def record(self, event: Any) -> None:
        self._call(self._cuda.cuEventRecord(event, self._stream))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self._call(self._cuda.cuEventSynchronize(end))
        return float(self._call(self._cuda.cuEventElapsedTime(start, end)))

    def _release(self) -> None:
        with self.active():
            for graph in self._graphs:
                self._call(self._cuda.cuGraphExecDestroy(graph))
            for event in self._events:
                self._call(self._cuda.cuEventDestroy(event))
            for module in self._modules:
                self._call(self._cuda.cuModuleUnload(module))
            for memory in self._device_memory:
                self._call(self._cuda.cuMemFree(memory))
            for address in self._host_addresses:
                self._call(self._cuda.cuMemFreeHost(address))
            self._call(self._cuda.cuStreamDestroy(self._stream))
        self._call(self._cuda.cuDevicePrimaryCtxRelease(self._device))
