"""Masks at the size of the original images: the public operation, and what the GPU launches for it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from solo_edge.kernels.backend import ArrayT, is_float, is_integer, run
from solo_edge.kernels.launches import BITS_PER_WORD, Buffer, ceil_div, launch
from solo_edge.kernels.plan import Plan
from solo_edge.kernels.resize import STRIDE
from solo_edge.kernels.tiles import Tile, Tiles

__all__ = ["MAX_SIDE", "RenderSizes", "render_masks", "render_plan"]

# Positions are computed from whole numbers up to 2 * side * side, which must fit into 31 bits.
MAX_SIDE = 16384
# Every mask is read once, a few megabytes in all: there is nothing to tune.
_BOXES_TILE = Tile({"BLOCK_Y": 8, "BLOCK_X": 128}, num_warps=8)


def render_masks(
    probabilities: ArrayT,
    valid_count: ArrayT,
    resized_sizes: Sequence[Sequence[int]],
    original_sizes: Sequence[Sequence[int]],
    *,
    mask_threshold: float = 0.5,
    exact: bool = True,
    packed: bool = False,
    backend: str = "auto",
) -> ArrayT:
    """The masks of a batch at the sizes of the original images.

    As SOLOv2's authors do: the probabilities are enlarged four times (bilinear), the padding is cut
    off, the rest is resized to the original size (bilinear), and what is above the threshold is
    inside. A pixel whose surroundings are NaN is outside.

    Args:
        probabilities: [B, M, h, w] at stride 4 of the network's input; M may be 0.
        valid_count: [B] integers; of the other slots nothing is read, their masks are empty.
        resized_sizes: (height, width) of each image inside the network's input, at most (4 h, 4 w).
        original_sizes: (height, width) of each image as it came.
        mask_threshold: in (0, 1).
        exact: False resizes once, straight from stride 4: faster, borders differ by about a pixel
            of the network's input.
        packed: 32 pixels of a row in a word, the leftmost in the lowest bit.

    Returns:
        [B, M, H, W] uint8, 0 or 1, where H and W are those of the largest image; outside an image's
        own size 0. Or packed [B, M, H, ceil(W / 32)] uint32.

    Raises:
        ValueError: wrong shape, type, size, threshold or backend.
    """
    if probabilities.ndim != 4 or not is_float(probabilities) or 0 in probabilities.shape[2:]:
        got = f"{probabilities.dtype} {tuple(probabilities.shape)}"
        raise ValueError(f"probabilities must be floats [B, M, h, w], got {got}")
    batch, _, height, width = probabilities.shape
    if batch < 1:
        raise ValueError("probabilities must be of at least one image")
    if tuple(valid_count.shape) != (batch,) or not is_integer(valid_count):
        got = f"{valid_count.dtype} {tuple(valid_count.shape)}"
        raise ValueError(f"valid_count must be integers [{batch}] like probabilities, got {got}")
    if not 0.0 < mask_threshold < 1.0:
        raise ValueError(f"mask_threshold must be in (0, 1), got {mask_threshold}")
    resized = _check_sizes("resized_sizes", resized_sizes, batch)
    original = _check_sizes("original_sizes", original_sizes, batch)
    for size in resized:
        if size[0] > STRIDE * height or size[1] > STRIDE * width:
            raise ValueError(
                f"probabilities [{height}, {width}] at stride {STRIDE} do not cover an image of {size}"
            )
    result: ArrayT = run(
        "render_masks",
        backend,
        probabilities,
        valid_count,
        resized_sizes=resized,
        original_sizes=original,
        mask_threshold=mask_threshold,
        exact=exact,
        packed=packed,
    )
    return result


@dataclass(frozen=True)
class RenderSizes:
    """The shapes of one rendering; none is 0."""

    batch: int
    instances: int  # M
    height: int  # of the probabilities
    width: int
    output_height: int  # of the largest original image
    output_width: int


def render_plan(
    sizes: RenderSizes, tiles: Tiles, *, mask_threshold: float, exact: bool, packed: bool
) -> Plan:
    """probabilities, valid_count, image_sizes -> masks.

    `image_sizes` [B, 4] int32 are (height, width) of each image, resized and original. They are read
    by the kernels, so a captured graph may be replayed with others, up to the output's size.
    """
    shape = (sizes.batch, sizes.instances, sizes.output_height)
    if packed:
        masks = Buffer((*shape, ceil_div(sizes.output_width, BITS_PER_WORD)), "uint32")
    else:
        masks = Buffer((*shape, sizes.output_width), "uint8")
    buffers = {
        "probabilities": Buffer((*shape[:2], sizes.height, sizes.width), "float32"),
        "valid_count": Buffer((sizes.batch,), "int32"),
        "image_sizes": Buffer((sizes.batch, 4), "int32"),
        "boxes": Buffer((*shape[:2], 4), "int32"),
        "masks": masks,
    }
    numbers = {
        "mask_threshold": float(mask_threshold),
        "instances": sizes.instances,
        "height": sizes.height,
        "width": sizes.width,
    }
    find = launch(
        "mask_boxes_kernel",
        (sizes.instances, sizes.batch, 1),
        {**_named("probabilities", "valid_count", "image_sizes", "boxes"), **numbers},
        _BOXES_TILE,
    )
    write = launch(
        "render_masks_kernel",
        (
            ceil_div(sizes.output_height, tiles.render_masks["BLOCK_Y"]),
            sizes.instances,
            sizes.batch,
        ),
        {
            **_named("probabilities", "image_sizes", "boxes", "masks"),
            **numbers,
            "output_height": sizes.output_height,
            "output_width": sizes.output_width,
        },
        tiles.render_masks,
        EXACT=exact,
        PACKED=packed,
    )
    inputs = ("probabilities", "valid_count", "image_sizes")
    return Plan(inputs, ("masks",), buffers, (find, write))


def _named(*names: str) -> dict[str, str]:
    """Arguments whose buffers have their names."""
    return {name: name for name in names}


def _check_sizes(name: str, sizes: Sequence[Sequence[int]], batch: int) -> list[tuple[int, int]]:
    if len(sizes) != batch:
        raise ValueError(f"{name} must have one entry for each of {batch} images, got {len(sizes)}")
    return [_size(name, size) for size in sizes]


def _size(name: str, size: Any) -> tuple[int, int]:
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        height = width = 0
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"{name} must be (height, width) from 1 to {MAX_SIDE} each, got {size!r}")
    return height, width
