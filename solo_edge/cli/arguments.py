"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path

from solo_edge.cli.parser import CommandParser

__all__ = ["DATA_HELP", "add_allow_unlike", "add_checkpoint", "add_data", "add_model", "add_out"]

DATA_HELP = (
    "COCO, LabelMe, YOLO-seg, Pascal VOC or mask-image data set, such as DIR/SPLIT.json, DIR/SPLIT/"
)


def add_checkpoint(parser: CommandParser) -> None:
    """CHECKPOINT: what only a checkpoint can give."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=".safetensors file or the folder of a training run",
    )


def add_model(parser: CommandParser, name: str = "model", metavar: str = "MODEL") -> None:
    """MODEL: whatever can run."""
    parser.add_argument(
        name,
        type=Path,
        metavar=metavar,
        help="engine folder, checkpoint or folder of a training run",
    )


def add_data(parser: CommandParser, split: str, what: str = DATA_HELP) -> None:
    """--data and --split.

    Args:
        split: the default.
        what: the help text of --data.
    """
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help=what)
    parser.add_argument(
        "--split",
        default=split,
        metavar="NAME",
        help=f"which part of the data (default: {split})",
    )


def add_allow_unlike(parser: CommandParser | argparse._ArgumentGroup) -> None:
    """--allow-unlike, for whoever knows better than `solo_edge.calibration.plausibility`."""
    parser.add_argument(
        "--allow-unlike",
        action="store_true",
        help="calibrate also with images that clearly are not what the network was trained on",
    )


def add_out(parser: CommandParser, metavar: str, what: str) -> None:
    """--out, which must be given.

    Args:
        what: the help text.
    """
    parser.add_argument("--out", "-o", type=Path, required=True, metavar=metavar, help=what)
