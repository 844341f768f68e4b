"""`solo-edge predict` and `solo-edge stream`."""

from __future__ import annotations

import argparse
from pathlib import Path

from solo_edge.cli.parser import Command, CommandParser
from solo_edge.cli.thresholds import add_model_options

__all__ = ["PREDICT", "STREAM"]


def _predict_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        metavar="ENGINE",
        help="engine folder, checkpoint or folder of a training run",
    )
    add_model_options(parser)


def _predict(values: argparse.Namespace) -> None:
    raise AssertionError(values)


PREDICT = Command(
    "predict",
    "Segment images or a video; draw what was found and write it down.",
    "solo-edge predict scenes.engine photos/ -o drawn/ --json found.jsonl",
    _predict_arguments,
    _predict,
)
STREAM = Command(
    "stream",
    "Segment a camera, a stream or a file as it comes.",
    "solo-edge stream scenes.engine 0 --save camera.mp4",
    _predict_arguments,
    _predict,
)
