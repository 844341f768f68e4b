"""Speed and mask AP of engines, from the same engine on the same images.

Protocol. One image at a time, from the bytes of its file to boolean masks of its own size in memory:
decode, preprocess, network, postprocess, masks. Several engines take turns image by image, each with its
own decoding and in an order that rotates, so that a disturbance of the machine meets them all. Each has
`warmup` untimed images first. The detections of the timed images are what the AP is computed from.

FPS is (n - 1) / (t_last - t_first) on the engine's own clock, which stands still while another engine
has its turn: the rate of one engine alone working image after image. It is not a mean of 1 / latency.

The network does the same work for every image (static shapes), so the spread of its time is the noise of
the machine: a coefficient of variation over `NOISY` marks the row.

Start-up time and memory come from a fresh process for each engine (`solo_edge.cold_start`).
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from solo_edge import environment
from solo_edge.cold_start import ColdStart, measure
from solo_edge.errors import UsageError
from solo_edge.evaluate import coco_metrics, coco_results, count_images, match_classes
from solo_edge.report import Report, Row, report_files, save_report
from solo_edge.video.clock import frames_per_second

if TYPE_CHECKING:
    from solo_edge.data.coco import CocoDataset
    from solo_edge.runtime.engine import Engine

__all__ = ["STAGES", "benchmark", "percentiles", "rate"]

STAGES = ("decode", "preprocess", "network", "postprocess", "masks")
NOISY = 0.05  # coefficient of variation of the network's time


@dataclass
class Lane:
    """One engine in the race, and what was measured of it."""

    path: Path
    name: str
    engine: Engine
    cold_start: ColdStart
    category_ids: tuple[int, ...]
    times_ms: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    detections: list[dict[str, Any]] = field(default_factory=list)

    def take(self, dataset: CocoDataset, index: int, *, timed: bool) -> None:
        """Segment one image; keep its times and detections if `timed`."""
        start = time.perf_counter()
        image = dataset.image(index)
        decoded = time.perf_counter()
        found, stages = self.engine.run(image)
        ran = time.perf_counter()
        _ = found.masks
        done = time.perf_counter()
        if not timed:
            return
        for stage, value in (
            ("decode", (decoded - start) * 1e3),
            ("preprocess", stages.preprocess_ms),
            ("network", stages.network_ms),
            ("postprocess", stages.postprocess_ms),
            ("masks", (done - ran) * 1e3),
        ):
            self.times_ms[stage].append(value)
        self.detections += coco_results(found, dataset.image_ids[index], self.category_ids)


def benchmark(
    paths: Sequence[Path],
    dataset: CocoDataset,
    out: Path,
    *,
    threads: int | None = None,
    warmup: int = 10,
    max_images: int | None = None,
    thresholds: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure each engine and write report.json, report.csv and report.md.

    Args:
        paths: engine folders, checkpoints or folders of training runs.
        out: where the report goes, see `solo_edge.report.report_files`.
        threads: CPU threads of each network; None for all cores.
        warmup: untimed images for each engine.
        max_images: use only the first ones.
        thresholds: fields of `PostprocessConfig` that replace the engines' own.
        progress: called with (done, total) after each image of each engine.

    Raises:
        UsageError: no engine, or fewer than two images.
        ArtifactError: an engine does not load here, or its classes are not those of the data.
        ResourceError: `out` cannot be written, or memory ran out.
    """
    files = report_files(out)  # a place that cannot be written shows now, not after minutes
    images = count_images(dataset, max_images)
    if not paths:
        raise UsageError("no engine to measure", fix="give at least one engine folder")
    if images < 2:
        raise UsageError("a rate needs at least two images", where=dataset.path)
    options = {"threads": threads, **(thresholds or {})}
    names = _names(paths)
    # Before anything is loaded here: these processes should have the machine to themselves.
    cold_starts = [measure(path, dataset.image_path(0), options) for path in paths]
    with contextlib.ExitStack() as stack:
        lanes = [
            _lane(stack, path, name, cold_start, dataset, options)
            for path, name, cold_start in zip(paths, names, cold_starts, strict=True)
        ]
        _race(lanes, dataset, images, warmup, progress)
        rows = [_row(lane, dataset, images) for lane in lanes]
    report = Report(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        data=dataset.path.resolve().name,
        split=dataset.split,
        images=images,
        warmup=warmup,
        threads=threads or environment.cpu_count(),
        thresholds=thresholds or {},
        environment=environment.describe(),
        rows=rows,
    )
    save_report(report, files)
    return report


def percentiles(values_ms: Sequence[float]) -> dict[str, float]:
    """Median, 90th and 99th percentile and mean, linear between the values."""
    array = np.asarray(values_ms, dtype=np.float64)
    p50, p90, p99 = np.percentile(array, (50, 90, 99))
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "mean": float(array.mean())}


def rate(durations_ms: Sequence[float]) -> float:
    """Results per second of results that take turns: `frames_per_second` on the clock that they make."""
    finished_s = np.cumsum(np.asarray(durations_ms, dtype=np.float64)) / 1e3
    value = frames_per_second(len(finished_s), float(finished_s[0]), float(finished_s[-1]))
    return 0.0 if value is None else value


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, or the whole path where two would have the same name."""
    last = [path.resolve().name for path in paths]
    unique = len(set(last)) == len(last)
    return last if unique else [str(path) for path in paths]


def _lane(
    stack: contextlib.ExitStack,
    path: Path,
    name: str,
    cold_start: ColdStart,
    dataset: CocoDataset,
    options: dict[str, Any],
) -> Lane:
    from solo_edge.runtime.engine import open_predictor

    engine = stack.enter_context(open_predictor(path, **options))
    return Lane(path, name, engine, cold_start, match_classes(engine.class_names, dataset))


def _race(
    lanes: Sequence[Lane],
    dataset: CocoDataset,
    images: int,
    warmup: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    for index in range(images):  # into the page cache, so that the first engine pays for no disk
        dataset.image_path(index).read_bytes()
    for lane in lanes:
        for index in range(warmup):
            lane.take(dataset, index % images, timed=False)
    for index in range(images):
        first = index % len(lanes)
        for turn, lane in enumerate([*lanes[first:], *lanes[:first]]):
            lane.take(dataset, index, timed=True)
            if progress is not None:
                progress(index * len(lanes) + turn + 1, images * len(lanes))


def _row(lane: Lane, dataset: CocoDataset, images: int) -> Row:
    stats, per_class = coco_metrics(dataset, lane.detections, images)
    total = [sum(values) for values in zip(*lane.times_ms.values(), strict=True)]
    network = np.asarray(lane.times_ms["network"], dtype=np.float64)
    variation = float(network.std(ddof=1) / network.mean())
    latency = {stage: percentiles(values) for stage, values in lane.times_ms.items()}
    return Row(
        name=lane.name,
        backend=lane.engine.backend,
        precision=lane.engine.precision,
        graph=lane.engine.graph,
        input_size=lane.engine.preprocess.input_size,
        stats=stats,
        per_class=per_class,
        fps=rate(total),
        latency_ms={**latency, "total": percentiles(total)},
        network_cv=variation,
        noisy=variation > NOISY,
        size_bytes=_size_bytes(lane),
        cold_start=lane.cold_start,
    )


def _size_bytes(lane: Lane) -> int:
    """All files of an engine folder, or the one checkpoint that was loaded."""
    if lane.engine.manifest is not None:
        return sum(file.stat().st_size for file in lane.path.rglob("*") if file.is_file())
    from solo_edge.checkpoint import find_checkpoint

    return find_checkpoint(lane.path).stat().st_size
