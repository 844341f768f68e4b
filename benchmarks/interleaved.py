"""Two functions that take turns, so that a disturbance of the machine hits both, and their memory."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Comparison", "Spread", "compare", "peak_bytes"]

# Threads of OpenMP and OpenBLAS spin for some milliseconds before they sleep: the next one to be
# timed must not find them on its cores.
_PAUSE_S = 0.05
# A round counts as disturbed if others used more than this share of one core meanwhile; the kernel
# counts in hundredths of a second, so a few of them are forgiven.
_OTHERS_SHARE, _OTHERS_S = 0.1, 0.03
_MOST_ROUNDS = 10  # times the rounds wanted, until disturbed ones count as well


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
    disturbed: int  # rounds among them in which other processes were busy
    baseline_wall_ms: Spread
    ours_wall_ms: Spread
    wall_ratio: Spread
    baseline_cpu_ms: Spread
    ours_cpu_ms: Spread
    cpu_ratio: Spread


@dataclass(frozen=True)
class _Round:
    wall_ms: list[float]  # baseline, ours
    cpu_ms: list[float]
    disturbed: bool


def compare(
    baseline: Callable[[], object], ours: Callable[[], object], *, rounds: int = 21
) -> Comparison:
    """Alternate the two; who begins alternates as well. One round before counts for nothing.

    CPU time is that of all threads of the process: it stays put while others load the cores, wall
    time does not. Rounds in which others were busy are measured again, as long as that has a chance.
    """
    runs = (baseline, ours)
    _round(runs, 0)
    found: list[_Round] = []
    for turn in range(_MOST_ROUNDS * rounds):
        found.append(_round(runs, turn % 2))
        if sum(not one.disturbed for one in found) == rounds:
            break
    # The sort is stable: in a disturbed series these are its first rounds, not its best.
    counted = sorted(found, key=lambda one: one.disturbed)[:rounds]
    series = [
        [getattr(one, kind)[side] for one in counted]
        for kind in ("wall_ms", "cpu_ms")
        for side in (0, 1)
    ]
    wall_ratio, cpu_ratio = (
        Spread.of([one / other for one, other in zip(series[i], series[i + 1], strict=True)])
        for i in (0, 2)
    )
    baseline_wall, ours_wall, baseline_cpu, ours_cpu = map(Spread.of, series)
    disturbed = sum(one.disturbed for one in counted)
    return Comparison(
        rounds,
        disturbed,
        baseline_wall,
        ours_wall,
        wall_ratio,
        baseline_cpu,
        ours_cpu,
        cpu_ratio,
    )


def _round(runs: tuple[Callable[[], object], ...], first: int) -> _Round:
    wall_ms, cpu_ms = [0.0, 0.0], [0.0, 0.0]
    start, others = time.perf_counter(), _seconds_of_others()
    for side in (first, 1 - first):
        time.sleep(_PAUSE_S)
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        kept = runs[side]()
        wall_end, cpu_end = time.perf_counter(), time.process_time()
        del kept
        wall_ms[side] = (wall_end - wall_start) * 1e3
        cpu_ms[side] = (cpu_end - cpu_start) * 1e3
    others = _seconds_of_others() - others
    limit = _OTHERS_S + _OTHERS_SHARE * (time.perf_counter() - start)
    return _Round(wall_ms, cpu_ms, others > limit)


def _seconds_of_others() -> float:
    """CPU time that this machine has spent outside this process, since some moment; Linux only."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split()[1:9]]
    except OSError:
        return 0.0
    busy = sum(fields) - fields[3] - fields[4]  # less idle and waiting for a disk
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


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
