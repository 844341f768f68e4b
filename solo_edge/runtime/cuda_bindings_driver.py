"""The CUDA driver through NVIDIA's cuda-bindings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.runtime.cuda_driver import ArgumentKind, Captured, CudaDriver, Size3, no_gpu

__all__ = ["CudaBindings"]

C_TYPES = {"pointer": ctypes.c_void_p, "int32": ctypes.c_int, "float32": ctypes.c_float}


class CudaBindings(CudaDriver):
    """cuda-bindings, 12.0 or later."""

    has_graphs = True

    def __init__(self) -> None:
        from cuda.bindings import driver as cuda

        self._cuda = cuda
        self._device_memory: dict[int, Any] = {}
        self._host_addresses: set[int] = set()
        self._modules: list[Any] = []
        self._graphs: list[Any] = []
        self._events: list[Any] = []
        self._streams: list[Any] = []
        self._capturing = False
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
            self._stream = self.new_stream()
            self.stream = int(self._stream)

    def _call(self, result: tuple[Any, ...]) -> Any:
        status, *values = result
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            raise self._failure(getattr(status, "name", ""), self._describe(status))
        return values[0] if values else None

    def _describe(self, status: Any) -> str:
        found, text = self._cuda.cuGetErrorString(status)
        known = found == self._cuda.CUresult.CUDA_SUCCESS and text
        return text.decode("utf-8", "replace") if known else str(status)

    @contextmanager
    def active(self) -> Iterator[None]:
        if self.lost:
            raise self._is_lost()
        self._call(self._cuda.cuCtxPushCurrent(self._context))
        try:
            yield
        finally:
            # It fails only where the block has failed already, with an error that says more.
            self._cuda.cuCtxPopCurrent()

    def _allocated(self, result: tuple[Any, ...], size: int, kind: str, what: str) -> Any:
        if result[0] == self._cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            status, free, _ = self._cuda.cuMemGetInfo()
            known = status == self._cuda.CUresult.CUDA_SUCCESS
            raise self._no_memory(size, kind, what, int(free) if known else None)
        return self._call(result)

    def allocate(self, size: int, what: str = "memory") -> int:
        memory = self._allocated(self._cuda.cuMemAlloc(size), size, "GPU memory", what)
        self._device_memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        self._call(self._cuda.cuMemFree(self._device_memory.pop(address)))

    def host_memory(self, size: int, what: str = "memory") -> NDArray[np.uint8]:
        result = self._cuda.cuMemHostAlloc(size, 0)
        address = int(self._allocated(result, size, "page-locked memory", what))
        self._host_addresses.add(address)
        memory = (ctypes.c_uint8 * size).from_address(address)
        return np.frombuffer(memoryview(memory), dtype=np.uint8)

    def free_host(self, memory: NDArray[np.uint8]) -> None:
        self._host_addresses.remove(memory.ctypes.data)
        self._call(self._cuda.cuMemFreeHost(memory.ctypes.data))

    def new_stream(self) -> Any:
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._streams.append(self._call(self._cuda.cuStreamCreate(flags)))
        return self._streams[-1]

    def copy_to_device(self, address: int, array: NDArray[Any], *, stream: Any = None) -> None:
        source, size = array.ctypes.data, array.nbytes
        self._call(self._cuda.cuMemcpyHtoDAsync(address, source, size, stream or self._stream))

    def copy_from_device(self, array: NDArray[Any], address: int, *, stream: Any = None) -> None:
        target, size = array.ctypes.data, array.nbytes
        self._call(self._cuda.cuMemcpyDtoHAsync(target, address, size, stream or self._stream))

    def zero(self, address: int, size: int) -> None:
        self._call(self._cuda.cuMemsetD8Async(address, 0, size, self._stream))

    def synchronize(self, *, stream: Any = None) -> None:
        self._call(self._cuda.cuStreamSynchronize(stream or self._stream))

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

    def _capture(self, queue: Callable[[], object]) -> Captured:
        cuda = self._cuda
        # What other threads do with CUDA meanwhile is their affair.
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(cuda.cuStreamBeginCapture(self._stream, mode))
        self._capturing = True
        try:
            queue()
        except BaseException:
            # The stream is of no use until its capture has ended.
            status, graph = cuda.cuStreamEndCapture(self._stream)
            if status == cuda.CUresult.CUDA_SUCCESS:
                cuda.cuGraphDestroy(graph)
            raise
        finally:
            self._capturing = False
        graph = self._call(cuda.cuStreamEndCapture(self._stream))
        try:
            executable = self._call(cuda.cuGraphInstantiate(graph, 0))
        finally:
            cuda.cuGraphDestroy(graph)
        self._graphs.append(executable)

        def release() -> None:
            self._graphs.remove(executable)
            self._call(cuda.cuGraphExecDestroy(executable))

        return Captured(lambda: self._call(cuda.cuGraphLaunch(executable, self._stream)), release)

    def event(self) -> Any:
        event = self._call(self._cuda.cuEventCreate(0))
        self._events.append(event)
        return event

    def record(self, event: Any, *, stream: Any = None) -> None:
        stream = stream or self._stream
        if self._capturing:
            # Without the flag it would only order the graph, and could not be read afterwards.
            external = self._cuda.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL
            self._call(self._cuda.cuEventRecordWithFlags(event, stream, external))
        else:
            self._call(self._cuda.cuEventRecord(event, stream))

    def wait(self, event: Any, *, stream: Any = None) -> None:
        self._call(self._cuda.cuStreamWaitEvent(stream or self._stream, event, 0))

    def wait_here(self, event: Any) -> None:
        self._call(self._cuda.cuEventSynchronize(event))

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self.wait_here(end)
        return float(self._call(self._cuda.cuEventElapsedTime(start, end)))

    def _release(self) -> None:
        cuda = self._cuda

        def give_back(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> None:
            self._give_back(lambda: self._call(function(*arguments)))

        if not self.lost:
            cuda.cuCtxPushCurrent(self._context)
            for stream in self._streams:  # nothing may be freed that is still being used
                give_back(cuda.cuStreamSynchronize, stream)
            for function, objects in (
                (cuda.cuGraphExecDestroy, self._graphs),
                (cuda.cuEventDestroy, self._events),
                (cuda.cuModuleUnload, self._modules),
                (cuda.cuMemFree, list(self._device_memory.values())),
                (cuda.cuMemFreeHost, list(self._host_addresses)),
                (cuda.cuStreamDestroy, self._streams),
            ):
                for each in objects:
                    give_back(function, each)
            cuda.cuCtxPopCurrent()
        give_back(cuda.cuDevicePrimaryCtxRelease, self._device)
