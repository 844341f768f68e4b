"""Between the thread that captures frames and the one that works on them."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, NamedTuple, TypeVar

__all__ = ["Counts", "FrameBuffer"]

Item = TypeVar("Item")


class Counts(NamedTuple):
    """Items by their fate."""

    put: int
    got: int
    dropped: int


class FrameBuffer(Generic[Item]):
    """A short queue that either keeps everything or only the newest; it counts what went where.

    Args:
        depth: how many items it holds.
        newest_only: `put` throws the oldest item out of a full buffer instead of waiting for room.
    """

    def __init__(self, depth: int, *, newest_only: bool):
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self._depth = depth
        self._newest_only = newest_only
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._error: BaseException | None = None
        self._put = 0
        self._got = 0
        self._dropped = 0

    def put(self, item: Item) -> bool:
        """Add an item. Returns False when nobody will take any more; this one then counts as dropped."""
        with self._changed:
            self._put += 1
            while len(self._items) >= self._depth and not self._ended:
                if self._newest_only:
                    self._items.popleft()
                    self._dropped += 1
                else:
                    self._changed.wait()
            if self._ended:
                self._dropped += 1
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float) -> Item | None:
        """The oldest item; None if none comes in that time, or none will come any more (see `ended`).

        Raises:
            The error given to `end`, once the items before it have been taken.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended, timeout_s)
            if self._items:
                self._got += 1
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            return None

    def counts(self) -> Counts:
        """What went where so far. Once it is discarded, put = got + dropped."""
        with self._changed:
            return Counts(self._put, self._got, self._dropped)

    @property
    def ended(self) -> bool:
        """Whether `get` has nothing more to give."""
        with self._changed:
            return self._ended and not self._items and self._error is None

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more will be put, perhaps because of an error."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def discard(self) -> None:
        """Say that nothing more will be taken: what is inside counts as dropped."""
        with self._changed:
            self._ended, self._error = True, None
            self._dropped += len(self._items)
            self._items.clear()
            self._changed.notify_all()
