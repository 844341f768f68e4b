"""From stride-4 probabilities to masks of the original image, touching only the pixels near each object.

The authors enlarge the probabilities four times (bilinear), cut the padding off, resize to the
original size (bilinear) and compare with the threshold. Each step is linear and separable, so the
two together are one short weighted sum along rows and one along columns. A weighted mean is above
the threshold only where one of its terms is: everything outside that box is background without
being computed, and the result is exactly the two-step one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Region", "mask_regions", "render_masks"]

STRIDE = 4  # input pixels for each pixel of the mask features
# Columns computed at once: few enough that the weights of a tile are nearly dense, enough to keep
# BLAS busy.
_TILE = 64


class Region(NamedTuple):
    """The part of an image outside which a mask is empty; `mask` may have no pixels at all."""

    top: int
    left: int
    mask: NDArray[np.bool_]  # [h, w]


class _Axis(NamedTuple):
    """Both resizes along one axis: output = weights @ input."""

    weights: NDArray[np.float32]  # [original, low]
    first: NDArray[np.intp]  # [original] first input index with a weight; ascending
    last: NDArray[np.intp]  # [original] last one; ascending


def mask_regions(
    probabilities: NDArray[np.float32],
    resized_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
) -> Iterator[Region]:
    """The masks in the original image, one after the other, each as the region that holds it.

    Args:
        probabilities: [N, h, w] at stride 4 of the network's input.
        resized_size: (height, width) of the image inside the input, at most (4 h, 4 w).
        original_size: (height, width) of the masks wanted.
        threshold: in (0, 1); a pixel is inside if its probability is above it.
    """
    rows = _axis(probabilities.shape[1], resized_size[0], original_size[0])
    columns = _axis(probabilities.shape[2], resized_size[1], original_size[1])
    for probability in probabilities:
        above = probability > threshold
        top, bottom = _reach(rows, above.any(axis=1))
        left, right = _reach(columns, above.any(axis=0))
        if top == bottom or left == right:
            yield Region(0, 0, np.zeros((0, 0), dtype=np.bool_))
            continue
        mask = np.empty((bottom - top, right - left), dtype=np.bool_)
        near = slice(rows.first[top], rows.last[bottom - 1] + 1)
        partial = rows.weights[top:bottom, near] @ probability[near]
        for start in range(left, right, _TILE):
            stop = min(start + _TILE, right)
            near = slice(columns.first[start], columns.last[stop - 1] + 1)
            tile = partial[:, near] @ columns.weights[start:stop, near].T
            np.greater(tile, threshold, out=mask[:, start - left : stop - left])
        yield Region(top, left, mask)


def render_masks(
    probabilities: NDArray[np.float32],
    resized_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
) -> NDArray[np.bool_]:
    """The same as `mask_regions`, as one array [N, *original_size]."""
    masks = np.zeros((len(probabilities), *original_size), dtype=np.bool_)
    regions = mask_regions(probabilities, resized_size, original_size, threshold)
    for mask, (top, left, region) in zip(masks, regions, strict=True):
        mask[top : top + region.shape[0], left : left + region.shape[1]] = region
    return masks


def _reach(axis: _Axis, above: NDArray[np.bool_]) -> tuple[int, int]:
    """The output range [start, stop) with weight on the input between the first and the last True."""
    inside = np.flatnonzero(above)
    if len(inside) == 0:
        return 0, 0
    start = int(np.searchsorted(axis.last, inside[0], side="left"))
    stop = int(np.searchsorted(axis.first, inside[-1], side="right"))
    return start, max(start, stop)


@lru_cache(maxsize=32)  # a camera needs two entries, a data set two for each image size
def _axis(low: int, resized: int, original: int) -> _Axis:
    first, second, weight = _taps(low, low * STRIDE)
    enlarged = np.zeros((low * STRIDE, low))
    every = np.arange(low * STRIDE)
    enlarged[every, first] += 1.0 - weight
    enlarged[every, second] += weight
    first, second, weight = _taps(resized, original)
    weights = enlarged[first] * (1.0 - weight)[:, None] + enlarged[second] * weight[:, None]
    used = weights > 0
    last = low - 1 - used[:, ::-1].argmax(axis=1)
    return _Axis(weights.astype(np.float32), used.argmax(axis=1), last)


def _taps(
    source: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Bilinear resize (pixel centres aligned, no antialiasing): two indices and the weight of the second."""
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0.0)
    first = np.minimum(position.astype(np.intp), source - 1)
    second = np.minimum(first + 1, source - 1)
    return first, second, position - first
