"""`solo-edge kernels`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from solo_edge.cli.console import note, table
from solo_edge.cli.parser import Command, CommandParser, one_of, positive
from solo_edge.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from solo_edge.kernels.aot_targets import Target
    from solo_edge.kernels.plan import Sizes

__all__ = ["KERNELS"]

ACTIONS = ("build", "check")
DTYPES = {"fp32": "float32", "fp16": "float16"}
SIZES = {
    "batch": (1, "images of one run"),
    "classes": (80, "classes"),
    "channels": (128, "channels of the mask features"),
    "height": (112, "height of the mask features"),
    "width": (192, "width of the mask features"),
    "k": (500, "candidates that get a mask"),
    "instances": (100, "instances that are kept"),
}


def _arguments(parser: CommandParser) -> None:
    from solo_edge.kernels.aot_targets import ALIASES, TARGETS

    parser.add_argument(
        "action",
        type=one_of("action", ACTIONS),
        metavar="|".join(ACTIONS),
        help="build: write a folder of kernels; check: compile them and show what they cost",
    )
    parser.add_argument(
        "--target",
        type=one_of("target", (*ALIASES, *TARGETS)),
        metavar="NAME",
        help=f"GPU to compile for: {', '.join((*ALIASES, *TARGETS))} (check: all of them if absent)",
    )
    parser.add_argument(
        "--out", "-o", type=Path, metavar="DIR", help="folder of kernels to write (build)"
    )
    parser.add_argument(
        "--dtype",
        type=one_of("type", DTYPES),
        default="fp32",
        metavar="|".join(DTYPES),
        help="type of the mask kernels and mask features (default: fp32, as engines have them)",
    )
    parser.add_argument(
        "--decay",
        type=one_of("decay", ("gaussian", "linear")),
        default="gaussian",
        metavar="gaussian|linear",
        help="decay of Matrix NMS (default: gaussian); thresholds can be changed where they run",
    )
    parser.add_argument(
        "--ptx",
        type=_ptx_version,
        metavar="X.Y",
        help="version of the target's PTX (default: one that its oldest drivers take)",
    )
    group = parser.add_argument_group("sizes, which must be those of the network")
    for name, (default, text) in SIZES.items():
        help_text = f"{text} (default: {default})"
        group.add_argument(f"--{name}", type=positive, default=default, metavar="N", help=help_text)
    group.add_argument(
        "--grid-sizes",
        type=positive,
        nargs="+",
        default=(40, 36, 24, 16, 12),
        metavar="N",
        help="cells along one side of each level's grid (default: 40 36 24 16 12)",
    )


def _ptx_version(text: str) -> int:
    major, _, minor = text.partition(".")
    if not (major.isdigit() and minor.isdigit() and len(minor) == 1):
        raise argparse.ArgumentTypeError(f"{text!r} is no PTX version such as 8.0")
    return int(major + minor)


def _run(values: argparse.Namespace) -> None:
    from solo_edge.kernels.aot_targets import TARGETS, find_target

    sizes = _sizes(values)
    if values.action == "check":
        targets = list(TARGETS.values()) if values.target is None else [find_target(values.target)]
        _check(sizes, [_with_ptx(target, values.ptx) for target in targets])
        return
    if values.target is None or values.out is None:
        missing = "--target" if values.target is None else "-o/--out"
        fix = "solo-edge kernels build --target orin -o orin.kernels"
        raise UsageError(f"kernels build needs {missing}", fix=f"for example: {fix}")
    _build(values, sizes, _with_ptx(find_target(values.target), values.ptx))


def _build(values: argparse.Namespace, sizes: Sizes, target: Target) -> None:
    from solo_edge.config import ModelConfig
    from solo_edge.kernels.aot_folder import build_kernels
    from solo_edge.kernels.plan import Thresholds, postprocess_plan
    from solo_edge.kernels.preprocess import FrameSizes, preprocess_plan
    from solo_edge.kernels.resize import STRIDE
    from solo_edge.kernels.tiles import Tiles

    usual = ModelConfig()
    plans = {
        "preprocess": preprocess_plan(
            FrameSizes(STRIDE * sizes.height, STRIDE * sizes.width),
            Tiles(),
            pixel_mean=usual.pixel_mean,
            pixel_std=usual.pixel_std,
        ),
        "postprocess": postprocess_plan(
            sizes, Thresholds(decay=values.decay), Tiles(), dtype=DTYPES[values.dtype]
        ),
    }
    print(build_kernels(values.out, plans, sizes, target, report=note))


def _check(sizes: Sizes, targets: list[Target]) -> None:
    from solo_edge.kernels.aot_report import HEADER, cells, compile_report, gate_plans

    rows = []
    for target in targets:
        note(f"compiling for {target.name}")
        rows += compile_report(target, gate_plans(sizes))
    table(HEADER, [cells(row) for row in rows])
    bad = [row for row in rows if row.problems]
    if bad:
        kernel, problem = bad[0].specialization.kernel, bad[0].problems[0]
        what = f"{len(bad)} of {len(rows)} kernels break their limits ({kernel} {problem})"
        raise ArtifactError(what, where=bad[0].runs_on, fix="choose other tiles")


def _sizes(values: argparse.Namespace) -> Sizes:
    from solo_edge.kernels.plan import MAX_SLOTS, Sizes

    for name in ("k", "instances"):
        if getattr(values, name) > MAX_SLOTS:
            raise UsageError(f"--{name} is {getattr(values, name)}", fix=f"at most {MAX_SLOTS}")
    cells = sum(size * size for size in values.grid_sizes)
    return Sizes(
        values.batch,
        values.classes,
        cells,
        values.channels,
        values.height,
        values.width,
        values.k,
        values.instances,
    )


def _with_ptx(target: Target, ptx: int | None) -> Target:
    return target if ptx is None else dataclasses.replace(target, ptx=ptx)


KERNELS = Command(
    "kernels",
    "Compile the GPU kernels around the network ahead of time, for a device without Triton and PyTorch.",
    "solo-edge kernels build --target orin --classes 3 -o orin.kernels",
    _arguments,
    _run,
)
