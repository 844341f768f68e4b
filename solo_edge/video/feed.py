"""One source of a stream: opened and read in a thread of its own."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import NamedTuple

from solo_edge.errors import SoloEdgeError
from solo_edge.video.base import Frame, Source, redact
from solo_edge.video.buffer import FrameBuffer, Lane
from solo_edge.video.clock import now
from solo_edge.video.options import StreamOptions
from solo_edge.video.report import SourceReport, Tally
from solo_edge.video.result import StreamStatus
from solo_edge.video.source import open_source
from solo_edge.video.states import Failure, SourceState, StateChange

__all__ = ["Arrival", "Feed", "Pace"]

FILE_DEPTH = 4  # decoded frames that wait for the network


class Arrival(NamedTuple):
    """A frame on its way to the network."""

    frame: Frame
    decode_ms: float | None  # None of a live source, where it would be the time between two frames


class Pace:
    """Lets through so many frames per second, spread evenly.

    Args:
        fps: the limit; None lets everything through.
    """

    def __init__(self, fps: float | None):
        self._interval_s = 1.0 / fps if fps else 0.0
        self._due_s: float | None = None

    def admits(self, at_s: float) -> bool:
        """Whether a frame that came at `at_s` is one of them."""
        if self._due_s is None:
            self._due_s = at_s
        # Frames come a little early or late; which of two neighbours is nearer must not decide.
        if at_s < self._due_s - 1e-3:
            return False
        # After a pause nothing is made up for.
        next_s = self._due_s + self._interval_s
        self._due_s = next_s if next_s > at_s else at_s + self._interval_s
        return True


class Feed:
    """Opens a source, waits for `read_into`, and then puts its frames into a lane of a buffer.

    Args:
        index: which of the sources, and its lane.
        source: an open one, which stays open, or what `open_source` takes.
        on_state: called with (index, change), from several threads.
    """

    def __init__(
        self,
        index: int,
        source: Source | str,
        options: StreamOptions,
        on_state: Callable[[int, StateChange], None],
    ):
        self.index, self._options, self._on_state = index, options, on_state
        self.source = source if isinstance(source, Source) else None
        self._uri = None if isinstance(source, Source) else str(source)
        self.tally = Tally(self.source.name if self.source else redact(str(source)))
        self.error: BaseException | None = None
        self.opened = threading.Event()  # or failed to
        self._may_read = threading.Event()
        self._stopped = threading.Event()
        self._read_all = False
        self._tells_itself = False  # the source knows better than we do when it plays
        self._buffer: FrameBuffer[Arrival] | None = None
        # A read that hangs must not keep the program alive.
        self._thread = threading.Thread(
            target=self._run, name=f"solo-edge capture {index}", daemon=True
        )
        self._thread.start()

    @property
    def newest_only(self) -> bool:
        """Whether only its newest frame is worked on; known when it is open."""
        return self.source is not None and self._options.newest_only(self.source.live)

    @property
    def lane(self) -> Lane:
        return Lane(1, True) if self.newest_only else Lane(FILE_DEPTH, False)

    def read_into(self, buffer: FrameBuffer[Arrival]) -> None:
        """Begin to read; at the end, the lane is ended."""
        self._buffer = buffer
        self._may_read.set()

    def stop(self) -> None:
        """Read no further. A source that was opened here is closed: now, or when its read returns."""
        self._stopped.set()
        self._may_read.set()
        if self._uri is not None and self.source is not None:
            self.source.close()

    def join(self, timeout_s: float) -> None:
        self._thread.join(max(timeout_s, 0.0))

    def status(self) -> StreamStatus:
        return self.tally.status(self.source)

    def report(self) -> SourceReport:
        error = None if self.error is None else _one_line(self.error)
        return self.tally.report(self.source, whole=self._read_all, error=error)

    def _run(self) -> None:
        try:
            if self.source is None:
                assert self._uri is not None
                self.source = open_source(self._uri, self._told)
                self.tally.name = self.source.name
            self.opened.set()
            self._may_read.wait()
            if not self._stopped.is_set():
                self._read()
        except BaseException as error:
            # What comes of closing it under the reader's feet is no failure.
            if not self._stopped.is_set():
                self.error = error
        finally:
            self._tell_end()
            self.opened.set()
            if self._buffer is not None:
                self._buffer.end(self.index)
            if self._uri is not None and self.source is not None:
                self.source.close()

    def _read(self) -> None:
        source, buffer, limit = self.source, self._buffer, self._options.max_frames
        assert source is not None
        assert buffer is not None
        pace = Pace(self._options.fps_limit)
        as_if_live = self.newest_only and not source.live
        source.keep_all = not self.newest_only
        begin_s, count = now(), 0
        frames = iter(source)
        while not self._stopped.is_set():
            start_s = now()
            frame = next(frames, None)
            if frame is None:
                self._read_all = not self._stopped.is_set()
                return
            decode_ms = None if source.live else 1000.0 * (now() - start_s)
            if as_if_live:  # the newest frame of a file is that which would be shown now
                self._stopped.wait(begin_s + frame.timestamp_s - now())
            if as_if_live or not frame.captured_s:
                frame = dataclasses.replace(frame, captured_s=now())
            self.tally.captured()
            if not self._tells_itself and self.tally.state == SourceState.OPENING:
                self._tell(SourceState.PLAYING, None, "frames come")
            # A camera's own clock may be anything; a file has no other.
            if not pace.admits(frame.captured_s if source.live else frame.timestamp_s):
                self.tally.dropped()
                continue
            if not buffer.put(self.index, Arrival(frame, decode_ms)):
                return
            count += 1
            if count == limit and not self.newest_only:
                return  # of a file no frame is read that will not be used

    def _told(self, change: StateChange) -> None:
        """By the source itself."""
        self._tells_itself = True
        self._pass_on(change)

    def _tell(self, state: SourceState, code: Failure | None, message: str) -> None:
        self._pass_on(StateChange(self.tally.name, state, code, message, now(), 0))

    def _pass_on(self, change: StateChange) -> None:
        self.tally.changed(change)
        self._on_state(self.index, change)

    def _tell_end(self) -> None:
        if self.tally.state == SourceState.ENDED:
            return
        if self.error is None:
            self._tell(SourceState.ENDED, None, "stopped" if self._stopped.is_set() else "the end")
            return
        fallback = Failure.GONE if self.source is None or self.source.live else Failure.DECODE
        code = getattr(self.error, "code", fallback)
        self._tell(SourceState.ENDED, code, _one_line(self.error))


def _one_line(error: BaseException) -> str:
    if isinstance(error, SoloEdgeError):
        return str(error)
    return redact(" ".join(f"{type(error).__name__}: {error}".split()))
