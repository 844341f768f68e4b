"""The options of post-processing, shared by every command that runs a model."""

from __future__ import annotations

import argparse
from typing import Any

from solo_edge.cli.parser import CommandParser, config_values, positive
from solo_edge.config import PostprocessConfig

__all__ = ["add_model_options", "model_options"]

POSTPROCESS_HELP = {
    "score_threshold": "category score below which a grid cell is no candidate",
    "mask_threshold": "probability from which a pixel belongs to a mask",
    "update_threshold": "lowest score kept after Matrix NMS",
    "max_candidates": "candidates that get a mask",
    "max_instances": "most instances found in one image",
    "decay": "how Matrix NMS lowers the scores of overlapping masks",
    "sigma": "strength of the gaussian decay",
}


def add_model_options(parser: CommandParser) -> None:
    """--threads and the thresholds, which override what is stored in the engine."""
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="CPU threads of the network (default: all cores)",
    )
    parser.add_config(PostprocessConfig, POSTPROCESS_HELP, "thresholds", default="the engine's own")


def model_options(values: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `open_predictor` and `load_engine` that were given."""
    return {"threads": values.threads, **config_values(PostprocessConfig, values)}
