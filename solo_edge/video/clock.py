"""Time arithmetic for streams: rates from instants, percentiles of durations, in constant memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

__all__ = ["Durations", "FpsMeter", "StageClock", "Summary", "frames_per_second", "now"]

now = time.perf_counter  # monotonic: it does not jump when somebody sets the system's clock


def frames_per_second(count: int, first_s: float, last_s: float) -> float | None:
    """Rate of `count` instants of which the first and the last are given: (n - 1) / (t_last - t_first).

    n instants bound n - 1 intervals. None if there is no interval or it has no length.
    """
    if count < 2 or not last_s > first_s:
        return None
    return (count - 1) / (last_s - first_s)


class FpsMeter:
    """Frames per second, over all ticks and over the last few.

    Args:
        window: number of the latest ticks that `recent` looks at, at least 2.
    """

    def __init__(self, window: int = 30):
        if window < 2:
            raise ValueError(f"window must be at least 2, got {window}")
        self._latest: deque[float] = deque(maxlen=window)
        self._first_s = 0.0
        self.count = 0

    def tick(self, at_s: float | None = None) -> None:
        """A frame is done, now or at `at_s` on the clock `now`."""
        at_s = now() if at_s is None else at_s
        if self.count == 0:
            self._first_s = at_s
        self._latest.append(at_s)
        self.count += 1

    @property
    def overall(self) -> float | None:
        """Since the first tick; None before the second."""
        return (
            frames_per_second(self.count, self._first_s, self._latest[-1]) if self.count else None
        )

    @property
    def recent(self) -> float | None:
        """Over the window; None before the second tick."""
        count = len(self._latest)
        return frames_per_second(count, self._latest[0], self._latest[-1]) if count else None


@dataclass(frozen=True)
class Summary:
    """What a set of durations looks like, in milliseconds; percentiles are nearest-rank."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


# Bins from 1 µs to 1000 s, each 1 % wider than the one before.
_SMALLEST_MS = 1e-3
_LARGEST_MS = 1e6
_GROWTH = math.log(1.01)
_BINS = math.ceil(math.log(_LARGEST_MS / _SMALLEST_MS) / _GROWTH) + 1


class Durations:
    """Count, mean, extremes and percentiles of any number of durations, in 17 kB.

    A stream may run for weeks, so the values themselves are not kept but counted in logarithmic
    bins: a percentile is within 0.5 % of the exact one. Count, mean and extremes are exact.
    """

    def __init__(self, values_ms: Sequence[float] = ()) -> None:
        self._bins = np.zeros(_BINS, dtype=np.int64)
        self.count = 0
        self.total_ms = 0.0
        self.min_ms = math.inf
        self.max_ms = 0.0
        for value in values_ms:
            self.add(value)

    def add(self, value_ms: float) -> None:
        """Count one duration.

        Raises:
            ValueError: it is negative or no number.
        """
        if not 0.0 <= value_ms < math.inf:
            raise ValueError(f"a duration must be a number of at least 0 ms, got {value_ms}")
        position = math.log(max(value_ms, _SMALLEST_MS) / _SMALLEST_MS) / _GROWTH
        self._bins[min(int(position), _BINS - 1)] += 1
        self.count += 1
        self.total_ms += value_ms
        self.min_ms = min(self.min_ms, value_ms)
        self.max_ms = max(self.max_ms, value_ms)

    def percentile(self, percent: float) -> float:
        """The smallest duration that is not exceeded by `percent` of them, in milliseconds.

        Raises:
            ValueError: nothing has been counted, or `percent` is outside (0, 100].
        """
        if self.count == 0:
            raise ValueError("there are no durations yet")
        if not 0.0 < percent <= 100.0:
            raise ValueError(f"percent must be in (0, 100], got {percent}")
        rank = math.ceil(self.count * percent / 100.0)
        if rank == self.count:
            return self.max_ms
        position = int(np.searchsorted(np.cumsum(self._bins), rank))
        middle = _SMALLEST_MS * math.exp((position + 0.5) * _GROWTH)
        return min(max(middle, self.min_ms), self.max_ms)

    def summary(self) -> Summary:
        """Raises ValueError when nothing has been counted."""
        p50, p90, p99 = (self.percentile(percent) for percent in (50, 90, 99))
        return Summary(self.count, self.total_ms / self.count, p50, p90, p99, self.max_ms)


class StageClock:
    """Durations by the name of the stage, in the order in which the stages first came."""

    def __init__(self) -> None:
        self._stages: dict[str, Durations] = {}

    def add(self, stage: str, value_ms: float) -> None:
        self._stages.setdefault(stage, Durations()).add(value_ms)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the wall time of the block, if it succeeds."""
        start = now()
        yield
        self.add(stage, 1000.0 * (now() - start))

    def summary(self) -> dict[str, Summary]:
        return {stage: durations.summary() for stage, durations in self._stages.items()}
