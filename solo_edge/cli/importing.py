"""`solo-edge import-checkpoint`."""

from __future__ import annotations

import argparse
from pathlib import Path

from solo_edge.cli.console import note
from solo_edge.cli.parser import Command, CommandParser, one_of, parse_assignments
from solo_edge.config import PRESETS, ModelConfig
from solo_edge.errors import UsageError
from solo_edge.importers.convert import LAYOUTS, Choices

__all__ = ["IMPORT_CHECKPOINT"]


def _arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="a .pth, .pdparams or .safetensors file of others"
    )
    parser.add_argument(
        "--out", "-o", type=Path, metavar="NAME.safetensors", help="the checkpoint to write"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE|NAMES",
        help="class names: a file with one on each line or a JSON list, or a,b,c (default: the file's own,"
        " COCO's for 80 classes)",
    )
    parser.add_argument(
        "--preset",
        type=one_of("model preset", PRESETS),
        metavar="PRESET",
        help="where the input size, grids and scale ranges come from; the file must fit it"
        " (default: the authors' full or light configuration)",
    )
    parser.add_argument(
        "--format",
        type=one_of("layout", LAYOUTS),
        metavar="LAYOUT",
        dest="layout",
        help=f"whose key names they are: {', '.join(LAYOUTS)} (default: the keys tell)",
    )
    parser.add_argument(
        "--channels",
        type=one_of("order", ("rgb", "bgr")),
        metavar="rgb|bgr",
        help="what the file's first convolution reads (default: bgr for adelaidet, else rgb)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="assignments",
        help="a field of the model that the weights do not tell, e.g. --set input_size='(512, 864)';"
        " may be repeated",
    )
    parser.add_argument(
        "--keys", action="store_true", help="list what would become of every key, and write nothing"
    )


def _run(values: argparse.Namespace) -> None:
    changes = parse_assignments(values.assignments, ModelConfig)
    if not values.keys and values.out is None:
        fix = "give -o NAME.safetensors, or --keys to look only"
        raise UsageError("nothing to write to", fix=fix)

    from solo_edge.import_checkpoint import describe_keys, import_checkpoint, parse_class_names

    choices = Choices(values.layout, values.preset, changes, values.channels)
    if values.keys:
        for key, fate in describe_keys(values.file, choices):
            print(f"{key}  {fate}")
        return
    classes = None if values.classes is None else parse_class_names(values.classes)
    import_checkpoint(values.file, values.out, choices, class_names=classes, report=note)
    print(values.out)


IMPORT_CHECKPOINT = Command(
    "import-checkpoint",
    "Turn a SOLOv2 checkpoint of the authors, mmdetection, AdelaiDet or PaddleDetection into one of ours.",
    "solo-edge import-checkpoint solov2_light_r18.pth -o light.safetensors",
    _arguments,
    _run,
)
