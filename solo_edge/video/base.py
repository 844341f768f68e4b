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
from solo_edge.errors import SoloEdgeError
from solo_edge.video.clock import now
from solo_edge.video.states import Failure, OnStateChange, SourceState, StateChange

__all__ = ["Frame", "Source", "redact"]

# Names of what nobody else should read. Cameras have them in the query, some in the path.
_NAMES = (
    r"(?:pass|pwd|psw|token|key|secret|auth|sig|user|usr|login|account|credential|session|jwt|hash)"
)
_HIDDEN = (
    re.compile(r"(?s)^[A-Za-z][A-Za-z0-9+.-]*://(.*)@"),  # user and password
    re.compile(rf"(?is)[?&;#][^=&;]*{_NAMES}[^=&;]*=([^&]*)"),
    re.compile(rf"(?is)(?<!/)/(?!/)([^/?]*{_NAMES}[^/?=]*=[^?]*)"),
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    index: int  # 0, 1, 2 ... as they came from the source
    timestamp_s: float  # of the source, since its first frame; never goes back
    captured_s: float = 0.0  # when it came out of the decoder, by `solo_edge.video.clock.now`


class Source(Closing):
    """Frames, once through. A context manager; closing twice, or while another thread reads, is fine."""

    name: str  # for people; without credentials
    state: SourceState = SourceState.OPENING
    live: bool  # frames come at their own pace, and one that is not taken in time is of no use
    fps: float | None  # as declared; None if unknown or variable
    size: tuple[int, int]  # (height, width) of the first frame, (0, 0) before; others may differ
    frame_count: int | None  # as declared
    files: tuple[Path, ...] = ()  # the local files that are read
    damaged: int = 0  # pieces of video so far that could not be decoded and were left out
    keep_all: bool = False  # of a live source too, hand out every picture, however late; may be set
    skipped: int = 0  # pictures of a live source that nobody came for in time; they have no index

    def __init__(self, on_state: OnStateChange | None = None) -> None:
        self._on_state = on_state
        self._code: Failure | None = None  # why it is in its state
        self._reading = threading.Lock()
        self._closed = threading.Event()
        self._released = False
        self._frames = self._read()

    def __iter__(self) -> Iterator[Frame]:
        """The frames that have not been read yet.

        Raises:
            SourceError: a camera or stream went away for good. DataError: a file cannot be decoded.
        """
        while not self._closed.is_set():
            try:
                with self._reading:
                    frame = None if self._closed.is_set() else next(self._frames, None)
                    if frame is not None and not self._closed.is_set():
                        self._change(SourceState.PLAYING, None, "frames come")
            except SoloEdgeError as error:
                self._fail_for_good(error)
                raise
            finally:
                if self._closed.is_set():  # by another thread, while this one was reading
                    self.close()
            if frame is None:
                self._change(SourceState.ENDED, None, "the end")
                return
            yield frame

    def close(self) -> None:
        """Give back the file or device: at once, or when the read that is under way returns."""
        self._closed.set()
        self._wake()
        if self._reading.acquire(blocking=False):
            try:
                if not self._released:
                    self._released = True
                    if self.state is not SourceState.ENDED:
                        self._change(SourceState.ENDED, None, "closed")
                    self._release()
            finally:
                self._reading.release()

    @abstractmethod
    def _read(self) -> Generator[Frame, None, None]:
        """The frames; called once, used by one thread at a time."""

    def _wake(self) -> None:
        """Let a `_read` that waits in another thread see that the source was closed."""

    def _release(self) -> None:
        """Give back what was opened; called once, while nobody reads."""
        self._frames.close()

    def _fail_for_good(self, error: SoloEdgeError) -> None:
        self._change(SourceState.ENDED, getattr(error, "code", None), str(error))

    def _change(
        self, state: SourceState, code: Failure | None, message: str, attempt: int = 0
    ) -> None:
        """Go into a state and tell it, unless it was told before. By the thread that reads or closes."""
        if (state, code) == (self.state, self._code):
            return
        self.state, self._code = state, code
        if self._on_state is not None:
            self._on_state(StateChange(self.name, state, code, message, now(), attempt))


def redact(uri: str) -> str:
    """`uri` without user names, passwords and tokens: "rtsp://user:pass@host/x" -> "rtsp://***@host/x".

    Errs on the safe side: an "@" or "/" in a password is allowed for, so an "@" in a path may hide
    the host as well, and of a path with a password in it nothing stays.
    """
    if "://" not in uri:
        return uri
    # All are looked for in the whole: what hides a part of another's mark must not uncover the rest.
    spans = sorted(match.span(1) for secret in _HIDDEN for match in secret.finditer(uri))
    shown, end = "", 0
    for begin, until in spans:
        if begin >= end:
            shown += f"{uri[end:begin]}***"
        end = max(end, until)
    return shown + uri[end:]
