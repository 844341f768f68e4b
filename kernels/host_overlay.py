"""Masks drawn on a frame by the CPU, through one map of instance numbers.

The cost hardly depends on how many instances there are: what is painted is the map, and what the
image is blended with is looked up in it, in bands that stay in the cache. Of the whole image there
is only the copy that is drawn on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.kernels.resize import Region, mask_regions

__all__ = ["DrawnMasks", "draw_overlay", "draw_regions"]

_BAND = 48  # rows blended at once: a few hundred kilobytes, what a core of a Jetson has as a cache
_MOST_IN_A_BYTE = 255


class DrawnMasks(NamedTuple):
    """What drawing has found out about the masks."""

    boxes: NDArray[
        np.int64
    ]  # [N, 4] (left, top, right, bottom), the end exclusive; 0 if it is empty
    visible: NDArray[np.float64]  # [N] share of the mask that no better one hides; 0 if it is empty


def draw_overlay(
    frame: NDArray[np.uint8],
    probabilities: NDArray[Any],
    valid_count: NDArray[Any],
    colors: NDArray[np.uint8],
    *,
    resized_size: tuple[int, int],
    alpha: float,
    mask_threshold: float,
    thickness: int,
) -> NDArray[np.uint8]:
    """[H, W, 3], [M, h, w], [1], [M, 3] -> [H, W, 3]; see `overlay`, which checks the arguments."""
    drawn = frame.copy()
    count = min(max(int(valid_count[0]), 0), len(probabilities))
    size = (frame.shape[0], frame.shape[1])
    chosen = probabilities[:count].astype(np.float32, copy=False)
    regions = mask_regions(chosen, resized_size, size, mask_threshold)
    draw_regions(drawn, regions, colors[:count], alpha, thickness)
    return drawn


def draw_regions(
    output: NDArray[np.uint8],
    regions: Iterable[Region],
    colors: NDArray[np.uint8],
    alpha: float,
    thickness: int,
) -> DrawnMasks:
    """Tint and outline each region in its colour, in place; where they overlap the first one is seen.

    Args:
        output: [H, W, 3]; rows may have gaps between them, pixels may not.
        regions: N of them, best first; used one at a time.
        colors: [N, 3].
        alpha: opacity of the tint, in [0, 1]; the outline is opaque.
        thickness: a pixel inside belongs to the outline if another instance, or none, is at most so
            many rows and columns away. The border of the image is no outline.
    """
    height, width = output.shape[:2]
    ranks, drawn = _rank_map(regions, len(colors), (height, width))
    # The best instance has the highest rank.
    table = np.concatenate([np.zeros((1, 3), dtype=np.uint8), colors[::-1]])
    seen = drawn.boxes[drawn.boxes[:, 2] > 0]
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        near = seen[(seen[:, 1] < bottom) & (seen[:, 3] > top)]
        if len(near):
            left = max(int(near[:, 0].min()) - thickness, 0)
            right = min(int(near[:, 2].max()) + thickness, width)
            _blend(output, ranks, table, alpha, thickness, (top, bottom, left, right))
    return drawn


def _rank_map(
    regions: Iterable[Region], count: int, size: tuple[int, int]
) -> tuple[NDArray[Any], DrawnMasks]:
    """[H, W] of uint8, or uint16 if they are many: N for the best instance, 1 for the last, 0 for none."""
    import cv2

    ranks = np.zeros(size, dtype=np.uint8 if count <= _MOST_IN_A_BYTE else np.uint16)
    boxes, areas = np.zeros((count, 4), dtype=np.int64), np.zeros(count, dtype=np.int64)
    for i, region in enumerate(regions):
        if region.mask.size == 0:
            continue
        mask = np.ascontiguousarray(region.mask).view(np.uint8)
        x, y, width, height = cv2.boundingRect(mask)
        if width == 0:
            continue
        left, top = region.left + x, region.top + y
        boxes[i] = (left, top, left + width, top + height)
        areas[i] = cv2.countNonZero(mask)
        target = ranks[top : top + height, left : left + width]
        painted = mask[y : y + height, x : x + width] * ranks.dtype.type(count - i)
        np.maximum(target, painted, out=target)
    visible = _histogram(ranks, count + 1)[:0:-1] / np.maximum(areas, 1)
    return ranks, DrawnMasks(boxes, visible)


def _histogram(ranks: NDArray[Any], length: int) -> NDArray[Any]:
    """How often each of the values 0 to length - 1 is there."""
    import cv2

    if ranks.dtype != np.uint8:
        return np.bincount(ranks.ravel(), minlength=length)
    # Several times faster; one column in OpenCV 4, no columns in 5.
    counts: NDArray[Any] = cv2.calcHist([ranks], [0], None, [length], [0, length])
    return counts.reshape(-1)


def _blend(
    output: NDArray[np.uint8],
    ranks: NDArray[Any],
    table: NDArray[np.uint8],
    alpha: float,
    thickness: int,
    part: tuple[int, int, int, int],
) -> None:
    """One rectangle (top, bottom, left, right) of the image; no instance reaches out of it sideways."""
    import cv2

    top, bottom, left, right = part
    above, below = max(top - thickness, 0), min(bottom + thickness, len(ranks))
    surroundings = ranks[above:below, left:right]
    inside = surroundings[top - above : bottom - above]
    window = np.ones((2 * thickness + 1, 2 * thickness + 1), dtype=np.uint8)
    differs = cv2.morphologyEx(surroundings, cv2.MORPH_GRADIENT, window)[
        top - above : bottom - above
    ]
    outline = cv2.min(differs, inside)  # not 0 where both are not
    target = output[top:bottom, left:right]
    tint = _look_up(table, inside)
    blended = cv2.addWeighted(target, 1.0 - alpha, tint, alpha, 0.0)
    cv2.copyTo(blended, _as_mask(inside), target)
    cv2.copyTo(tint, _as_mask(outline), target)


def _as_mask(values: NDArray[Any]) -> NDArray[np.uint8]:
    return values if values.dtype == np.uint8 else (values > 0).view(np.uint8)


def _look_up(table: NDArray[np.uint8], ranks: NDArray[Any]) -> NDArray[Any]:
    """table[ranks], but several times faster where a byte is enough."""
    import cv2

    if ranks.dtype != np.uint8:
        taken: NDArray[Any] = np.take(table, ranks, axis=0)
        return taken
    full = np.zeros((256, 1, 3), dtype=np.uint8)
    full[: len(table), 0] = table
    looked_up: NDArray[Any] = cv2.applyColorMap(ranks, full)
    return looked_up
