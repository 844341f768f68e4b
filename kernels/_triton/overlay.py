"""Masks drawn on a frame in one launch, straight from probabilities at stride 4.

A program finds which instance is seen at each pixel of a tile, those around what it writes included:
the outline is where that number changes. No mask reaches memory.
"""

import triton
import triton.language as tl

from solo_edge.kernels._triton.preprocess import _rounded
from solo_edge.kernels._triton.render import _axis_taps, _weighted_row


@triton.jit
def _reaches(
    plane,  # [h, w] float32
    first_row,
    last_row,
    first_column,
    last_column,
    width,
    mask_threshold,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Whether any low-resolution pixel of a rectangle, its borders included, is above the threshold.

    A weighted mean is above it only where one of its terms is.
    """
    found = tl.zeros((BLOCK_Y, BLOCK_X), dtype=tl.int32)
    for start_row in range(first_row, last_row + 1, BLOCK_Y):
        row = start_row + tl.arange(0, BLOCK_Y)[:, None]
        for start_column in range(first_column, last_column + 1, BLOCK_X):
            column = start_column + tl.arange(0, BLOCK_X)[None, :]
            near = (row <= last_row) & (column <= last_column)
            probability = tl.load(plane + row * width + column, mask=near, other=0.0)
            found += (near & (probability > mask_threshold)).to(tl.int32)  # false for NaN
    return tl.max(found) > 0


@triton.jit
def _highest_around(values, THICKNESS: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr):
    """The highest value at most THICKNESS rows and columns away, inside the tile."""
    row = tl.arange(0, BLOCK_Y)[:, None] + tl.zeros((BLOCK_Y, BLOCK_X), dtype=tl.int32)
    column = tl.arange(0, BLOCK_X)[None, :] + tl.zeros((BLOCK_Y, BLOCK_X), dtype=tl.int32)
    above, below = tl.maximum(row - 1, 0), tl.minimum(row + 1, BLOCK_Y - 1)
    left, right = tl.maximum(column - 1, 0), tl.minimum(column + 1, BLOCK_X - 1)
    for _ in tl.static_range(THICKNESS):
        others = tl.maximum(tl.gather(values, above, 0), tl.gather(values, below, 0))
        values = tl.maximum(values, others)
    for _ in tl.static_range(THICKNESS):
        others = tl.maximum(tl.gather(values, left, 1), tl.gather(values, right, 1))
        values = tl.maximum(values, others)
    return values


@triton.jit
def draw_overlay_kernel(
    frame,  # uint8; rows of pixels of three bytes
    layout,  # [5] int32: height, width, bytes from row to row, height and width inside the network's input
    probabilities,  # [M, h, w] float32, best first
    valid_count,  # [1] int32
    colors,  # [M, 3] uint8
    drawn,  # [H, W, 3] uint8, out
    alpha,
    mask_threshold,
    instances,  # M
    height,  # h
    width,  # w
    output_width,  # W, at least the frame's
    THICKNESS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    LOW_Y: tl.constexpr,
    LOW_X: tl.constexpr,
):
    """One program looks at BLOCK_Y x BLOCK_X pixels and writes all but THICKNESS at each border."""
    local_row, local_column = tl.arange(0, BLOCK_Y), tl.arange(0, BLOCK_X)
    row = tl.program_id(1) * (BLOCK_Y - 2 * THICKNESS) - THICKNESS + local_row
    column = tl.program_id(0) * (BLOCK_X - 2 * THICKNESS) - THICKNESS + local_column
    frame_height, frame_width = tl.load(layout), tl.load(layout + 1)
    row_bytes = tl.load(layout + 2)
    row_exists = (row >= 0) & (row < frame_height)
    column_exists = (column >= 0) & (column < frame_width)
    exists = row_exists[:, None] & column_exists[None, :]

    low_row, row_weight_0, row_weight_1, row_weight_2 = _axis_taps(
        row, height, tl.load(layout + 3), frame_height, True
    )
    low_column, weight_0, weight_1, weight_2 = _axis_taps(
        column, width, tl.load(layout + 4), frame_width, True
    )
    first_row = tl.min(tl.where(row_exists, low_row, height))
    last_row = tl.minimum(tl.max(tl.where(row_exists, low_row, -3)) + 2, height - 1)
    first_column = tl.min(tl.where(column_exists, low_column, width))
    last_column = tl.minimum(tl.max(tl.where(column_exists, low_column, -3)) + 2, width - 1)

    number = tl.zeros((BLOCK_Y, BLOCK_X), dtype=tl.int32)  # from 1; 0: no instance
    plane = probabilities
    for instance in range(0, tl.minimum(tl.load(valid_count), instances)):
        if _reaches(
            plane, first_row, last_row, first_column, last_column, width, mask_threshold,
            LOW_Y, LOW_X,
        ):  # fmt: skip
            pixels = plane + low_row[:, None] * width + low_column[None, :]
            value = _weighted_row(pixels, row_weight_0, weight_0, weight_1, weight_2, True)
            pixels += width
            value += _weighted_row(pixels, row_weight_1, weight_0, weight_1, weight_2, True)
            pixels += width
            value += _weighted_row(pixels, row_weight_2, weight_0, weight_1, weight_2, True)
            inside = exists & (value > mask_threshold)  # false for NaN
            number = tl.where(inside & (number == 0), instance + 1, number)
        plane += height * width

    # What is beyond the frame counts for neither.
    highest = _highest_around(tl.where(exists, number, -1), THICKNESS, BLOCK_Y, BLOCK_X)
    lowest = -_highest_around(tl.where(exists, -number, -(2**30)), THICKNESS, BLOCK_Y, BLOCK_X)
    seen = number > 0
    outline = seen & (highest != lowest)
    own_row = (local_row >= THICKNESS) & (local_row < BLOCK_Y - THICKNESS)
    own_column = (local_column >= THICKNESS) & (local_column < BLOCK_X - THICKNESS)
    written = exists & own_row[:, None] & own_column[None, :]
    # A frame of 16384 x 16384 has more bytes than 31 bits count.
    wide_row = row.to(tl.int64)[:, None]
    source = frame + wide_row * row_bytes + column[None, :] * 3
    target = drawn + (wide_row * output_width + column[None, :]) * 3
    color = colors + tl.maximum(number - 1, 0) * 3
    for channel in tl.static_range(3):
        below = tl.load(source + channel, mask=written, other=0).to(tl.float32)
        above = tl.load(color + channel, mask=written & seen, other=0).to(tl.float32)
        mixed = _rounded(below * (1.0 - alpha) + above * alpha).to(tl.float32)
        level = tl.where(outline, above, tl.where(seen, mixed, below))
        tl.store(target + channel, level.to(tl.uint8), mask=written)
