"""The CUDA driver through PyCUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ResourceError
from solo_edge.runtime.cuda_driver import ArgumentKind, CudaDriver, Size3, no_gpu

__all__ = ["PyCuda"]

STRUCT_CODES = {"pointer": "P", "int32": "i", "float32": "f"}


class PyCuda(CudaDriver):
    """PyCUDA. Up to 2026.1 at least it has no CUDA graphs."""

    has_graphs = False

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._device_memory: dict[int, Any] = {}
        self._host_memory: dict[int, NDArray[np.uint8]] = {}
        self._modules: list[Any] = []
        self._events: list[Any] = []
        self._streams: list[Any] = []
        try:
            cuda.init()
            count = cuda.Device.count()
        except cuda.Error as error:
            raise no_gpu(str(error)) from error
        if count == 0:
            raise no_gpu("no device")
        device = self._call(cuda.Device, 0)
        self.device_name = self._call(device.name)
        self.compute_capability = "{}.{}".format(*self._call(device.compute_capability))
        self._context = self._call(device.retain_primary_context)
        with self.active():
            self._stream = self.new_stream()
            self.stream = int(self._stream.handle)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise self._failure("", str(error)) from error

    @contextmanager
    def active(self) -> Iterator[None]:
        if self.lost:
            raise self._is_lost()
        self._call(self._context.push)
        try:
            yield
        finally:
            # It fails only where the block has failed already, with an error that says more.
            self._give_back(self._call, self._context.pop)

    def _allocated(
        self, function: Callable[..., Any], arguments: Any, size: int, kind: str, what: str
    ) -> Any:
        try:
            return self._call(function, *arguments)
        except ResourceError as error:
            if isinstance(error.__cause__, self._cuda.MemoryError):
                raise self._no_memory(size, kind, what, self._free_memory()) from error
            raise

    def _free_memory(self) -> int | None:
        try:
            return int(self._cuda.mem_get_info()[0])
        except self._cuda.Error:
            return None

    def allocate(self, size: int, what: str = "memory") -> int:
        memory = self._allocated(self._cuda.mem_alloc, (size,), size, "GPU memory", what)
        self._device_memory[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        self._call(self._device_memory.pop(address).free)

    def host_memory(self, size: int, what: str = "memory") -> NDArray[np.uint8]:
        allocate = self._cuda.pagelocked_empty
        memory: NDArray[np.uint8] = self._allocated(
            allocate, (size, np.uint8), size, "page-locked memory", what
        )
        self._host_memory[memory.ctypes.data] = memory
        return memory

    def free_host(self, memory: NDArray[np.uint8]) -> None:
        self._free_array(self._host_memory.pop(memory.ctypes.data))

    def _free_array(self, memory: NDArray[np.uint8]) -> None:
        owner: Any = memory.base  # PyCUDA's allocation, which the array looks at
        self._call(owner.free)

    def new_stream(self) -> Any:
        self._streams.append(self._call(self._cuda.Stream, 1))  # CU_STREAM_NON_BLOCKING
        return self._streams[-1]

    def copy_to_device(self, address: int, array: NDArray[Any], *, stream: Any = None) -> None:
        self._call(self._cuda.memcpy_htod_async, address, array, stream or self._stream)

    def copy_from_device(self, array: NDArray[Any], address: int, *, stream: Any = None) -> None:
        self._call(self._cuda.memcpy_dtoh_async, array, address, stream or self._stream)

    def zero(self, address: int, size: int) -> None:
        self._call(self._cuda.memset_d8_async, address, 0, size, self._stream)

    def synchronize(self, *, stream: Any = None) -> None:
        self._call((stream or self._stream).synchronize)

    def _load(self, image: bytes, name: str) -> Any:
        module = self._call(self._cuda.module_from_buffer, image)
        self._modules.append(module)
        return self._call(module.get_function, name)

    def _allow_shared(self, function: Any, shared_bytes: int) -> None:
        which = self._cuda.function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES
        self._call(function.set_attribute, which, shared_bytes)

    def launch(
        self,
        function: Any,
        grid: Size3,
        block: Size3,
        shared_bytes: int,
        arguments: Sequence[tuple[ArgumentKind, float]],
    ) -> None:
        function.prepare("".join(STRUCT_CODES[kind] for kind, _ in arguments))
        values = [value for _, value in arguments]

        def launch() -> None:
            stream = self._stream
            function.prepared_async_call(grid, block, stream, *values, shared_size=shared_bytes)

        self._call(launch)

    def event(self) -> Any:
        event = self._call(self._cuda.Event)
        self._events.append(event)
        return event

    def record(self, event: Any, *, stream: Any = None) -> None:
        self._call(event.record, stream or self._stream)

    def wait(self, event: Any, *, stream: Any = None) -> None:
        self._call((stream or self._stream).wait_for_event, event)

    def wait_here(self, event: Any) -> None:
        self._call(event.synchronize)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self.wait_here(end)
        return float(self._call(end.time_since, start))

    def _release(self) -> None:
        if not self.lost:
            self._give_back(self._call, self._context.push)
            for stream in self._streams:  # nothing may be freed that is still being used
                self._give_back(self._call, stream.synchronize)
            # Events, modules and streams free themselves, for which their context must still be there.
            self._events.clear()
            self._modules.clear()
            for memory in self._device_memory.values():
                self._give_back(self._call, memory.free)
            for array in self._host_memory.values():
                self._give_back(self._free_array, array)
            self._streams.clear()
            del self._stream
            self._give_back(self._call, self._context.pop)
        self._give_back(self._call, self._context.detach)
