"""One connection to a live source, and the pieces of video that wait to be decoded."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.video.clock import now

__all__ = [
    "Backlog",
    "Connection",
    "DamagedError",
    "Failed",
    "Opened",
    "Opener",
    "Picture",
    "Piece",
]

LIMIT_BYTES = 1 << 25  # of what waits
LIMIT_PIECES = 1000
LATE_S = 0.2  # what has waited for longer while something newer came is skipped


class Picture(NamedTuple):
    """What comes out of a decoder."""

    image: NDArray[np.uint8] | None  # [H, W, 3] RGB; None if nobody wanted it
    stream_s: float | None  # its time on the stream's clock
    captured_s: float  # when it came out, on ours


class DamagedError(Exception):
    """A piece that cannot be decoded; the next one may."""


@dataclass(frozen=True)
class Piece:
    """What a connection reads at a time: a packet, or a picture of a driver."""

    data: Any
    size: int  # bytes
    key: bool  # decoding can begin here
    arrived_s: float


class Connection(ABC):
    """An open source.

    `read` and `close` are called by one thread, `decode` by another, also after `close`.
    """

    fps: float | None = None  # as declared
    frame_count: int | None = None
    finite = False  # it has an end, and every picture counts

    @abstractmethod
    def read(self) -> Piece | None:
        """The next piece, after however long that takes; None at the end.

        Raises:
            SourceFailure: nothing more can be read.
        """

    @abstractmethod
    def decode(self, piece: Piece, *, wanted: bool) -> list[Picture]:
        """The pictures that are complete with this piece.

        Raises:
            DamagedError: it cannot be decoded.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back the device or socket."""


# Given an event that is set when nobody waits for the connection any more.
Opener = Callable[[threading.Event], Connection]


@dataclass(frozen=True)
class Opened:
    """A connection was made."""

    connection: Connection
    attempt: int


@dataclass(frozen=True)
class Failed:
    """A connection was not made, or ended."""

    error: BaseException | None  # None: at its natural end
    attempt: int


class Taken(NamedTuple):
    """An event for the thread that decodes."""

    event: Piece | Opened | Failed
    wanted: bool  # False: a piece that must be decoded for the sake of later ones only
    skipped: int  # pieces before it that are not decoded at all


class Backlog:
    """What one reader has read and nobody has decoded yet.

    Who decodes too slowly gets what is new: pieces that waited too long are skipped up to the newest
    one with which decoding can begin.

    Args:
        keeps_all: whether nothing is skipped, and the reader waits instead; asked each time.
    """

    def __init__(self, keeps_all: Callable[[], bool]):
        self._keeps_all = keeps_all
        self._events: deque[Piece | Opened | Failed] = deque()
        self._bytes = 0
        self._skipped = 0
        self._needs_key = False  # what was skipped is missing for what follows
        self._closed = False
        self._changed = threading.Condition()

    def put(self, event: Piece | Opened | Failed) -> bool:
        """Add an event. Returns False when nobody will take any more."""
        with self._changed:
            if isinstance(event, Piece):
                while self._is_full() and self._keeps_all() and not self._closed:
                    self._changed.wait(0.5)  # the answer may change while we wait
                if self._is_full():
                    self._skip(len(self._events))
                    self._needs_key = True
                if self._needs_key and not event.key and not self._keeps_all():
                    self._skipped += 1
                    return not self._closed
                self._needs_key = False
                self._bytes += event.size
            if not self._closed:
                self._events.append(event)
            self._changed.notify_all()
            return not self._closed

    def take(self, timeout_s: float) -> Taken | None:
        """The next event; None if none comes in that time, or the backlog is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._closed, timeout_s)
            if not self._events or self._closed:
                return None
            wanted = not self._is_late()
            if not wanted:
                self._skip_to_newest_key()
                wanted = not self._is_late()
            event = self._events.popleft()
            if isinstance(event, Piece):
                self._bytes -= event.size
            skipped, self._skipped = self._skipped, 0
            self._changed.notify_all()
            return Taken(event, wanted, skipped)

    def close(self) -> None:
        """Let go of everything; wakes whoever waits."""
        with self._changed:
            self._closed = True
            self._events.clear()
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return self._bytes >= LIMIT_BYTES or len(self._events) >= LIMIT_PIECES

    def _is_late(self) -> bool:
        """Whether the first event is an old piece with a newer one behind it."""
        if self._keeps_all() or len(self._events) < 2:
            return False
        first, second = self._events[0], self._events[1]
        return (
            isinstance(first, Piece)
            and isinstance(second, Piece)
            and now() - first.arrived_s > LATE_S
        )

    def _skip_to_newest_key(self) -> None:
        newest = 0
        for position, event in enumerate(self._events):
            if not isinstance(event, Piece):
                break
            if event.key:
                newest = position
        self._skip(newest)

    def _skip(self, count: int) -> None:
        """Drop the pieces among the first events; what else there is stays."""
        kept = []
        for _ in range(count):
            event = self._events.popleft()
            if isinstance(event, Piece):
                self._bytes -= event.size
                self._skipped += 1
            else:
                kept.append(event)
        self._events.extendleft(reversed(kept))
