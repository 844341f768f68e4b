"""What the GPU kernels are launched with: buffers, grids and arguments, all known before anything runs.

A plan is data. The Triton backend runs it on tensors (`_triton.launch`), ahead-of-time compilation
builds every kernel that it names (`aot`), and a device without torch and Triton runs the result on
raw memory (`runtime.device_kernels`). So there is one description of the order of the launches, and
it needs neither torch nor Triton.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from solo_edge.kernels import launches
from solo_edge.kernels.launches import MAX_SLOTS, Buffer, Decay, Launch, Sizes, Thresholds
from solo_edge.kernels.tiles import Tile, Tiles

__all__ = [
    "MAX_SLOTS",
    "Buffer",
    "Decay",
    "Launch",
    "Plan",
    "Sizes",
    "Thresholds",
    "dynamic_conv_plan",
    "mask_iou_plan",
    "matrix_nms_plan",
    "pack_masks_plan",
    "pack_plan",
    "postprocess_plan",
    "select_plan",
]


@dataclass(frozen=True)
class Plan:
    """Launches in order, on one stream. Buffers that are neither input nor output are scratch memory."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    buffers: Mapping[str, Buffer]
    launches: tuple[Launch, ...]


def select_plan(sizes: Sizes, thresholds: Thresholds, tiles: Tiles, *, suppress: bool) -> Plan:
    """category_scores -> scores, labels, cells, valid_count; with points NMS if `suppress`."""
    names = ("scores", "labels", "cells", "valid_count")
    inputs = ("category_scores", *(("up_offsets", "left_offsets") if suppress else ()))
    chain = launches.select(sizes, thresholds, tiles, suppress=suppress)
    return _plan(inputs, names, launches.buffers(sizes, tiles, "float32"), chain)


def pack_plan(
    sizes: Sizes, thresholds: Thresholds, tiles: Tiles, *, dtype: str = "float32"
) -> Plan:
    """mask_features, mask_kernels, cells, valid_count -> words, areas, probability_sums."""
    inputs = ("mask_features", "mask_kernels", "cells", "valid_count")
    chain = (
        launches.gather(sizes, tiles),
        launches.pack(sizes, thresholds, tiles, dtype),
        launches.reduce(sizes, tiles, rescore=False),
    )
    outputs = ("words", "areas", "probability_sums")
    return _plan(inputs, outputs, launches.buffers(sizes, tiles, dtype), chain)


def matrix_nms_plan(sizes: Sizes, thresholds: Thresholds, tiles: Tiles) -> Plan:
    """words, areas, labels, rescored -> decayed, in the order given. A score of -inf takes no part."""
    scatter = launches.launch(
        "scatter_scores_kernel",
        (1, sizes.batch, 1),
        {
            "sorted_values": "sorted_decayed",
            "order": "order",
            "kept_count": "kept_count",
            "values": "decayed",
            "candidates": sizes.max_candidates,
        },
        tiles.scatter_scores,
        SLOTS=sizes.slots,
    )
    chain = (*launches.matrix_nms(sizes, thresholds, tiles), scatter)
    inputs = ("words", "areas", "labels", "rescored")
    return _plan(inputs, ("decayed",), launches.buffers(sizes, tiles, "float32"), chain)


def mask_iou_plan(sizes: Sizes, tiles: Tiles) -> Plan:
    """words, areas, labels, rescored -> overlaps [B, slots, slots]: of places i < j of one label."""
    order, overlap, _ = launches.matrix_nms(sizes, Thresholds(), tiles)
    inputs = ("words", "areas", "labels", "rescored")
    return _plan(inputs, ("overlaps",), launches.buffers(sizes, tiles, "float32"), (order, overlap))


def dynamic_conv_plan(sizes: Sizes, tiles: Tiles, *, dtype: str = "float32") -> Plan:
    """mask_features [1, E, H, W], mask_kernels [K, E] -> logits [K, H, W], of one image."""
    buffers = {
        "mask_features": Buffer((1, sizes.channels, sizes.height, sizes.width), dtype),
        "mask_kernels": Buffer((sizes.max_candidates, sizes.channels), dtype),
        "logits": Buffer((sizes.max_candidates, sizes.height, sizes.width), dtype),
    }
    arguments = {
        "mask_features": "mask_features",
        "mask_kernels": "mask_kernels",
        "logits_out": "logits",
    }
    only = _mask_by_mask(
        "dynamic_conv_kernel",
        sizes,
        tiles.dynamic_conv,
        arguments,
        CHANNELS=sizes.channels,
        PRECISION=launches.dot_precision(dtype),
    )
    return _plan(("mask_features", "mask_kernels"), ("logits",), buffers, (only,))


def pack_masks_plan(sizes: Sizes, tiles: Tiles) -> Plan:
    """masks [K, pixels] uint8 -> words [1, K, words], areas [1, K], of one image."""
    count = sizes.max_candidates
    buffers = {
        "masks": Buffer((count, sizes.pixels), "uint8"),
        "words": Buffer((1, count, sizes.words), "uint32"),
        "areas": Buffer((1, count), "int32", zeroed=True),
    }
    arguments: dict[str, str | int | float] = {
        "masks": "masks",
        "words": "words",
        "areas": "areas",
        "word_count": sizes.words,
    }
    only = _mask_by_mask("pack_masks_kernel", sizes, tiles.pack_masks, arguments)
    return _plan(("masks",), ("words", "areas"), buffers, (only,))


def postprocess_plan(
    sizes: Sizes,
    thresholds: Thresholds,
    tiles: Tiles,
    *,
    dtype: str = "float32",
    suppress: bool = False,
) -> Plan:
    """The whole chain, from the network's outputs to the instances' slots.

    category_scores [B, C, T] float32, mask_kernels [B, E, T], mask_features [B, E, h, w] (both of
    `dtype`), cell_strides [T] float32 -> instance_labels [B, M] int32, instance_scores [B, M]
    float32, probabilities [B, M, h, w] float32, instance_count [B] int32.
    """
    chain = (
        *launches.select(sizes, thresholds, tiles, suppress=suppress),
        launches.gather(sizes, tiles),
        launches.pack(sizes, thresholds, tiles, dtype),
        launches.reduce(sizes, tiles, rescore=True),
        *launches.matrix_nms(sizes, thresholds, tiles),
        launches.launch(
            "select_instances_kernel",
            (1, sizes.batch, 1),
            {
                "sorted_decayed": "sorted_decayed",
                "sorted_labels": "sorted_labels",
                "sorted_ranks": "sorted_ranks",
                "order": "order",
                "kept_count": "kept_count",
                "instance_scores": "instance_scores",
                "instance_labels": "instance_labels",
                "instance_candidates": "instance_candidates",
                "instance_count": "instance_count",
                "update_threshold": float(thresholds.update),
                "instances": sizes.max_instances,
            },
            tiles.select_instances,
            SLOTS=sizes.slots,
        ),
        launches.probabilities(sizes, tiles, dtype),
    )
    inputs = (
        *("category_scores", "mask_kernels", "mask_features", "cell_strides"),
        *(("up_offsets", "left_offsets") if suppress else ()),
    )
    outputs = ("instance_labels", "instance_scores", "probabilities", "instance_count")
    return _plan(inputs, outputs, launches.buffers(sizes, tiles, dtype), chain)


def _mask_by_mask(
    kernel: str,
    sizes: Sizes,
    tile: Tile,
    arguments: Mapping[str, str | int | float],
    **constants: int | str | bool,
) -> Launch:
    """The launch of a kernel whose programs own BLOCK_N of the masks of one image, BLOCK_P pixels each."""
    count = sizes.max_candidates
    grid = (
        launches.ceil_div(count, tile["BLOCK_N"]),
        launches.ceil_div(sizes.pixels, tile["BLOCK_P"]),
        1,
    )
    every = {**arguments, "count": count, "pixels": sizes.pixels}
    return launches.launch(kernel, grid, every, tile, **constants)


def _plan(
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    buffers: dict[str, Buffer],
    launches: tuple[Launch, ...],
) -> Plan:
    used = {a for launch in launches for a in launch.arguments.values() if isinstance(a, str)}
    kept = {name: buffer for name, buffer in buffers.items() if name in used}
    written_by_caller = {
        name: dataclasses.replace(kept[name], zeroed=False) for name in inputs if name in kept
    }
    return Plan(inputs, outputs, {**kept, **written_by_caller}, launches)
