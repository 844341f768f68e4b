"""`solo-edge evaluate` and `solo-edge benchmark`."""

from __future__ import annotations

import argparse
from pathlib import Path

from solo_edge.cli.arguments import add_data, add_model, add_out
from solo_edge.cli.console import note, progress, table
from solo_edge.cli.parser import Command, CommandParser, config_values, positive
from solo_edge.cli.thresholds import add_model_options, model_options
from solo_edge.config import PostprocessConfig

__all__ = ["BENCHMARK", "EVALUATE"]


def _data_arguments(parser: CommandParser) -> None:
    add_data(parser, "val")
    parser.add_argument(
        "--max-images", type=positive, metavar="N", help="only the first N images (default: all)"
    )


def _evaluate_arguments(parser: CommandParser) -> None:
    add_model(parser)
    _data_arguments(parser)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the detections as COCO results"
    )
    add_model_options(parser)


def _evaluate(values: argparse.Namespace) -> None:
    from solo_edge.data.coco import open_dataset
    from solo_edge.evaluate import evaluate
    from solo_edge.report import check_writable
    from solo_edge.runtime.engine import open_predictor

    if values.json is not None:
        check_writable(values.json)
    dataset = open_dataset(values.data, values.split)
    for warning in dataset.warnings:
        note(warning)
    with (
        open_predictor(values.model, **model_options(values)) as predict,
        progress("evaluating") as show,
    ):
        result = evaluate(predict, dataset, progress=show, max_images=values.max_images)
    if values.json is not None:
        result.save_detections(values.json)
        note(f"{len(result.detections)} detections in {values.json}")
    table(["class", "mask AP"], [[n, _ap(value)] for n, value in result.per_class.items()])
    table([f"{result.images} images", *result.stats], [["mask", *map(_ap, result.stats.values())]])


def _ap(value: float) -> str:
    return f"{value:.3f}" if value >= 0 else "-"


def _benchmark_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "engines",
        type=Path,
        nargs="+",
        metavar="ENGINE",
        help="engine folders or checkpoints; they take turns image by image",
    )
    _data_arguments(parser)
    what = "folder for report.json, .csv and .md; or a file name like REPORT.json for its stem"
    add_out(parser, "REPORT", what)
    parser.add_argument(
        "--warmup",
        type=positive,
        default=10,
        metavar="N",
        help="untimed images for each engine (default: 10)",
    )
    add_model_options(parser)


def _benchmark(values: argparse.Namespace) -> None:
    from solo_edge.benchmark import benchmark
    from solo_edge.data.coco import open_dataset
    from solo_edge.report import HEADER, table_row

    dataset = open_dataset(values.data, values.split)
    for warning in dataset.warnings:
        note(warning)
    with progress("measuring") as show:
        report = benchmark(
            values.engines,
            dataset,
            values.out,
            threads=values.threads,
            warmup=values.warmup,
            max_images=values.max_images,
            thresholds=config_values(PostprocessConfig, values),
            progress=show,
        )
    table(HEADER, [table_row(row) for row in report.rows])
    if any(row.noisy for row in report.rows):
        note("note: rows marked NOISY were measured on a machine that was busy; run again")


EVALUATE = Command(
    "evaluate",
    "Measure the COCO mask AP of an engine, a checkpoint or a training run.",
    "solo-edge evaluate scenes.engine --data scenes --split val --json detections.json",
    _evaluate_arguments,
    _evaluate,
)
BENCHMARK = Command(
    "benchmark",
    "Measure speed and mask AP of engines on the same images, one row each.",
    "solo-edge benchmark fp32.engine bf16.engine --data scenes -o report",
    _benchmark_arguments,
    _benchmark,
)
