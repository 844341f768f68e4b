"""Live sources that come back: one thread opens, reads and opens again, the caller's decodes."""

from __future__ import annotations

from collections.abc import Generator

from solo_edge.errors import SoloEdgeError
from solo_edge.video.base import Frame, Source
from solo_edge.video.clock import now
from solo_edge.video.connection import Connection, DamagedError, Failed, Opened, Opener, Piece
from solo_edge.video.failures import SourceFailure
from solo_edge.video.reader import Knock, Reader
from solo_edge.video.states import Failure, OnStateChange, SourceState
from solo_edge.video.timeline import FALLBACK_FPS, Timeline

__all__ = ["LiveSource"]

DECODE_PATIENCE_S = 10.0  # for the first picture of what comes, and for the next one after damage
WATCH_S = 0.1  # how often a silent source is looked after


class LiveSource(Source):
    """The frames of all connections to a source, one connection after the other, for ever.

    Indexes are contiguous, and timestamps go on over the gaps. What turns out to have an end, as a
    file on a web server has, is read once.

    Args:
        name: without credentials.
        opener: makes a connection.
        knock: a cheap look whether opening makes sense. With it a source is opened again as soon as
            it is there, although the pauses between tries grow.
        on_state: called by the thread that reads the frames.
        retry_first: return at once, whether it can be opened or not; `size` is (0, 0) until it plays.

    Raises:
        SourceError: it cannot be opened. And whatever else `opener` raises.
    """

    def __init__(
        self,
        name: str,
        opener: Opener,
        *,
        knock: Knock | None = None,
        on_state: OnStateChange | None = None,
        retry_first: bool = False,
    ):
        super().__init__(on_state)
        self.name, self.live = name, True
        self.fps, self.size, self.frame_count = None, (0, 0), None
        self._opener, self._knock = opener, knock
        self._comes_back = retry_first
        self._timeline = Timeline()
        self._connection: Connection | None = None
        self._attempt = 0
        self._fruitful_s = 0.0  # when the latest picture came out, or the connection was made
        self._count = 0
        self._reader = Reader(opener, knock, lambda: self.keep_all)
        self._reader.start()
        if not retry_first:
            try:
                first = next(self._frames, None)
                if first is None:
                    raise SourceFailure(Failure.DECODE, "there is no picture in it", where=name)
            except BaseException as error:
                if isinstance(error, SoloEdgeError):
                    self._fail_for_good(error)
                self.close()
                raise
            self._frames = _followed_by(first, self._frames)

    def _read(self) -> Generator[Frame, None, None]:
        while not self._closed.is_set():
            taken = self._reader.backlog.take(WATCH_S)
            if taken is None:
                overdue = self._reader.overdue()
                if overdue is not None:
                    self._give_up(overdue)
                continue
            event = taken.event
            self.skipped += taken.skipped
            if isinstance(event, Piece):
                yield from self._decode(event, wanted=taken.wanted)
            elif isinstance(event, Opened):
                self._begin(event)
            elif event.error is None:
                return
            else:
                self._fail(event)

    def _begin(self, opened: Opened) -> None:
        connection = self._connection = opened.connection
        self._attempt, self._fruitful_s = opened.attempt, now()
        if self._count == 0:
            self.fps, self.frame_count = connection.fps, connection.frame_count
            if connection.finite:
                self.live = False
                self._timeline = Timeline(self.fps or FALLBACK_FPS)
        self._timeline.restart()

    def _decode(self, piece: Piece, *, wanted: bool) -> Generator[Frame, None, None]:
        assert self._connection is not None
        try:
            pictures = self._connection.decode(piece, wanted=wanted)
        except DamagedError:
            self.damaged += 1
            pictures = []
        for picture in pictures:
            self._fruitful_s = now()
            if picture.image is None:
                self.skipped += 1
                continue
            at_s = self._timeline.at(picture.stream_s, picture.captured_s)
            if self._count == 0:
                self.size = (picture.image.shape[0], picture.image.shape[1])
            self._comes_back = True
            self._change(SourceState.PLAYING, None, "frames come", self._attempt)
            self._reader.attempt = 0
            yield Frame(picture.image, self._count, at_s, picture.captured_s)
            self._count += 1
        if self.live and now() - self._fruitful_s > DECODE_PATIENCE_S:
            self._give_up(
                SourceFailure(Failure.DECODE, "no picture of it can be decoded", where="")
            )

    def _give_up(self, failure: SourceFailure) -> None:
        """Leave the reader to itself, which ends when its read returns, and begin anew."""
        attempt = self._reader.attempt
        self._reader.stop()
        self._fail(Failed(failure, attempt))
        self._reader = Reader(
            self._opener, self._knock, lambda: self.keep_all, (self._reader, failure)
        )
        self._reader.start()

    def _fail(self, failed: Failed) -> None:
        """Go on waiting, if it can come back; else raise."""
        error = failed.error
        assert error is not None
        if isinstance(error, SourceFailure):
            error.where = self.name
            if self._comes_back and self.live:
                self._change(SourceState.WAITING, error.code, error.reason, failed.attempt)
                return
        raise error

    def _wake(self) -> None:
        self._reader.stop()

    def _release(self) -> None:
        super()._release()
        self._reader.stop()


def _followed_by(first: Frame, rest: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """A frame that was read ahead, and the others."""
    yield first
    yield from rest
