"""Times and ceilings of a CUDA GPU: CUDA events, graph replays, a large copy, a large matrix product."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Ceilings", "graphed", "measure_ceilings", "median_us", "peak_bytes"]


@dataclass(frozen=True)
class Ceilings:
    """What this GPU reaches, measured, not read from a data sheet."""

    bandwidth_gbps: float  # bytes read plus bytes written of a copy, 1e9 / s
    fp16_tflops: float
    launch_us: float  # one replay of a graph with a single tiny kernel


def median_us(runs: Sequence[Callable[[], object]], *, repeats: int = 60) -> list[float]:
    """Median time of each function in microseconds. They take turns, so a disturbance hits them all.

    Every measurement is a batch of calls that fills about a millisecond, between two events.
    """
    times: list[list[float]] = [[] for _ in runs]
    calls = [max(1, min(200, round(1000.0 / max(_once_us(run), 1.0)))) for run in runs]
    for _ in range(repeats):
        for run, count, row in zip(runs, calls, times, strict=True):
            row.append(_once_us(run, count))
    return [statistics.median(row) for row in times]


def _once_us(run: Callable[[], object], calls: int = 1) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1000.0 / calls


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as a replay of one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        kept = run()

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def peak_bytes(run: Callable[[], object]) -> int:
    """Memory that `run` needs on the GPU beyond what was allocated before it, with its results."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def measure_ceilings() -> Ceilings:
    source = torch.randn(1 << 28, device="cuda")  # 1 GiB, far beyond the L2 cache
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.float16) for _ in range(2))
    out = torch.empty_like(a)
    tiny = torch.zeros(1, device="cuda")
    copy_us, product_us, launch_us = median_us(
        [
            lambda: target.copy_(source),
            lambda: torch.matmul(a, b, out=out),
            graphed(lambda: tiny.add_(1)),
        ]
    )
    return Ceilings(
        bandwidth_gbps=2 * source.nbytes / copy_us / 1e3,
        fp16_tflops=2 * 8192**3 / product_us / 1e6,
        launch_us=launch_us,
    )
