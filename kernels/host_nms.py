"""Matrix NMS on bit-packed masks: overlaps are AND + popcount, only where two masks can overlap.

Pixels are row-major, so the words of a mask lie between the first and the last row of its object.
With the masks of a class sorted by their first word, those that can overlap mask i are the run right
behind it, and only the words of mask i matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.kernels import host_bits

__all__ = ["decay_best_first", "overlaps"]

_TINY = np.float32(1e-12)  # see reference.decay_factors


def overlaps(words: NDArray[np.uint64], areas: NDArray[Any]) -> NDArray[np.float32]:
    """IoU [N, N] of masks [N, words] with their areas [N]; two empty masks have IoU 0."""
    iou = np.empty((len(words), len(words)), dtype=np.float32)
    first, last = _spans(words)
    order = np.argsort(first, kind="stable")
    sorted_areas = areas[order].astype(np.float32)
    iou[np.ix_(order, order)] = _iou(words[order], sorted_areas, first[order], last[order])
    np.fill_diagonal(iou, areas > 0)
    return iou


def decay_best_first(
    words: NDArray[np.uint64],
    areas: NDArray[Any],
    rows: NDArray[np.intp],
    labels: NDArray[Any],
    scores: NDArray[Any],
    *,
    decay: str,
    sigma: float,
) -> NDArray[Any]:
    """Scores after Matrix NMS of candidates that come best first (which is not checked).

    Args:
        words, areas: [U, words], [U], masks in any order; several candidates may share one.
        rows: [N], the mask of each candidate.
        labels, scores: [N].

    Returns:
        [N] of the type of `scores`.
    """
    count = len(scores)
    if count < 2:
        return scores.copy()
    first, last = (border[rows] for border in _spans(words))
    order = np.lexsort((first, labels))
    rows, labels, first, last = rows[order], labels[order], first[order], last[order]
    words, areas = words[rows], areas[rows].astype(np.float32)
    borders = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    factors = np.ones(count, dtype=np.float32)
    for start, stop in zip([0, *borders], [*borders, count], strict=True):
        if stop - start > 1:
            group = slice(start, stop)
            iou = _iou(words[group], areas[group], first[group], last[group])
            rank = order[group]
            iou *= rank[:, None] < rank  # only better masks count
            factors[group] = _decay_factors(iou, decay, sigma)
    result = np.empty_like(scores)
    result[order] = scores[order] * factors
    return result


def _spans(words: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The range [first, last) of words that are not 0; [0, 0) for an empty mask."""
    occupied = words != 0
    first = occupied.argmax(axis=1)
    last = words.shape[1] - occupied[:, ::-1].argmax(axis=1)
    return first, np.where(occupied.any(axis=1), last, 0)


def _iou(
    words: NDArray[np.uint64],
    areas: NDArray[np.float32],
    first: NDArray[np.intp],
    last: NDArray[np.intp],
) -> NDArray[np.float32]:
    """IoU [n, n] of masks sorted by `first`, 0 on the diagonal. float32 counts to 2**24 exactly."""
    count = len(words)
    common = np.zeros((count, count), dtype=np.float32)
    both = np.empty(words.size, dtype=np.uint64)
    bits = np.empty(words.size, dtype=np.uint8)
    stops = np.searchsorted(first, last, side="left")
    spans = zip(first.tolist(), last.tolist(), stops.tolist(), strict=True)
    for i, (begin, end, stop) in enumerate(spans):
        if stop <= i + 1:
            continue
        shape = (stop - i - 1, end - begin)
        size = shape[0] * shape[1]
        shared, counts = both[:size].reshape(shape), bits[:size].reshape(shape)
        np.bitwise_and(words[i + 1 : stop, begin:end], words[i, begin:end], out=shared)
        host_bits.popcount(shared, out=counts)
        np.add.reduce(counts, axis=1, dtype=np.float32, out=common[i, i + 1 : stop])
    common += common.T
    union = areas[:, None] + areas
    union -= common
    np.maximum(union, 1.0, out=union)
    common /= union
    return common


def _decay_factors(iou: NDArray[np.float32], decay: str, sigma: float) -> NDArray[np.float32]:
    """See `reference.decay_factors`; works in `iou`, which is lost."""
    if decay == "gaussian":
        np.square(iou, out=iou)
        iou -= iou.max(axis=0)[:, None]
        # The exponential is monotone: taking it of the n extremes is taking it of all n * n.
        lowest: NDArray[np.float32] = np.exp(np.float32(-sigma) * iou.max(axis=0))
        return lowest
    own = 1.0 - iou.max(axis=0)
    np.subtract(1.0, iou, out=iou)
    iou /= np.maximum(own, _TINY)[:, None]
    result: NDArray[np.float32] = iou.min(axis=0)
    return result
