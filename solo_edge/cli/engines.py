"""`solo-edge build-engine` and `solo-edge inspect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from solo_edge.cli.console import note
from solo_edge.cli.parser import Command, CommandParser, config_values, one_of
from solo_edge.cli.thresholds import POSTPROCESS_HELP
from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError

__all__ = ["BUILD_ENGINE", "INSPECT"]

BACKENDS = ("auto", "openvino", "onnxruntime", "torch", "tensorrt")
PRECISIONS = ("fp32", "bf16", "fp16")
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
    parser.add_config(PostprocessConfig, POSTPROCESS_HELP, "thresholds stored in the engine")


def _build(values: argparse.Namespace) -> None:
    from solo_edge.export.build import build_engine

    engine = build_engine(
        values.checkpoint,
        values.out,
        backend=values.backend,
        precision=values.precision,
        graph=values.graph,
        report=note,
        **config_values(PostprocessConfig, values),
    )
    print(engine)


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
