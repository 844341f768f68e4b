"""`solo-edge calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from solo_edge.cli.console import note, progress
from solo_edge.cli.parser import Command, CommandParser, one_of, positive

__all__ = ["CALIBRATE", "add_method"]

METHODS = ("entropy", "percentile", "max", "mse")


def add_method(parser: CommandParser) -> None:
    parser.add_argument(
        "--images",
        type=positive,
        default=256,
        metavar="N",
        help="how many images to calibrate with (default: 256)",
    )
    parser.add_argument(
        "--method",
        type=one_of("method", METHODS),
        default="entropy",
        metavar="|".join(METHODS),
        help="how much an outlier counts (default: entropy)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.99,
        metavar="P",
        help="share of the values that percentile keeps, in percent (default: 99.99)",
    )


def _arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=".safetensors file or the folder of a training run",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="images and COCO annotations: DIR/SPLIT.json with DIR/SPLIT/",
    )
    parser.add_argument(
        "--split", default="train", metavar="NAME", help="part of the data (default: train)"
    )
    add_method(parser)
    parser.add_argument(
        "--out", "-o", type=Path, required=True, metavar="RANGES.json", help="file to write"
    )


def _calibrate(values: argparse.Namespace) -> None:
    from solo_edge.data.coco import open_dataset
    from solo_edge.quantize import calibrate
    from solo_edge.report import check_writable

    check_writable(values.out)
    dataset = open_dataset(values.data, values.split)
    with progress("calibrating") as show:
        path = calibrate(
            values.checkpoint,
            dataset,
            values.out,
            images=values.images,
            method=values.method,
            percentile=values.percentile,
            report=note,
            progress=show,
        )
    print(path)


CALIBRATE = Command(
    "calibrate",
    "Measure the ranges of a network's activations on your images, for an INT8 engine.",
    "solo-edge calibrate runs/scenes --data scenes -o ranges.json",
    _arguments,
    _calibrate,
)
