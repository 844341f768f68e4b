"""`solo-edge calibrate`."""

from __future__ import annotations

import argparse

from solo_edge.cli.arguments import (
    DATA_HELP,
    add_allow_unlike,
    add_checkpoint,
    add_data,
    add_out,
)
from solo_edge.cli.console import note, progress
from solo_edge.cli.parser import Command, CommandParser, one_of, positive
from solo_edge.quantize import METHODS, calibrate

__all__ = ["CALIBRATE", "add_method"]


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
    parser.add_argument(
        "--no-bias-correction",
        action="store_true",
        help="leave the biases as they are, though rounding shifts the means",
    )


def _arguments(parser: CommandParser) -> None:
    add_checkpoint(parser)
    add_data(parser, "train", f"{DATA_HELP}; or a folder of images alone")
    add_method(parser)
    add_allow_unlike(parser)
    add_out(parser, "RANGES.json", "file to write")


def _calibrate(values: argparse.Namespace) -> None:
    from solo_edge.calibration.folder import open_images
    from solo_edge.report import check_writable

    check_writable(values.out)
    path = calibrate(
        values.checkpoint,
        open_images(values.data, values.split),
        values.out,
        images=values.images,
        method=values.method,
        percentile=values.percentile,
        bias_correction=not values.no_bias_correction,
        allow_unlike=values.allow_unlike,
        report=note,
        progress=progress,
    )
    print(path)


CALIBRATE = Command(
    "calibrate",
    "Measure the ranges of a network's activations on your images, for an INT8 engine.",
    "solo-edge calibrate runs/scenes --data scenes -o ranges.json",
    _arguments,
    _calibrate,
)
