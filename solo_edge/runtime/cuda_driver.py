"""What engines need of CUDA: memory, copies, kernels and a stream, from cuda-bindings or PyCUDA.

Both are thin layers over the driver; neither PyTorch nor the CUDA toolkit is needed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.errors import ResourceError

__all__ = ["ArgumentKind", "CudaDriver", "Size3", "failure", "no_gpu", "open_cuda"]

ArgumentKind = Literal["pointer", "int32", "float32"]
Size3 = tuple[int, int, int]

# A kernel may use this much dynamic shared memory without asking for more.
PLAIN_SHARED_BYTES = 48 * 1024


class CudaDriver(Closing):
    """The first CUDA device, one stream on it, and all memory that was allocated here.

    Use everything but `close` inside `with driver.active():`, in whichever thread. Errors of CUDA are
    ResourceErrors.
    """

    device_name: str
    compute_capability: str  # "8.7" for Orin
    stream: int  # handle of a CUDA stream
    has_graphs: bool  # else `capture` queues everything anew each time
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
    def zero(self, address: int, size: int) -> None:
        """Queue the clearing of `size` bytes."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all that was queued is done."""

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

    def capture(self, queue: Callable[[], object]) -> Callable[[], object]:
        """A function that queues again what `queue` queues, as one CUDA graph where there are graphs.

        `queue` runs once before it is captured: TensorRT and kernels that the driver loads late want
        that. It must neither allocate nor wait, and its memory must stay where it is. The result may
        be called until `close`.
        """
        queue()
        self.synchronize()
        return self._capture(queue) if self.has_graphs else queue

    def _capture(self, queue: Callable[[], object]) -> Callable[[], object]:
        raise NotImplementedError

    @abstractmethod
    def event(self) -> Any:
        """A mark for `record`, which may be used again and again."""

    @abstractmethod
    def record(self, event: Any) -> None:
        """Queue the mark: it takes the time when everything before it is done."""

    @abstractmethod
    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Wait for `end`; milliseconds on the device between two marks."""

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


def failure(detail: str) -> ResourceError:
    """What to raise when the driver reports an error."""
    return ResourceError(f"CUDA failed: {detail}", fix="free GPU memory and start again")
