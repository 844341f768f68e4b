"""The CUDA driver through PyCUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.runtime.cuda_driver import ArgumentKind, CudaDriver, Size3, failure, no_gpu

__all__ = ["PyCuda"]

STRUCT_CODES = {"pointer": "P", "int32": "i", "float32": "f"}


class PyCuda(CudaDriver):
    """PyCUDA. Up to 2026.1 at least it has no CUDA graphs."""

    has_graphs = False

    def __init__(self) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._device_memory: list[Any] = []
        self._host_memory: list[NDArray[np.uint8]] = []
        self._modules: list[Any] = []
        self._events: list[Any] = []
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
            self._stream = self._call(cuda.Stream, 1)  # CU_STREAM_NON_BLOCKING
            self.stream = int(self._stream.handle)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._cuda.Error as error:
            raise failure(str(error)) from error

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

    def zero(self, address: int, size: int) -> None:
        self._call(self._cuda.memset_d8_async, address, 0, size, self._stream)

    def synchronize(self) -> None:
        self._call(self._stream.synchronize)

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

    def record(self, event: Any) -> None:
        self._call(event.record, self._stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        self._call(end.synchronize)
        return float(self._call(end.time_since, start))

    def _release(self) -> None:
        with self.active():
            # They free themselves, for which their context must still be there.
            self._events.clear()
            self._modules.clear()
            for memory in self._device_memory:
                self._call(memory.free)
            for array in self._host_memory:
                owner: Any = array.base  # PyCUDA's allocation, which the array looks at
                self._call(owner.free)
            del self._stream
        self._call(self._context.detach)
