"""Which image each loading process has in hand, for the message when one of them hangs or dies."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence

__all__ = ["WorkerWatch"]

NOTHING = -1.0


class WorkerWatch:
    """A table in memory that all processes share: one row (image index, since when) for each worker."""

    def __init__(self, workers: int):
        self.workers = workers
        self._table = multiprocessing.RawArray("d", [NOTHING, 0.0] * workers)

    def begin(self, worker: int, index: int) -> None:
        """`worker` starts to work on image `index`."""
        # The time first: a row that is read in between must not look old.
        self._table[2 * worker + 1] = time.monotonic()
        self._table[2 * worker] = float(index)

    def end(self, worker: int) -> None:
        self._table[2 * worker] = NOTHING

    def in_hand(self, *, longer_than: float = 0.0) -> Sequence[int]:
        """The images that workers have had in hand for more than `longer_than` seconds, the oldest first."""
        now = time.monotonic()
        rows = [(self._table[2 * i + 1], self._table[2 * i]) for i in range(self.workers)]
        return [int(i) for start, i in sorted(rows) if i != NOTHING and now - start > longer_than]
