"""Input size, grids and scale ranges that fit a data set, tried out with the assignment of training.

A grid cell of SOLOv2 predicts one mask. Objects whose centres share all their cells with others are lost
to training, and so are objects that no scale range holds, or that are too small for masks at a quarter of
the input. All of that follows from the annotations alone; nothing is trained.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import PRESETS, ModelConfig, PostprocessConfig, preset
from solo_edge.data.coco import CocoDataset
from solo_edge.data.masks import GroundTruth
from solo_edge.errors import DataError
from solo_edge.suggest_figures import CellFigures, Placed, count_cells, place_image

__all__ = ["GRID_HEADER", "INPUT_HEADER", "GridOption", "InputOption", "Suggestion", "suggest"]

NANO, LIGHT = "solov2-nano-256", "solov2-light-r18-448"
SHORT_SIDES = (256, 320, 384, 448, 512, 640, 800)
MAX_ENLARGED = 2.0  # an image blown up more than this has no more to show
KEPT_SHARE = 0.95  # of the objects keep their shape: the input is large enough
NANO_PIXELS = 1.5 * 256 * 256  # up to this input the narrow preset is proposed
MAX_PIXELS = 448 * 768  # what the light presets are made for
GRID_FACTORS = (1.0, 1.25, 1.5, 2.0)
BASES = (
    8.0,
    11.0,
    16.0,
    20.0,
    28.0,
    40.0,
    56.0,
)  # of the scale ranges: half of the first one's end
# A doubling of the grid cells has to save this share of the objects to be worth its time.
PRICE_OF_DOUBLING = 0.01
EQUAL = 0.005  # share of the objects that makes no difference between two choices

INPUT_HEADER = ("input (height x width)", "too small", "keep their shape", "pixels")
GRID_HEADER = (
    *("grids", "scale ranges", "in no range", "crowded out", "lost", "recall at most"),
    *("busy levels", "cells"),
)


@dataclass(frozen=True)
class InputOption:
    """What is left of the objects at one input size."""

    input_size: tuple[int, int]  # (height, width)
    too_small: float  # share without a pixel in masks at a quarter of the size
    kept: float  # share whose mask there, enlarged again, has an IoU of at least 0.75 with the true one


@dataclass(frozen=True)
class GridOption:
    """What training gets of the objects with one choice of grids and ranges."""

    grid_sizes: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    figures: CellFigures
    is_preset: bool  # the preset's own

    @property
    def cells(self) -> int:
        return sum(size * size for size in self.grid_sizes)


@dataclass(frozen=True)
class Suggestion:
    """The choice and everything that it rests on."""

    data: str
    images: int
    instances: int
    config: ModelConfig
    inputs: tuple[InputOption, ...]
    grids: tuple[GridOption, ...]  # the preset's first, then by how good they are
    sizes: NDArray[np.float64]  # [N] square roots of box areas, pixels of the chosen input
    most_in_image: int
    reasons: tuple[str, ...]

    @property
    def chosen(self) -> GridOption:
        return next(option for option in self.grids if _same_grids(option, self.config))

    def compared(self) -> list[GridOption]:
        """The preset's own, then for each choice of grids, coarse ones first, the ranges that lose least
        (the chosen ones for the chosen grids)."""
        own = self.grids[0]
        best = {option.grid_sizes: option for option in reversed(self.grids[1:])}
        best[self.chosen.grid_sizes] = self.chosen
        others = sorted(best.values(), key=lambda option: option.cells)
        return [own, *(option for option in others if option is not own)]

    def command(self, data: Path) -> list[str]:
        """The training that uses it."""
        words = ["solo-edge", "train", "--data", str(data), "--model", self.config.name]
        base = PRESETS[self.config.name]
        for name in ("input_size", "grid_sizes", "scale_ranges"):
            value = getattr(self.config, name)
            if value != getattr(base, name):
                words += ["--set", f"{name}={_literal(value)}"]
        return [*words, "--out", "runs/mine"]

    def input_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{option.input_size[0]} x {option.input_size[1]}"
                + " <-" * (option.input_size == self.config.input_size),
                _percent(option.too_small),
                _percent(option.kept),
                f"{math.prod(option.input_size):,}",
            )
            for option in self.inputs
        ]

    def grid_rows(self, *, all_options: bool = False) -> list[tuple[str, ...]]:
        return [
            (
                " ".join(map(str, option.grid_sizes))
                + " (preset)" * option.is_preset
                + " <-" * (option is self.chosen),
                " ".join(f"{low:g}-{high:g}" for low, high in option.scale_ranges),
                _percent(option.figures.outside),
                _percent(option.figures.crowded),
                _percent(option.figures.lost),
                _percent(option.figures.recall_bound),
                str(option.figures.busy_levels),
                str(option.cells),
            )
            for option in (self.grids if all_options else self.compared())
        ]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        model = {
            key: getattr(self.config, key) for key in ("input_size", "grid_sizes", "scale_ranges")
        }
        shares = (1, 5, 25, 50, 75, 95, 99)
        return {
            "data": self.data,
            "images": self.images,
            "instances": self.instances,
            "most_in_image": self.most_in_image,
            "preset": self.config.name,
            "set": model,
            "size_percentiles": {f"p{p}": float(np.percentile(self.sizes, p)) for p in shares},
            "inputs": [dataclasses.asdict(option) for option in self.inputs],
            "grids": [{**dataclasses.asdict(o), "cells": o.cells} for o in self.grids],
            "reasons": list(self.reasons),
        }


def suggest(
    dataset: CocoDataset,
    *,
    preset_name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    max_images: int = 500,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Suggestion:
    """Try input sizes, then grids and ranges, on the annotations of `dataset`.

    The input is the smallest at which 95 % of the objects keep their shape in masks at a quarter of
    it (IoU 0.75 after enlarging them again), else the largest of at most `max_pixels`. The preset is
    solov2-nano-256 for inputs up to 1.5 times 256 x 256, else solov2-light-r18-448. The grids and
    ranges are those with the smallest sum of the share of lost objects and 1 % for each doubling of the
    preset's cells. Of those that are worse by no more than 0.5 %, the fewest cells count first, then
    how many levels have work to do (5 % of the objects), then how near the ranges are to the preset's.

    Args:
        preset_name: keep to this preset.
        max_pixels: of the input; larger ones are tried, but not chosen.
        max_images: this many images are looked at, spread evenly over the data.
        progress: called with the number of steps done and of all.

    Raises:
        DataError: there are no objects.
    """
    count = min(len(dataset), max_images)
    truths = [dataset.ground_truth(i * len(dataset) // count) for i in range(count)]
    truths = [truth for truth in truths if len(truth)]
    if not truths:
        what, fix = "there are no objects to learn from", "annotate some"
        raise DataError(what, where=dataset.annotation_path, fix=fix)
    sizes = _input_sizes(truths)
    total = len(sizes) + len(GRID_FACTORS) * len(BASES) + 1
    inputs, placed = [], {}
    for size in sizes:
        placed[size] = [place_image(truth, size) for truth in truths]
        inputs.append(_input_option(size, placed[size], truths))
        progress(len(inputs), total)
    affordable = [o for o in inputs if math.prod(o.input_size) <= max_pixels] or inputs[:1]
    chosen = next((option for option in affordable if option.kept >= KEPT_SHARE), affordable[-1])
    size = chosen.input_size
    name = preset_name or (NANO if math.prod(size) <= NANO_PIXELS else LIGHT)
    base = preset(name, input_size=size)
    instances = sum(map(len, truths))

    def tick(done: int) -> None:
        progress(len(sizes) + done, total)

    grids = _grid_options(base, placed[size], instances, tick)
    best = _best(grids)
    config = dataclasses.replace(base, grid_sizes=best.grid_sizes, scale_ranges=best.scale_ranges)
    ordered = [grids[0], *sorted(grids[1:], key=lambda option: _price(option, grids[0]))]
    most = max(map(len, truths))
    return Suggestion(
        dataset.path.name,
        count,
        instances,
        config,
        tuple(inputs),
        tuple(ordered),
        np.concatenate([image.scales for image in placed[size]]),
        most,
        tuple(_reasons(chosen, grids[0], best, truths, larger=chosen is not inputs[-1])),
    )


def _input_sizes(truths: Sequence[GroundTruth]) -> list[tuple[int, int]]:
    """Inputs of the images' median ratio; none that enlarges most of them more than twice."""
    shapes = np.array([truth.image_size for truth in truths], dtype=np.float64)
    ratio = float(np.median(shapes[:, 1] / shapes[:, 0]))
    limit = MAX_ENLARGED * float(np.median(shapes.min(axis=1)))
    sides = [side for side in SHORT_SIDES if side <= limit] or [SHORT_SIDES[0]]
    return [
        (side, _multiple(side * ratio)) if ratio >= 1 else (_multiple(side / ratio), side)
        for side in sides
    ]


def _multiple(length: float) -> int:
    """Rounded to a multiple of 32, as inputs are."""
    return max(round(length / 32), 1) * 32


def _input_option(
    size: tuple[int, int], placed: Sequence[Placed], truths: Sequence[GroundTruth]
) -> InputOption:
    instances = sum(map(len, truths))
    seen = sum(int(image.is_seen.sum()) for image in placed)
    kept = sum(int(image.keeps_shape.sum()) for image in placed)
    return InputOption(size, 1 - seen / instances, kept / instances)


def _ranges(base: float, size: tuple[int, int]) -> tuple[tuple[float, float], ...]:
    """The authors' ranges, (1, 56), (28, 112) ... (224, 896), moved: every size is on two levels.

    The last one ends beyond the largest object that an input of this size can show.
    """
    ranges = [(1.0, 2.0 * base)] + [(base * 2.0**k, base * 2.0 ** (k + 2)) for k in range(4)]
    low, high = ranges[-1]
    return (*ranges[:-1], (low, float(max(high, math.ceil(math.sqrt(math.prod(size)))))))


def _grid_options(
    base: ModelConfig,
    placed: Sequence[Placed],
    instances: int,
    tick: Callable[[int], None],
) -> list[GridOption]:
    """The preset's own first, then grids and ranges larger and smaller than those."""
    pairs = [(1.0, base.scale_ranges)]
    all_ranges = [_ranges(start, base.input_size) for start in BASES]
    pairs += [(factor, ranges) for factor in GRID_FACTORS for ranges in all_ranges]
    found: dict[Any, GridOption] = {}
    for done, (factor, ranges) in enumerate(pairs, start=1):
        grids = tuple(round(size * factor) for size in base.grid_sizes)
        if (grids, ranges) not in found:
            config = dataclasses.replace(base, grid_sizes=grids, scale_ranges=ranges)
            figures = count_cells(placed, instances, config)
            found[grids, ranges] = GridOption(grids, ranges, figures, is_preset=done == 1)
        tick(done)
    return list(found.values())


def _best(options: Sequence[GridOption]) -> GridOption:
    """The choice, see `suggest`; the first of `options` is the preset's."""
    own = options[0]
    lowest = min(_price(option, own) for option in options)
    equal = [option for option in options if _price(option, own) <= lowest + EQUAL]
    return min(equal, key=lambda o: (o.cells, -o.figures.busy_levels, _moved(o, own)))


def _price(option: GridOption, own: GridOption) -> float:
    return option.figures.lost + PRICE_OF_DOUBLING * math.log2(option.cells / own.cells)


def _moved(option: GridOption, own: GridOption) -> float:
    """By how many doublings the ranges differ from the preset's."""
    return abs(math.log2(option.scale_ranges[0][1] / own.scale_ranges[0][1]))


def _reasons(
    chosen: InputOption,
    own: GridOption,
    best: GridOption,
    truths: Sequence[GroundTruth],
    *,
    larger: bool,  # whether larger inputs than the chosen one were tried
) -> list[str]:
    height, width = chosen.input_size
    if chosen.kept >= KEPT_SHARE:
        why = f"the smallest at which {_percent(KEPT_SHARE)} of the objects keep their shape"
    else:
        more = "allow a larger one with --max-pixels, or " if larger else ""
        why = (
            f"the largest {'allowed' if larger else 'that such images are worth'};"
            f" {_percent(chosen.kept)} of the objects keep their shape there: {more}cut the images into"
            " tiles, if the small ones matter"
        )
    lines = [f"input {height} x {width}: {why}"]
    if best is own:
        lines.append(
            f"grids and ranges: the preset's lose {_percent(own.figures.lost)} of the objects"
        )
    elif best.grid_sizes == own.grid_sizes:
        lines.append(
            f"ranges: with the preset's, only {own.figures.busy_levels} of {len(own.grid_sizes)} levels have"
            f" work to do; with these, {best.figures.busy_levels}"
        )
    else:
        lines.append(
            f"grids and ranges: {_percent(best.figures.lost)} of the objects are lost instead of"
            f" {_percent(own.figures.lost)}, with {best.cells / own.cells:.2g} times the cells"
        )
    limit = PostprocessConfig().max_instances
    full = sum(len(truth) > limit for truth in truths)
    if full:
        most = max(map(len, truths))
        lines.append(
            f"{full} images hold more than {limit} objects, up to {most}: run with --max-instances {most}"
        )
    return lines


def _same_grids(option: GridOption, config: ModelConfig) -> bool:
    ours = (option.grid_sizes, option.scale_ranges)
    return ours == (config.grid_sizes, config.scale_ranges)


def _literal(value: Any) -> str:
    """A Python literal without spaces, 16.0 as 16."""
    if isinstance(value, tuple):
        inner = ",".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return f"{value:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
