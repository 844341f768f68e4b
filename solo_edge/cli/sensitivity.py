"""`solo-edge sensitivity`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from solo_edge.cli.arguments import add_allow_unlike, add_checkpoint, add_out
from solo_edge.cli.console import note, progress, table
from solo_edge.cli.int8 import ranges_of
from solo_edge.cli.parser import Command, CommandParser, positive

__all__ = ["SENSITIVITY"]


def _arguments(parser: CommandParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--calib",
        type=Path,
        required=True,
        metavar="RANGES.json|DIR",
        help="a file of solo-edge calibrate, or data to calibrate with (its split train)",
    )
    parser.add_argument(
        "--eval",
        type=Path,
        required=True,
        metavar="DIR",
        help="data (split val) to measure on; none of its images may have served to calibrate",
    )
    parser.add_argument(
        "--max-images", type=positive, metavar="N", help="only its first N images (default: all)"
    )
    parser.add_argument(
        "--ap-layers",
        type=positive,
        default=10,
        metavar="N",
        help="measure mask AP for the N layers that hurt most for their work (default: 10)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: one for each core)"
    )
    add_allow_unlike(parser)
    add_out(
        parser,
        "REPORT",
        "folder for report.json, .csv and .md; or a file name like REPORT.json for its stem",
    )


def _run(values: argparse.Namespace) -> None:
    from solo_edge.data.coco import open_dataset
    from solo_edge.report import report_files
    from solo_edge.sensitivity import HEADER, measure_sensitivity, save, table_row

    files = report_files(values.out)
    evaluation = open_dataset(values.eval, "val")
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        ranges = ranges_of(values, evaluation, Path(folder))
        with progress("measuring") as show:
            found = measure_sensitivity(
                values.checkpoint,
                ranges,
                evaluation,
                ap_layers=values.ap_layers,
                max_images=values.max_images,
                threads=values.threads,
                report=note,
                progress=show,
            )
    save(found, files)
    table(HEADER, [table_row(row) for row in found.layers])


SENSITIVITY = Command(
    "sensitivity",
    "Find out which layers INT8 hurts, and what each costs and gains.",
    "solo-edge sensitivity runs/scenes --calib scenes --eval scenes -o sensitivity",
    _arguments,
    _run,
)
