"""What every source of frames looks like from outside."""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing

__all__ = ["Frame", "Source", "redact"]

_SECRET = re.compile(
    r"(?i)([?&;][^=&;]*(?:pass|pwd|token|key|secret|auth|sig|user)[^=&;]*=)[^&;#\s]*"
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    index: int  # 0, 1, 2 ... as they came from the source
    timestamp_s: float  # of the source, since its first frame; never goes back
    captured_s: float = 0.0  # when it came out of the decoder, on the clock `solo_edge.video.clock.now`


class Source(Closing):
    """Frames, once through. A context manager; closing twice, or while another thread reads, is fine."""

    name: str  # for people; without credentials
    live: bool  # frames come at their own pace, and one that is not taken in time is of no use
    fps: float | None  # as declared; None if unknown or variable
    size: tuple[int, int]  # (height, width) of the first frame; later ones may differ
    frame_count: int | None  # as declared
    files: tuple[Path, ...] = ()  # the local files that are read
    damaged: int = 0  # pieces of video so far that could not be decoded and were left out

    def __init__(self) -> None:
        self._reading = threading.Lock()
        self._closed = threading.Event()
        self._released = False
        self._frames = self._read()

    def __iter__(self) -> Iterator[Frame]:
        """The frames that have not been read yet.

        Raises:
            SourceError: a camera or stream went away. DataError: a file cannot be decoded.
        """
        while not self._closed.is_set():
            try:
                with self._reading:
                    frame = None if self._closed.is_set() else next(self._frames, None)
            finally:
                if self._closed.is_set():  # by another thread, while this one was reading
                    self.close()
            if frame is None:
                return
            yield frame

    def close(self) -> None:
        """Give back the file or device: at once, or when the read that is under way returns."""
        self._closed.set()
        if self._reading.acquire(blocking=False):
            try:
                if not self._released:
                    self._released = True
                    self._release()
            finally:
                self._reading.release()

    @abstractmethod
    def _read(self) -> Generator[Frame, None, None]:
        """The frames; called once, used by one thread at a time."""

    def _release(self) -> None:
        """Give back what was opened; called once, while nobody reads."""
        self._frames.close()


def redact(uri: str) -> str:
    """`uri` without user names, passwords and tokens: "rtsp://user:pass@host/x" -> "rtsp://***@host/x".

    Errs on the safe side: an "@" or "/" in a password is allowed for, so an "@" in a path may hide
    the host as well.
    """
    hidden = re.sub(r"(?s)^([A-Za-z][A-Za-z0-9+.-]*://).*@", r"\1***@", uri)
    return _SECRET.sub(r"\1***", hidden) if "://" in hidden else hidden
