"""Between two stages of a stream: a short queue with a lane for each source."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

__all__ = ["FrameBuffer", "Lane"]

Item = TypeVar("Item")


class Lane(NamedTuple):
    """How one source is queued."""

    depth: int  # items that wait at most
    newest_only: bool  # a full lane gives up its oldest item; otherwise whoever puts has to wait


def _forget(old: Item, new: Item) -> Item:
    return new


class FrameBuffer(Generic[Item]):
    """Lanes that fill independently of each other and are emptied in turn.

    Every item that was put is either given out by `get`, or reported to `on_drop` exactly once.

    Args:
        lanes: one for each source.
        on_drop: called with (lane, item) for every item that will not be given out. Runs while the
            buffer is locked: it must be quick and must not touch the buffer.
        supersede: makes, of an item that is dropped for want of room and the one after it, what takes
            the latter's place: whatever must not be lost with the former can be carried over.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        on_drop: Callable[[int, Item], None],
        supersede: Callable[[Item, Item], Item] = _forget,
    ):
        if not lanes or min(lane.depth for lane in lanes) < 1:
            raise ValueError(f"lanes must hold at least one item each, got {list(lanes)}")
        self._lanes = tuple(lanes)
        self._on_drop = on_drop
        self._supersede = supersede
        self._items: list[deque[Item]] = [deque() for _ in lanes]
        self._open = [True] * len(lanes)
        self._next = 0  # the lane whose turn it is
        self._changed = threading.Condition()

    def put(self, lane: int, item: Item) -> bool:
        """Add an item. Returns False when nobody will take any more; it has been dropped then."""
        depth, newest_only = self._lanes[lane]
        waiting = self._items[lane]
        with self._changed:
            if not newest_only:
                self._changed.wait_for(lambda: len(waiting) < depth or not self._open[lane])
            if not self._open[lane]:
                self._on_drop(lane, item)
                return False
            waiting.append(item)
            if len(waiting) > depth:
                oldest = waiting.popleft()
                waiting[0] = self._supersede(oldest, waiting[0])
                self._on_drop(lane, oldest)
            self._changed.notify_all()
            return True

    def get(self, timeout_s: float | None, limit: int = 1) -> list[tuple[int, Item]]:
        """Up to `limit` items as (lane, item), one of each lane in turn, those of a lane oldest first.

        Waits only until there is one; the list is empty if none comes in that time (None: however
        long it takes), or none will come any more (see `ended`).
        """
        with self._changed:
            self._changed.wait_for(lambda: any(self._items) or not any(self._open), timeout_s)
            taken: list[tuple[int, Item]] = []
            while len(taken) < limit and any(self._items):
                lane, self._next = self._next, (self._next + 1) % len(self._lanes)
                if self._items[lane]:
                    taken.append((lane, self._items[lane].popleft()))
            if taken:
                self._changed.notify_all()
            return taken

    @property
    def ended(self) -> bool:
        """Whether `get` has nothing more to give."""
        with self._changed:
            return not any(self._items) and not any(self._open)

    def end(self, lane: int | None = None) -> None:
        """Say that nothing more will be put, into this lane or any."""
        with self._changed:
            self._close(lane)

    def discard(self, lane: int | None = None) -> None:
        """Say that nothing more will be taken, of this lane or any: what waits is dropped."""
        with self._changed:
            for number in self._close(lane):
                while self._items[number]:
                    self._on_drop(number, self._items[number].popleft())

    def _close(self, lane: int | None) -> range:
        lanes = range(len(self._lanes)) if lane is None else range(lane, lane + 1)
        for number in lanes:
            self._open[number] = False
        self._changed.notify_all()
        return lanes
