"""Each launch of the post-processing: its grid, its arguments, its compile-time sizes. See `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from solo_edge.kernels.tiles import Tile, Tiles

__all__ = [
    "BITS_PER_WORD",
    "MAX_SLOTS",
    "Buffer",
    "Decay",
    "Launch",
    "Sizes",
    "Thresholds",
    "buffers",
    "ceil_div",
    "dot_precision",
    "gather",
    "launch",
    "matrix_nms",
    "next_power_of_two",
    "pack",
    "probabilities",
    "reduce",
    "select",
]

# Candidates are sorted inside one block of threads, with their position in the low 12 bits of a key.
MAX_SLOTS = 4096
BITS_PER_WORD = 32

Decay = Literal["gaussian", "linear"]


@dataclass(frozen=True)
class Buffer:
    """An array on the device."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"
    zeroed: bool = False  # must be all zero before the first launch of every run


@dataclass(frozen=True)
class Launch:
    """One launch of one kernel."""

    kernel: str  # a function of `solo_edge.kernels._triton`
    grid: tuple[int, int, int]
    arguments: Mapping[str, str | int | float]  # parameter -> name of a buffer, or a number
    constants: Mapping[str, int | str | bool]  # compile-time parameters
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Sizes:
    """The shapes of one post-processing.

    The cells of all levels are one axis. Where points NMS is still to be done, the way from each cell
    to its neighbours is an input.
    """

    batch: int
    classes: int
    cells: int  # T, of all levels
    channels: int  # E
    height: int  # of the mask features
    width: int
    max_candidates: int  # K
    max_instances: int = 1  # M

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def words(self) -> int:
        return ceil_div(self.pixels, BITS_PER_WORD)

    @property
    def slots(self) -> int:
        """Enough for candidates and for instances: a power of two, at least 16."""
        return max(16, next_power_of_two(max(self.max_candidates, self.max_instances)))


@dataclass(frozen=True)
class Thresholds:
    """The numbers of `solo_edge.config.PostprocessConfig` that the kernels need."""

    score: float = 0.1
    mask_logit: float = 0.0  # a pixel belongs to the mask if its logit is above it
    update: float = 0.05
    decay: Decay = "gaussian"
    sigma: float = 2.0


def buffers(sizes: Sizes, tiles: Tiles, dtype: str) -> dict[str, Buffer]:
    """Every array that a launch of the chain can name."""
    b, k, m, slots = sizes.batch, sizes.max_candidates, sizes.max_instances, sizes.slots
    total, parts = sizes.classes * sizes.cells, _parts(sizes, tiles)
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "category_scores": ((b, sizes.classes, sizes.cells), "float32"),
        "mask_kernels": ((b, sizes.channels, sizes.cells), dtype),
        "mask_features": ((b, sizes.channels, sizes.height, sizes.width), dtype),
        "cell_strides": ((sizes.cells,), "float32"),
        "up_offsets": ((sizes.cells,), "int32"),
        "left_offsets": ((sizes.cells,), "int32"),
        "keys": ((b, total), "int64"),
        "key_count": ((b,), "int32"),
        "top_keys": ((b, slots), "int64"),
        "scores": ((b, k), "float32"),
        "labels": ((b, k), "int32"),
        "cells": ((b, k), "int32"),
        "valid_count": ((b,), "int32"),
        "chosen_kernels": ((b, k, sizes.channels), dtype),
        "words": ((b, k, sizes.words), "uint32"),
        "partial_areas": ((b, k, parts), "int32"),
        "partial_sums": ((b, k, parts), "float32"),
        "areas": ((b, k), "int32"),
        "probability_sums": ((b, k), "float32"),
        "rescored": ((b, k), "float32"),
        "order": ((b, slots), "int32"),
        "sorted_ranks": ((b, slots), "int32"),
        "sorted_labels": ((b, slots), "int32"),
        "sorted_areas": ((b, slots), "int32"),
        "sorted_scores": ((b, slots), "float32"),
        "sorted_decayed": ((b, slots), "float32"),
        "kept_count": ((b,), "int32"),
        "overlaps": ((b, slots, slots), "float32"),
        "highest_overlaps": ((b, slots), "float32"),
        "decayed": ((b, k), "float32"),
        "instance_scores": ((b, m), "float32"),
        "instance_labels": ((b, m), "int32"),
        "instance_candidates": ((b, m), "int32"),
        "instance_count": ((b,), "int32"),
        "probabilities": ((b, m, sizes.height, sizes.width), "float32"),
    }
    zeroed = {"key_count", "highest_overlaps"}
    return {name: Buffer(*value, zeroed=name in zeroed) for name, value in shapes.items()}


def select(
    sizes: Sizes, thresholds: Thresholds, tiles: Tiles, *, suppress: bool
) -> tuple[Launch, ...]:
    """category_scores -> scores, labels, cells, valid_count; with points NMS if `suppress`."""
    total = sizes.classes * sizes.cells
    collect = launch(
        "collect_candidates_kernel",
        (ceil_div(total, tiles.collect_candidates["BLOCK"]), sizes.batch, 1),
        {
            "category_scores": "category_scores",
            # Without points NMS nobody reads them, but a kernel's list of parameters is fixed.
            "up_offsets": "up_offsets" if suppress else "category_scores",
            "left_offsets": "left_offsets" if suppress else "category_scores",
            "keys": "keys",
            "key_count": "key_count",
            "total": total,
            "cells": sizes.cells,
            "score_threshold": float(thresholds.score),
        },
        tiles.collect_candidates,
        SUPPRESS=suppress,
    )
    choose = launch(
        "select_candidates_kernel",
        (1, sizes.batch, 1),
        {
            "keys": "keys",
            "key_count": "key_count",
            "top_keys": "top_keys",
            "scores": "scores",
            "labels": "labels",
            "chosen_cells": "cells",
            "valid_count": "valid_count",
            "total": total,
            "cells": sizes.cells,
            "candidates": sizes.max_candidates,
        },
        tiles.select_candidates,
        SLOTS=sizes.slots,
    )
    return collect, choose


def gather(sizes: Sizes, tiles: Tiles) -> Launch:
    """mask_kernels, cells, valid_count -> chosen_kernels."""
    return launch(
        "gather_kernels_kernel",
        (ceil_div(sizes.max_candidates, tiles.gather_kernels["BLOCK_N"]), sizes.batch, 1),
        {
            "mask_kernels": "mask_kernels",
            "cells": "cells",
            "valid_count": "valid_count",
            "chosen_kernels": "chosen_kernels",
            "candidates": sizes.max_candidates,
            "cell_count": sizes.cells,
        },
        tiles.gather_kernels,
        CHANNELS=sizes.channels,
        BLOCK_E=next_power_of_two(sizes.channels),
    )


def pack(sizes: Sizes, thresholds: Thresholds, tiles: Tiles, dtype: str) -> Launch:
    """mask_features, chosen_kernels, valid_count -> words, partial_areas, partial_sums."""
    tile = tiles.dynamic_conv_pack
    return launch(
        "dynamic_conv_pack_kernel",
        (ceil_div(sizes.max_candidates, tile["BLOCK_N"]), _parts(sizes, tiles), sizes.batch),
        {
            "mask_features": "mask_features",
            "chosen_kernels": "chosen_kernels",
            "valid_count": "valid_count",
            "words": "words",
            "partial_areas": "partial_areas",
            "partial_sums": "partial_sums",
            "candidates": sizes.max_candidates,
            "pixels": sizes.pixels,
            "word_count": sizes.words,
            "parts": _parts(sizes, tiles),
            "mask_logit": float(thresholds.mask_logit),
        },
        tile,
        CHANNELS=sizes.channels,
        PRECISION=dot_precision(dtype),
    )


def reduce(sizes: Sizes, tiles: Tiles, *, rescore: bool) -> Launch:
    """partial_areas, partial_sums -> areas, probability_sums, and rescored if `rescore`.

    For that it also reads scores, cells, cell_strides and valid_count.
    """
    parts = _parts(sizes, tiles)
    return launch(
        "reduce_masks_kernel",
        (ceil_div(sizes.max_candidates, tiles.reduce_masks["BLOCK_N"]), sizes.batch, 1),
        {
            "partial_areas": "partial_areas",
            "partial_sums": "partial_sums",
            "scores": "scores" if rescore else "partial_sums",
            "cells": "cells",
            "cell_strides": "cell_strides" if rescore else "partial_sums",
            "valid_count": "valid_count",
            "areas": "areas",
            "probability_sums": "probability_sums",
            "rescored": "rescored" if rescore else "probability_sums",
            "candidates": sizes.max_candidates,
            "parts": parts,
        },
        tiles.reduce_masks,
        BLOCK_PARTS=next_power_of_two(parts),
        RESCORE=rescore,
    )


def matrix_nms(sizes: Sizes, thresholds: Thresholds, tiles: Tiles) -> tuple[Launch, Launch, Launch]:
    """words, areas, labels, rescored -> sorted_decayed, in the order (label, score); kept_count."""
    slots = sizes.slots
    order = launch(
        "order_candidates_kernel",
        (1, sizes.batch, 1),
        {
            "rescored": "rescored",
            "labels": "labels",
            "areas": "areas",
            "order": "order",
            "sorted_ranks": "sorted_ranks",
            "sorted_labels": "sorted_labels",
            "sorted_areas": "sorted_areas",
            "sorted_scores": "sorted_scores",
            "kept_count": "kept_count",
            "candidates": sizes.max_candidates,
        },
        tiles.order_candidates,
        SLOTS=slots,
    )
    tile = tiles.mask_overlap
    overlap = launch(
        "mask_overlap_kernel",
        (ceil_div(slots, tile["BLOCK_J"]), ceil_div(slots, tile["BLOCK_I"]), sizes.batch),
        {
            "words": "words",
            "order": "order",
            "sorted_labels": "sorted_labels",
            "sorted_areas": "sorted_areas",
            "kept_count": "kept_count",
            "overlaps": "overlaps",
            "highest_overlaps": "highest_overlaps",
            "candidates": sizes.max_candidates,
            "word_count": sizes.words,
        },
        tile,
        SLOTS=slots,
    )
    decay = launch(
        "decay_scores_kernel",
        (ceil_div(slots, tiles.decay_scores["BLOCK_J"]), sizes.batch, 1),
        {
            "overlaps": "overlaps",
            "highest_overlaps": "highest_overlaps",
            "sorted_labels": "sorted_labels",
            "sorted_scores": "sorted_scores",
            "kept_count": "kept_count",
            "sorted_decayed": "sorted_decayed",
            "sigma": float(thresholds.sigma),
        },
        tiles.decay_scores,
        SLOTS=slots,
        GAUSSIAN=thresholds.decay == "gaussian",
    )
    return order, overlap, decay


def probabilities(sizes: Sizes, tiles: Tiles, dtype: str) -> Launch:
    """mask_features, chosen_kernels, instance_candidates, instance_count -> probabilities."""
    tile = tiles.instance_probabilities
    return launch(
        "instance_probabilities_kernel",
        (
            ceil_div(sizes.max_instances, tile["BLOCK_N"]),
            ceil_div(sizes.pixels, tile["BLOCK_P"]),
            sizes.batch,
        ),
        {
            "mask_features": "mask_features",
            "chosen_kernels": "chosen_kernels",
            "instance_candidates": "instance_candidates",
            "instance_count": "instance_count",
            "probabilities": "probabilities",
            "candidates": sizes.max_candidates,
            "instances": sizes.max_instances,
            "pixels": sizes.pixels,
        },
        tile,
        CHANNELS=sizes.channels,
        PRECISION=dot_precision(dtype),
    )


def launch(
    kernel: str,
    grid: tuple[int, int, int],
    arguments: Mapping[str, str | int | float],
    tile: Tile,
    **constants: int | str | bool,
) -> Launch:
    """A launch whose compile-time parameters are `constants` and those of its tile."""
    return Launch(
        kernel, grid, arguments, {**constants, **tile.constants}, tile.num_warps, tile.num_stages
    )


def _parts(sizes: Sizes, tiles: Tiles) -> int:
    """Pixel tiles of `dynamic_conv_pack_kernel`."""
    return ceil_div(sizes.pixels, tiles.dynamic_conv_pack["BLOCK_P"])


def dot_precision(dtype: str) -> str:
    """How `tl.dot` multiplies numbers of this type."""
    # Three TF32 products are nearly as exact as float32 and run on the tensor cores.
    return "tf32x3" if dtype == "float32" else "ieee"


def ceil_div(value: int, step: int) -> int:
    return -(-value // step)


def next_power_of_two(value: int) -> int:
    return 1 << max(value - 1, 0).bit_length()
