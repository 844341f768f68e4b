"""`solo-edge predict`."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from solo_edge.cli.arguments import add_model
from solo_edge.cli.console import note
from solo_edge.cli.parser import Command, CommandParser
from solo_edge.cli.streaming import add_score, run_stream
from solo_edge.cli.thresholds import add_model_options, model_options

if TYPE_CHECKING:
    from solo_edge.predict import PredictItem

__all__ = ["PREDICT"]


def _predict_arguments(parser: CommandParser) -> None:
    add_model(parser, "model", "ENGINE")
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="image, folder, pattern like 'photos/*.jpg' (quoted), or video",
    )
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        metavar="OUT",
        help="pictures with what was found: a file for one image, a folder for several, .mp4 or .mkv "
        "for a video",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="OUT.jsonl",
        help="what was found as JSON Lines: one image or frame each, masks as COCO RLE",
    )
    add_score(parser)
    add_model_options(parser)


def _predict(values: argparse.Namespace) -> int:
    from solo_edge.predict import predict
    from solo_edge.runtime.engine import open_predictor
    from solo_edge.video.source import is_image_source

    if not is_image_source(values.source):
        return run_stream(values, [values.source], save=values.out)
    with open_predictor(values.model, **model_options(values)) as engine:
        predict(
            engine,
            values.source,
            values.out,
            json_path=values.json,
            min_score=values.score,
            on_item=_print_item,
        )
    return 0


def _print_item(item: PredictItem) -> None:
    if item.instances is None:
        note(f"skipped: {item.error}")
        return
    counts = Counter(item.instances.names)
    found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
    print(f"{item.path}: {found}{f' -> {item.output}' if item.output else ''}")


PREDICT = Command(
    "predict",
    "Segment images or a video; draw what was found and write it down.",
    "solo-edge predict scenes.engine photos/ -o drawn --json found.jsonl",
    _predict_arguments,
    _predict,
)
