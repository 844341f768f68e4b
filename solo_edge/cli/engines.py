"""`solo-edge build-engine` and `solo-edge inspect`."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from solo_edge.cli.console import Progress, note, progress
from solo_edge.cli.parser import Command, CommandParser, config_values, one_of
from solo_edge.cli.thresholds import POSTPROCESS_HELP
from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError, UsageError

__all__ = ["BUILD_ENGINE", "INSPECT"]

BACKENDS = ("auto", "openvino", "onnxruntime", "torch", "tensorrt")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
GRAPHS = ("network", "full")


def _build_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=".safetensors file or the folder of a training run",
    )
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        required=True,
        metavar="NAME.engine",
        help="engine folder to write",
    )
    parser.add_argument(
        "--backend",
        type=one_of("backend", BACKENDS),
        default="auto",
        metavar="|".join(BACKENDS),
        help="what runs the network (default: auto, the fastest that works here)",
    )
    parser.add_argument(
        "--precision",
        type=one_of("precision", PRECISIONS),
        default="fp32",
        metavar="|".join(PRECISIONS),
        help="arithmetic of the network (default: fp32)",
    )
    parser.add_argument(
        "--graph",
        type=one_of("graph", GRAPHS),
        default="network",
        metavar="|".join(GRAPHS),
        help="full: post-processing is part of the graph, for other programs (default: network)",
    )
    parser.add_argument(
        "--calib",
        type=Path,
        metavar="RANGES.json|DIR",
        help="for int8: a file of solo-edge calibrate, or data to calibrate with (its split train)",
    )
    parser.add_argument(
        "--eval",
        type=Path,
        metavar="DIR",
        help="for int8: data (split val) on which mask AP in fp32 and int8 is compared",
    )
    parser.add_argument(
        "--max-ap-drop",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="with --eval: an engine that loses more is not written (default: 0.5 of 100)",
    )
    parser.add_config(PostprocessConfig, POSTPROCESS_HELP, "thresholds stored in the engine")


def _build(values: argparse.Namespace) -> None:
    from solo_edge.export.build import build_engine

    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder, progress("evaluating") as show:
        ranges, accept = values.calib, None
        if values.precision != "int8" and values.eval is not None:
            raise UsageError("--eval compares int8 with fp32", fix="add --precision int8")
        if values.precision == "int8":
            ranges, accept = _int8_options(values, Path(folder), show)
        engine = build_engine(
            values.checkpoint,
            values.out,
            backend=values.backend,
            precision=values.precision,
            graph=values.graph,
            ranges=ranges,
            accept=accept,
            report=note,
            **config_values(PostprocessConfig, values),
        )
    print(engine)


def _int8_options(values: argparse.Namespace, folder: Path, show: Progress) -> tuple[Any, Any]:
    """The file of ranges, made now if there are only images, and the gate."""
    from solo_edge.data.coco import open_dataset
    from solo_edge.quantize import accuracy_gate, calibrate, refuse_evaluated

    if values.calib is None:
        fix = "add --calib with a file of solo-edge calibrate, or with data"
        raise UsageError("int8 needs the ranges of a calibration", fix=fix)
    evaluation = None if values.eval is None else open_dataset(values.eval, "val")
    ranges: Path = values.calib
    if values.calib.is_dir():
        ranges = folder / "ranges.json"
        dataset = open_dataset(values.calib, "train")
        with progress("calibrating") as calibrating:
            calibrate(
                values.checkpoint,
                dataset,
                ranges,
                evaluation=evaluation,
                report=note,
                progress=calibrating,
            )
    if evaluation is None:
        note("without --eval nobody knows what int8 costs: compare with solo-edge evaluate")
        return ranges, None
    refuse_evaluated(ranges, evaluation)
    return ranges, accuracy_gate(evaluation, values.max_ap_drop, report=note, progress=show)


def _inspect_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="ENGINE",
        help="engine folder, checkpoint or folder of a training run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _inspect(values: argparse.Namespace) -> int:
    from solo_edge.inspection import describe, inspect_path

    facts = inspect_path(values.path)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if values.json else describe(facts))
    return 0 if facts["problem"] is None else ArtifactError.exit_code


BUILD_ENGINE = Command(
    "build-engine",
    "Turn a checkpoint into an engine folder for this machine.",
    "solo-edge build-engine runs/scenes --backend openvino --precision fp32 -o scenes.engine",
    _build_arguments,
    _build,
)
INSPECT = Command(
    "inspect",
    "Show what an engine or checkpoint holds and whether its files are whole.",
    "solo-edge inspect scenes.engine",
    _inspect_arguments,
    _inspect,
)
