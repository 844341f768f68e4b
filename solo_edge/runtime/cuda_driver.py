"""What engines need of CUDA: memory, copies, kernels, streams and graphs, from cuda-bindings or PyCUDA.

Both are thin layers over the driver; neither PyTorch nor the CUDA toolkit is needed.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.errors import ResourceError

__all__ = ["ArgumentKind", "Captured", "CudaDriver", "Size3", "no_gpu", "open_cuda"]

log = logging.getLogger(__name__)

ArgumentKind = Literal["pointer", "int32", "float32"]
Size3 = tuple[int, int, int]

# A kernel may use this much dynamic shared memory without asking for more.
PLAIN_SHARED_BYTES = 48 * 1024

# Errors after which a process can do nothing more with the device, and the driver's words for them.
FATAL_ERRORS = {
    "CUDA_ERROR_ECC_UNCORRECTABLE": "uncorrectable ECC error encountered",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "an illegal memory access was encountered",
    "CUDA_ERROR_LAUNCH_TIMEOUT": "the launch timed out and was terminated",
    "CUDA_ERROR_ASSERT": "device-side assert triggered",
    "CUDA_ERROR_HARDWARE_STACK_ERROR": "hardware stack error",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION": "an illegal instruction was encountered",
    "CUDA_ERROR_MISALIGNED_ADDRESS": "misaligned address",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE": "operation not supported on global/shared address space",
    "CUDA_ERROR_INVALID_PC": "invalid program counter",
    "CUDA_ERROR_LAUNCH_FAILED": "unspecified launch failure",
}
RESTART = "start the program again"
FREE_MEMORY = "free GPU memory and start again"


class Captured:
    """What was captured: call it to queue that again, close it to give its memory back."""

    def __init__(self, queue: Callable[[], object], release: Callable[[], None] | None = None):
        self._queue, self._release = queue, release

    def __call__(self) -> None:
        self._queue()

    def close(self) -> None:
        """Closing twice is fine."""
        release, self._release = self._release, None
        if release is not None:
            release()


class CudaDriver(Closing):
    """The first CUDA device, a stream on it for all computing, and all memory that was allocated here.

    Use everything but `close` inside `with driver.active():`, in whichever thread. Errors of CUDA are
    ResourceErrors. What is queued without naming a stream goes to the one for computing.
    """

    device_name: str
    compute_capability: str  # "8.7" for Orin
    stream: int  # handle of the stream for computing
    has_graphs: bool  # else `capture` queues everything anew each time
    lost = ""  # the error after which the device is of no use any more
    _closed = False

    @abstractmethod
    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the device current in this thread."""

    @abstractmethod
    def allocate(self, size: int, what: str = "memory") -> int:
        """Address of `size` bytes on the device; `what` they are for is named when there are too few."""

    @abstractmethod
    def free(self, address: int) -> None:
        """Give back what `allocate` returned, before `close` does. Nothing may be using it any more."""

    @abstractmethod
    def host_memory(self, size: int, what: str = "memory") -> NDArray[np.uint8]:
        """[size] page-locked memory, which the device copies without a detour. Gone after `close`."""

    @abstractmethod
    def free_host(self, memory: NDArray[np.uint8]) -> None:
        """Give back what `host_memory` returned, before `close` does."""

    @abstractmethod
    def new_stream(self) -> Any:
        """Another stream, for copies beside the computing."""

    @abstractmethod
    def copy_to_device(self, address: int, array: NDArray[Any], *, stream: Any = None) -> None:
        """Queue a copy of page-locked `array`."""

    @abstractmethod
    def copy_from_device(self, array: NDArray[Any], address: int, *, stream: Any = None) -> None:
        """Queue a copy into page-locked `array`."""

    @abstractmethod
    def zero(self, address: int, size: int) -> None:
        """Queue the clearing of `size` bytes."""

    @abstractmethod
    def synchronize(self, *, stream: Any = None) -> None:
        """Wait here until all that was queued in the stream is done."""

    def load_function(self, image: bytes, name: str, *, shared_bytes: int = 0) -> Any:
        """The kernel `name` of a cubin or of PTX text, ready for `launch`.

        Args:
            shared_bytes: dynamic shared memory that it will be launched with.

        Raises:
            ResourceError: the driver does not take the image, or has no such kernel in it.
        """
        # The driver reads PTX up to a zero byte; behind a cubin one does no harm.
        function = self._load(image + b"\0", name)
        if shared_bytes > PLAIN_SHARED_BYTES:
            self._allow_shared(function, shared_bytes)
        return function

    @abstractmethod
    def _load(self, image: bytes, name: str) -> Any:
        """The kernel `name` of `image`, which stays loaded until `close`."""

    @abstractmethod
    def _allow_shared(self, function: Any, shared_bytes: int) -> None:
        """Let `function` use more dynamic shared memory than 48 KB."""

    @abstractmethod
    def launch(
        self,
        function: Any,
        grid: Size3,
        block: Size3,
        shared_bytes: int,
        arguments: Sequence[tuple[ArgumentKind, float]],
    ) -> None:
        """Queue one launch.

        Args:
            function: of `load_function`.
            grid: blocks in x, y and z.
            block: threads of a block in x, y and z.
            arguments: kind and value in the order of the kernel's parameters; a pointer's value is
                an address.
        """

    def capture(self, queue: Callable[[], object]) -> Captured:
        """What queues again what `queue` queues, as one CUDA graph where there are graphs.

        `queue` runs once before it is captured: TensorRT and kernels that the driver loads late want
        that. It must neither allocate nor wait, it must use the stream for computing alone, and its
        memory must stay where it is. The result may be called until `close`.
        """
        queue()
        self.synchronize()
        return self._capture(queue) if self.has_graphs else Captured(queue)

    def _capture(self, queue: Callable[[], object]) -> Captured:
        raise NotImplementedError

    @abstractmethod
    def event(self) -> Any:
        """A mark for `record`, which may be used again and again."""

    @abstractmethod
    def record(self, event: Any, *, stream: Any = None) -> None:
        """Queue the mark: it takes the time when everything before it is done. Also while capturing."""

    @abstractmethod
    def wait(self, event: Any, *, stream: Any = None) -> None:
        """Queue a wait: what is queued after it starts when the mark has been reached."""

    @abstractmethod
    def wait_here(self, event: Any) -> None:
        """Wait in this thread until the mark has been reached."""

    @abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Wait for `end`; milliseconds on the device between two marks."""

    def close(self) -> None:
        """Free everything. Closing twice is fine, and so is closing after the device was lost."""
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _release(self) -> None:
        """What `close` does, once."""

    def _failure(self, name: str, text: str) -> ResourceError:
        """What to raise for an error of CUDA: its symbol (or "") and the driver's words.

        The first error that the device does not survive is reported as what it is. Whatever comes
        after it says no more than that the device is lost.
        """
        name = name or next((known for known, said in FATAL_ERRORS.items() if said in text), "")
        if self.lost:
            return self._is_lost()
        detail = f"{text} ({name})" if name else text
        if name not in FATAL_ERRORS:
            return ResourceError(f"CUDA failed: {detail}", fix=FREE_MEMORY)
        self.lost = name
        return ResourceError(f"the CUDA device failed: {detail}", fix=RESTART)

    def _is_lost(self) -> ResourceError:
        return ResourceError(f"the CUDA device is lost since {self.lost}", fix=RESTART)

    def _no_memory(self, size: int, kind: str, what: str, free: int | None) -> ResourceError:
        """What to raise when `size` bytes of "GPU memory" or the like cannot be allocated.

        Args:
            free: bytes that the device has left, if known.
        """
        left = "" if free is None else f", {_mebibytes(free)} are free"
        text = f"not enough {kind} for {what} ({_mebibytes(size)}{left})"
        return ResourceError(text, fix="close other programs on the GPU and start again")

    def _give_back(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call what frees something. Closing goes on if that fails: the rest is to be freed as well."""
        try:
            function(*arguments)
        except ResourceError as error:
            log.debug("while closing: %s", error)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def open_cuda() -> CudaDriver:
    """The first CUDA device.

    Raises:
        ResourceError: neither package is installed, or there is no driver or no device.
    """
    from solo_edge.runtime.cuda_bindings_driver import CudaBindings
    from solo_edge.runtime.pycuda_driver import PyCuda

    drivers: tuple[Callable[[], CudaDriver], ...] = (CudaBindings, PyCuda)
    for driver in drivers:
        try:
            return driver()
        except ImportError:
            continue
    fix = "pip install cuda-bindings (the version of the driver's CUDA), or pycuda"
    raise ResourceError("TensorRT engines need cuda-bindings or PyCUDA", fix=fix)


def no_gpu(detail: str) -> ResourceError:
    """What to raise where no device can be used."""
    what = f"there is no usable CUDA device ({detail})"
    return ResourceError(what, fix="install NVIDIA's driver, or use an engine for the CPU")
