"""Two functions that take turns, so that a disturbance of the machine hits both, and their memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Comparison", "Spread", "compare", "peak_bytes"]

# Threads of OpenMP and OpenBLAS spin for some milliseconds before they sleep: the next one to be
# timed must not find them on its cores.
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Spread:
    """The median of a series and what the middle half of it lies between."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Comparison:
    """Times in milliseconds. A ratio is taken round by round: of two neighbours, then the median."""

    rounds: int
    baseline_wall_ms: Spread
    ours_wall_ms: Spread
    wall_ratio: Spread
    baseline_cpu_ms: Spread
    ours_cpu_ms: Spread
    cpu_ratio: Spread


def compare(
    baseline: Callable[[], object], ours: Callable[[], object], *, rounds: int = 21
) -> Comparison:
    """Alternate the two; who begins alternates as well. One round before counts for nothing.

    CPU time is that of all threads of the process: it stays put while others load the cores, wall
    time does not.
    """
    wall: tuple[list[float], list[float]] = ([], [])
    cpu: tuple[list[float], list[float]] = ([], [])
    runs = (baseline, ours)
    for turn in range(-1, rounds):
        for i in (0, 1) if turn % 2 else (1, 0):
            time.sleep(_PAUSE_S)
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            kept = runs[i]()
            wall_end, cpu_end = time.perf_counter(), time.process_time()
            del kept
            if turn >= 0:
                wall[i].append((wall_end - wall_start) * 1e3)
                cpu[i].append((cpu_end - cpu_start) * 1e3)
    ratios = [
        Spread.of([one / other for one, other in zip(*times, strict=True)]) for times in (wall, cpu)
    ]
    return Comparison(
        rounds,
        Spread.of(wall[0]),
        Spread.of(wall[1]),
        ratios[0],
        Spread.of(cpu[0]),
        Spread.of(cpu[1]),
        ratios[1],
    )


def peak_bytes(run: Callable[[], object]) -> int:
    """Resident memory that `run` needs beyond what the process had before, its result included.

    Linux resets the peak of a process on request (`/proc/self/clear_refs`), so this sees every
    allocator: NumPy's, torch's and OpenCV's. Call it once in a fresh process: memory that an earlier
    call gave back to the allocator, but not to the system, would be used again unseen.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    kept = run()
    peak = _status_bytes("VmHWM")
    del kept
    return peak - before


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
