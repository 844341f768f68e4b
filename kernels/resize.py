"""From stride-4 probabilities to masks of the original image, touching only the pixels near each object.

The authors enlarge the probabilities four times (bilinear), cut the padding off, resize to the
original size (bilinear) and compare with the threshold. Each step is linear and separable, so the
two together are one short weighted sum along columns and one along rows. A weighted mean is above
the threshold only where one of its terms is: everything outside that box is background without
being computed, and the result is exactly the two-step one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRIDE", "Region", "mask_regions", "render_masks"]

STRIDE = 4  # input pixels for each pixel of the mask features
# Output rows or columns computed at once: few enough that the weights of a tile are nearly dense,
# enough to keep BLAS busy.
_TILE = 64
# Multiplications from which on OpenBLAS starts threads. Waking them takes longer than such a product,
# and for milliseconds afterwards they spin on a core that others may need.
_MOST_OF_ONE_THREAD = 1 << 18
_USUAL_TAPS = 16  # input rows that a tile of output rows reads
# Stands for NaN: where it has any weight, the sum is below every threshold.
_NEVER = np.float32(-1e30)


class Region(NamedTuple):
    """The part of an image outside which a mask is empty; `mask` may have no pixels at all."""

    top: int
    left: int
    mask: NDArray[np.bool_]  # [h, w]


class _Axis(NamedTuple):
    """The resize along one axis: output = weights @ input."""

    weights: NDArray[np.float32]  # [original, low]
    transposed: NDArray[np.float32]  # [low, original], the same in the order that BLAS likes
    first: NDArray[np.intp]  # [original] first input index with a weight; ascending
    last: NDArray[np.intp]  # [original] last one; ascending


def mask_regions(
    probabilities: NDArray[np.float32],
    resized_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
    *,
    exact: bool = True,
    align: int = 1,
) -> Iterator[Region]:
    """The masks in the original image, one after the other, each as the region that holds it.

    Args:
        probabilities: [N, h, w] at stride 4 of the network's input. NaN is outside, and so is
            what it would be mixed into.
        resized_size: (height, width) of the image inside the input, at most (4 h, 4 w).
        original_size: (height, width) of the masks wanted.
        threshold: in (0, 1); a pixel is inside if its probability is above it.
        exact: False resizes once, straight from stride 4, instead of in the authors' two steps.
        align: every region's left border is a multiple of it.
    """
    rows = _axis(probabilities.shape[1], resized_size[0], original_size[0], exact)
    columns = _axis(probabilities.shape[2], resized_size[1], original_size[1], exact)
    above = probabilities > threshold
    tops, bottoms = _reach(rows, np.logical_or.reduce(above, axis=2))
    lefts, rights = _reach(columns, np.logical_or.reduce(above, axis=1))
    lefts -= lefts % align
    borders = np.stack([tops, bottoms, lefts, rights], axis=1).tolist()
    for probability, (top, bottom, left, right) in zip(probabilities, borders, strict=True):
        if top >= bottom or left >= right:
            yield Region(0, 0, np.zeros((0, 0), dtype=np.bool_))
            continue
        mask = _region(probability, rows, columns, (top, bottom), (left, right), threshold)
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


def _region(
    probability: NDArray[np.float32],
    rows: _Axis,
    columns: _Axis,
    height: tuple[int, int],
    width: tuple[int, int],
    threshold: float,
) -> NDArray[np.bool_]:
    """The mask of one object between two rows and two columns of the original image."""
    (top, bottom), (left, right) = height, width
    upper, leftmost = rows.first[top], columns.first[left]
    near = probability[upper : rows.last[bottom - 1] + 1, leftmost : columns.last[right - 1] + 1]
    near = np.fmax(near, _NEVER)
    # Columns first: then both the product over rows and its result are read and written row by row.
    partial = np.empty((len(near), right - left), dtype=np.float32)
    for start in range(left, right, _TILE):
        stop = min(start + _TILE, right)
        used = slice(columns.first[start], columns.last[stop - 1] + 1)
        taken = near[:, used.start - leftmost : used.stop - leftmost]
        np.matmul(
            taken, columns.transposed[used, start:stop], out=partial[:, start - left : stop - left]
        )
    mask = np.empty((bottom - top, right - left), dtype=np.bool_)
    tile = min(max(_MOST_OF_ONE_THREAD // (_USUAL_TAPS * (right - left)), 8), _TILE)
    for start in range(top, bottom, tile):
        stop = min(start + tile, bottom)
        used = slice(rows.first[start], rows.last[stop - 1] + 1)
        values = rows.weights[start:stop, used] @ partial[used.start - upper : used.stop - upper]
        np.greater(values, threshold, out=mask[start - top : stop - top])
    return mask


def _reach(axis: _Axis, above: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Output ranges [start, stop) with weight on the input between the first and the last True.

    Args:
        above: [N, low].

    Returns:
        starts and stops [N]; stop <= start where nothing is above or all of it is in the padding.
    """
    first = above.argmax(axis=1)
    last = above.shape[1] - 1 - above[:, ::-1].argmax(axis=1)
    starts = np.searchsorted(axis.last, first, side="left")
    stops = np.searchsorted(axis.first, last, side="right")
    return starts, np.where(above.any(axis=1), stops, 0)


@lru_cache(maxsize=32)  # a camera needs two entries, a data set two for each image size
def _axis(low: int, resized: int, original: int, exact: bool) -> _Axis:
    weights = _both_steps(low, resized, original) if exact else _one_step(low, resized, original)
    used = weights > 0
    last = low - 1 - used[:, ::-1].argmax(axis=1)
    rounded = weights.astype(np.float32)
    return _Axis(rounded, np.ascontiguousarray(rounded.T), used.argmax(axis=1), last)


def _both_steps(low: int, resized: int, original: int) -> NDArray[np.float64]:
    """Enlarge four times, cut off what is behind `resized`, resize to `original`."""
    enlarged = _matrix(low, *_taps(low, low * STRIDE))
    first, second, weight = _taps(resized, original)
    return enlarged[first] * (1.0 - weight)[:, None] + enlarged[second] * weight[:, None]


def _one_step(low: int, resized: int, original: int) -> NDArray[np.float64]:
    """Resize what the image covers, at least in part; see `reference_render.resize_probabilities`."""
    covered = -(-resized // STRIDE)
    return _matrix(low, *_taps(covered, original, resized / STRIDE))


def _matrix(
    low: int, first: NDArray[np.intp], second: NDArray[np.intp], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    matrix = np.zeros((len(first), low))
    every = np.arange(len(first))
    matrix[every, first] += 1.0 - weight
    matrix[every, second] += weight
    return matrix


def _taps(
    source: int, target: int, extent: float | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Bilinear resize (pixel centres aligned, no antialiasing): two indices and the weight of the second.

    `extent` is the part of the source that becomes the target, all of it if not given.
    """
    scale = (source if extent is None else extent) / target
    position = np.clip((np.arange(target) + 0.5) * scale - 0.5, 0.0, source - 1)
    first = position.astype(np.intp)
    second = np.minimum(first + 1, source - 1)
    return first, second, position - first
