"""What `solo-edge build-engine` asks about INT8."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.cli.arguments import add_allow_unlike
from solo_edge.cli.console import note, progress
from solo_edge.cli.parser import CommandParser
from solo_edge.errors import UsageError

if TYPE_CHECKING:
    from solo_edge.data.coco import CocoDataset

__all__ = ["add_int8_options", "int8_options", "ranges_of"]


def add_int8_options(parser: CommandParser) -> None:
    """Declare them in a group of their own."""
    group = parser.add_argument_group("int8")
    group.add_argument(
        "--calib",
        type=Path,
        metavar="RANGES.json|DIR",
        help="a file of solo-edge calibrate, or data to calibrate with: its split train, or images alone",
    )
    add_allow_unlike(group)
    group.add_argument(
        "--eval",
        type=Path,
        metavar="DIR",
        help="data (split val) on which mask AP in fp32 and int8 is compared",
    )
    group.add_argument(
        "--max-ap-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="with --eval: an engine that loses more is not written (default: 0.5 of 100)",
    )
    group.add_argument(
        "--no-retry",
        action="store_true",
        help="with --eval: do not look for layers to leave in float when int8 loses too much",
    )


@contextmanager
def int8_options(values: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Arguments of `build_engine`: ranges, which are measured now if there are only images, and the gate."""
    from solo_edge.data.coco import open_dataset

    if values.precision != "int8":
        for option in ("calib", "eval"):
            if getattr(values, option) is not None:
                what = f"--{option} is for int8, this engine is {values.precision}"
                raise UsageError(what, fix="add --precision int8")
        yield {}
        return
    if values.calib is None:
        fix = "add --calib with a file of solo-edge calibrate, or with data"
        raise UsageError("int8 needs the ranges of a calibration", fix=fix)
    evaluation = None if values.eval is None else open_dataset(values.eval, "val")
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        ranges = ranges_of(values, evaluation, Path(folder))
        if evaluation is None:
            note("without --eval nobody knows what int8 costs: compare with solo-edge evaluate")
            yield {"ranges": ranges}
            return
        from solo_edge.accuracy_gate import AccuracyGate

        with progress("evaluating") as show:
            gate = AccuracyGate(
                evaluation,
                values.max_ap_drop,
                retry=not values.no_retry,
                report=note,
                progress=show,
            )
            yield {"ranges": ranges, "accept": gate}


def ranges_of(values: argparse.Namespace, evaluation: CocoDataset | None, folder: Path) -> Path:
    """The file of `--calib`, or of a calibration made now, in `folder`; not with images of `evaluation`."""
    from solo_edge.calibration.folder import open_images
    from solo_edge.quantize import calibrate, refuse_evaluated

    if not values.calib.is_dir():
        if evaluation is not None:
            refuse_evaluated(values.calib, evaluation)
        return Path(values.calib)
    return calibrate(
        values.checkpoint,
        open_images(values.calib, "train"),
        folder / "ranges.json",
        evaluation=evaluation,
        allow_unlike=values.allow_unlike,
        report=note,
        progress=progress,
    )
