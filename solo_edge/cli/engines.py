"""`solo-edge build-engine` and `solo-edge inspect`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from solo_edge.cli.arguments import add_model, add_out
from solo_edge.cli.console import note
from solo_edge.cli.int8 import add_int8_options, int8_options
from solo_edge.cli.parser import Command, CommandParser, config_values, one_of, positive
from solo_edge.cli.portable import add_portable_option, finish_portable, write_portable
from solo_edge.cli.tensorrt_options import add_tensorrt_options, tensorrt_build
from solo_edge.cli.thresholds import POSTPROCESS_HELP
from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError

__all__ = ["BUILD_ENGINE", "INSPECT"]

BACKENDS = ("auto", "openvino", "onnxruntime", "torch", "tensorrt")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
GRAPHS = ("network", "full")
# None on the command line: a portable folder, which has decided all this, must not be told again.
DEFAULTS = {"backend": "auto", "precision": "fp32", "graph": "network", "batch": 1}


def _build_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=".safetensors file, folder of a training run, or on the device NAME.portable",
    )
    add_out(parser, "NAME.engine", "engine folder to write, or with --portable NAME.portable")
    parser.add_argument(
        "--backend",
        type=one_of("backend", BACKENDS),
        metavar="|".join(BACKENDS),
        help="what runs the network (default: auto, the fastest that works here)",
    )
    parser.add_argument(
        "--precision",
        type=one_of("precision", PRECISIONS),
        metavar="|".join(PRECISIONS),
        help="arithmetic of the network (default: fp32)",
    )
    parser.add_argument(
        "--graph",
        type=one_of("graph", GRAPHS),
        metavar="|".join(GRAPHS),
        help="full: post-processing is part of the graph, for other programs (default: network)",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        metavar="N",
        help="images that go through the network at once, for N cameras at one engine (default: 1)",
    )
    add_portable_option(parser)
    add_int8_options(parser)
    parser.add_config(PostprocessConfig, POSTPROCESS_HELP, "thresholds stored in the engine")
    add_tensorrt_options(parser)


def _build(values: argparse.Namespace) -> None:
    if finish_portable(values):
        return
    for name, value in DEFAULTS.items():
        if getattr(values, name) is None:
            setattr(values, name, value)
    if write_portable(values):
        return
    from solo_edge.export.build import build_engine

    with tensorrt_build(values) as tensorrt, int8_options(values) as int8:
        engine = build_engine(
            values.checkpoint,
            values.out,
            backend=values.backend,
            precision=values.precision,
            graph=values.graph,
            batch=values.batch,
            **int8,
            **tensorrt,
            report=note,
            **config_values(PostprocessConfig, values),
        )
    print(engine)


def _inspect_arguments(parser: CommandParser) -> None:
    add_model(parser, "path", "ENGINE")
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
