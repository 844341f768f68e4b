"""`solo-edge build-engine` in two halves: `--portable` on a workstation, and the rest on the device."""

from __future__ import annotations

import argparse

from solo_edge.cli.console import note
from solo_edge.cli.int8 import int8_options
from solo_edge.cli.parser import CommandParser, config_values, one_of
from solo_edge.cli.tensorrt_options import tensorrt_build
from solo_edge.config import PostprocessConfig
from solo_edge.errors import UsageError
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.portable_folder import GRAPH, finishing_command, is_portable

__all__ = ["add_portable_option", "finish_portable", "write_portable"]

# Decided when the portable folder was made; thresholds as well.
DECIDED = ("portable", "precision", "graph", "batch", "calib", "eval", "allow_unlike", "no_retry")


def add_portable_option(parser: CommandParser) -> None:
    from solo_edge.kernels.aot_targets import ALIASES, TARGETS

    parser.add_argument(
        "--portable",
        type=one_of("target", (*ALIASES, *TARGETS)),
        metavar="GPU",
        help="TensorRT: write what a device with that GPU makes its engine of, without PyTorch there:"
        f" {', '.join((*ALIASES, *TARGETS))}",
    )


def write_portable(values: argparse.Namespace) -> bool:
    """Write a portable folder if one is asked for; whether it was."""
    if values.portable is None:
        return False
    if values.backend not in ("auto", "tensorrt"):
        what = f"--portable is for TensorRT, and the backend is {values.backend}"
        raise UsageError(what, fix="use --backend tensorrt")
    if values.batch != 1:
        fix = "leave --batch out, or build the engine on the device itself"
        raise UsageError("portable folders are for one image at a time", fix=fix)
    if given := config_values(TensorRTOptions, values):
        what = f"{_option(next(iter(given)))} is for the build on the device"
        raise UsageError(what, fix="give it there, together with the portable folder")
    values.backend = "tensorrt"
    from solo_edge.export.portable import build_portable

    with int8_options(values) as int8:
        written = build_portable(
            values.checkpoint,
            values.out,
            target=values.portable,
            precision=values.precision,
            graph=values.graph,
            **int8,
            report=note,
            **config_values(PostprocessConfig, values),
        )
    note(f"copy the folder to the device, and there: {finishing_command(written.path)}")
    print(written.path)
    return True


def finish_portable(values: argparse.Namespace) -> bool:
    """Build the engine of a portable folder if that is what was given; whether it was."""
    folder = values.checkpoint
    if not is_portable(folder) and (folder.suffix != ".portable" or folder.is_file()):
        return False
    given = [name for name in DECIDED if getattr(values, name) not in (None, False)]
    given += list(config_values(PostprocessConfig, values))
    if values.backend not in (None, "tensorrt"):
        given.append("backend")
    if given:
        what = f"{_option(given[0])} was decided when the portable folder was made"
        raise UsageError(what, where=folder, fix="leave it out; solo-edge inspect shows it")
    values.backend = "tensorrt"
    from solo_edge.export.finish import finish_engine

    with tensorrt_build(values, folder / GRAPH) as tensorrt:
        engine = finish_engine(folder, values.out, **tensorrt, report=note)
    print(engine)
    return True


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
