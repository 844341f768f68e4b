"""The operations in NumPy, for devices without torch. Masks are bit-packed: 64 pixels in a word.

`matrix_nms_packed` and `dynamic_masks` are the fast path of post-processing: the float masks of the
candidates never exist as a whole, overlaps are AND + popcount, and only pairs of one class are
looked at.

Arguments are checked by the public functions of the same names; `reference` is the definition.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.kernels.candidates import MAX_SCORE, Candidates
from solo_edge.kernels.resize import render_masks

__all__ = [
    "PackedMasks",
    "dynamic_conv",
    "dynamic_masks",
    "mask_iou",
    "matrix_nms",
    "matrix_nms_packed",
    "pack_masks",
    "points_nms",
    "render_masks",
    "select_candidates",
    "sigmoid",
    "unpack_masks",
]

_TINY = np.float32(1e-12)  # see reference.decay_factors
_SCRATCH_FLOATS = 1 << 19  # 2 MiB: a tile of logits that stays in the L2 cache
_PIXELS_PER_WORD = 64


class PackedMasks(NamedTuple):
    """Bit-packed masks with what scoring needs to know of them."""

    words: NDArray[
        np.uint64
    ]  # [N, ceil(H * W / 64)], row-major pixels, lowest bit first, padding 0
    areas: NDArray[np.int64]  # [N] pixels inside the mask
    maskness: NDArray[np.float32]  # [N] mean probability inside the mask, 0 for an empty one


def _popcount_by_table(
    words: NDArray[np.uint64], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`np.bitwise_count` for NumPy before 2.0."""
    quarters = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    return _BITS_OF_16[quarters].sum(axis=-1, dtype=np.uint8, out=out)


def _bits_of_16() -> NDArray[np.uint8]:
    octets = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    bits: NDArray[np.uint8] = np.unpackbits(octets, axis=1).sum(1, dtype=np.uint8)
    return bits


if hasattr(np, "bitwise_count"):
    _popcount: Any = np.bitwise_count
else:
    _popcount = _popcount_by_table
_BITS_OF_16 = _bits_of_16()


def pack_masks(masks: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """[N, H, W] or [N, pixels] bool -> [N, ceil(pixels / 64)] uint64; surplus bits are 0."""
    octets = np.packbits(masks.reshape(len(masks), _size(masks)), axis=1, bitorder="little")
    padding = -octets.shape[1] % 8
    if padding:
        octets = np.pad(octets, ((0, 0), (0, padding)))
    return octets.view("<u8").astype(np.uint64, copy=False)


def unpack_masks(words: NDArray[np.uint64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[N, words] uint64 -> [N, H, W] bool, the inverse of `pack_masks`."""
    octets = words.astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=size[0] * size[1], bitorder="little")
    return bits.view(np.bool_).reshape(len(words), *size)


def points_nms(scores: NDArray[Any]) -> NDArray[Any]:
    """[B, C, S, S] -> [B, C, S, S]: 0 where a neighbour above, left or above-left is higher (or NaN)."""
    highest = scores.copy()
    np.maximum(scores[..., 1:, :], scores[..., :-1, :], out=highest[..., 1:, :])
    highest[..., 1:] = np.maximum(highest[..., 1:], highest[..., :-1])
    kept: NDArray[Any] = np.where(scores == highest, scores, np.zeros((), dtype=scores.dtype))
    return kept


def select_candidates(
    category_scores: NDArray[Any], *, score_threshold: float, max_candidates: int
) -> Candidates:
    """[C, T] -> the best (cell, class) pairs above the threshold, descending; ties by (class, cell)."""
    flat = category_scores.reshape(-1)
    chosen = np.flatnonzero((flat > score_threshold) & (flat < MAX_SCORE))
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")[:max_candidates]]
    labels, cells = np.divmod(chosen, category_scores.shape[1])
    return Candidates(flat[chosen], labels, cells)


def dynamic_conv(mask_features: NDArray[Any], mask_kernels: NDArray[Any]) -> NDArray[Any]:
    """[E, H, W], [N, E] -> mask logits [N, H, W]."""
    length, *size = mask_features.shape
    with np.errstate(invalid="ignore", over="ignore"):  # damaged kernels give NaN, not a warning
        logits: NDArray[Any] = mask_kernels @ mask_features.reshape(length, -1)
    return logits.reshape(len(mask_kernels), *size)


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities of `logits`, written over them."""
    with np.errstate(over="ignore"):  # exp(-x) may be inf: its reciprocal is the right 0
        np.negative(logits, out=logits)
        np.exp(logits, out=logits)
        logits += 1
        np.reciprocal(logits, out=logits)
    return logits


def dynamic_masks(
    mask_features: NDArray[np.float32], mask_kernels: NDArray[np.float32], mask_threshold: float
) -> PackedMasks:
    """Dynamic convolution, sigmoid and threshold in one pass that keeps only bits, areas and maskness.

    Args:
        mask_features: [E, H, W].
        mask_kernels: [N, E].
        mask_threshold: a pixel belongs to the mask if its probability is above it; in (0, 1).
    """
    count, pixels = len(mask_kernels), mask_features[0].size
    features = mask_features.reshape(len(mask_features), pixels)
    words = np.zeros((count, -(-pixels // _PIXELS_PER_WORD)), dtype=np.uint64)
    sums = np.zeros(count, dtype=np.float64)
    if count == 0:
        return PackedMasks(words, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    # Tiles of pixels, not of candidates: BLAS then reads every feature once, and the scratch is
    # reused (memory that is touched for the first time costs more than the product itself).
    tile = max(_SCRATCH_FLOATS // count // _PIXELS_PER_WORD, 1) * _PIXELS_PER_WORD
    scratch = np.empty(count * tile, dtype=np.float32)
    inside_scratch = np.empty(count * tile, dtype=np.bool_)
    limit = np.float32(np.log(mask_threshold / (1.0 - mask_threshold)))
    for start in range(0, pixels, tile):
        shape = (count, min(tile, pixels - start))
        logits = scratch[: count * shape[1]].reshape(shape)
        inside = inside_scratch[: logits.size].reshape(shape)
        with np.errstate(invalid="ignore", over="ignore"):
            np.matmul(mask_kernels, features[:, start : start + tile], out=logits)
            np.greater(logits, limit, out=inside)
        packed = pack_masks(inside)
        first = start // _PIXELS_PER_WORD
        words[:, first : first + packed.shape[1]] = packed
        areas = _areas(packed)
        rows = np.flatnonzero(areas)
        if len(rows):
            probabilities = sigmoid(logits[inside])
            starts = np.cumsum(areas)[rows] - areas[rows]
            sums[rows] += np.add.reduceat(probabilities, starts)
    areas = _areas(words)
    return PackedMasks(words, areas, (sums / np.maximum(areas, 1)).astype(np.float32))


def mask_iou(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[N, H, W] bool -> [N, N] float32; two empty masks have IoU 0."""
    words = pack_masks(masks)
    areas = _areas(words)
    iou = _overlaps(words, areas)
    iou += iou.T
    np.fill_diagonal(iou, areas > 0)
    return iou


def matrix_nms(
    masks: NDArray[np.bool_],
    labels: NDArray[Any],
    scores: NDArray[Any],
    *,
    decay: str,
    sigma: float,
) -> NDArray[Any]:
    """[N, H, W] bool, [N], [N] -> [N]: scores after Matrix NMS, in the order given."""
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    order = np.argsort(-scores, kind="stable")
    decayed = matrix_nms_packed(
        pack_masks(masks[order]), labels[order], scores[order], decay=decay, sigma=sigma
    )
    result = np.empty_like(scores)
    result[order] = decayed
    return result


def matrix_nms_packed(
    words: NDArray[np.uint64],
    labels: NDArray[Any],
    scores: NDArray[Any],
    *,
    decay: str,
    sigma: float,
) -> NDArray[Any]:
    """`matrix_nms` on masks [N, words] of `pack_masks`, best score first (which is not checked)."""
    factors = np.ones(len(scores), dtype=np.float32)
    areas = _areas(words)
    by_label = np.argsort(labels, kind="stable")  # within a label still best first
    borders = np.flatnonzero(np.diff(labels[by_label])) + 1
    for group in np.split(by_label, borders):
        if len(group) > 1:
            overlaps = _overlaps(words[group], areas[group])
            factors[group] = _decay_factors(overlaps, decay, sigma)
    return (scores * factors).astype(scores.dtype, copy=False)


def _decay_factors(iou: NDArray[np.float32], decay: str, sigma: float) -> NDArray[np.float32]:
    """See `reference.decay_factors`; works in `iou`, which is lost."""
    if decay == "gaussian":
        np.square(iou, out=iou)
        iou -= iou.max(axis=0)[:, None]
        # The exponential is monotone: taking it of the N extremes is taking it of all N * N.
        lowest: NDArray[np.float32] = np.exp(np.float32(-sigma) * iou.max(axis=0))
        return lowest
    own = 1.0 - iou.max(axis=0)
    np.subtract(1.0, iou, out=iou)
    iou /= np.maximum(own, _TINY)[:, None]
    result: NDArray[np.float32] = iou.min(axis=0)
    return result


def _overlaps(words: NDArray[np.uint64], areas: NDArray[np.int64]) -> NDArray[np.float32]:
    """IoU [N, N] of the pairs i < j, 0 elsewhere."""
    count, width = words.shape
    iou = np.zeros((count, count), dtype=np.float32)
    if count < 2:
        return iou
    # Pixels are row-major, so a mask's words lie between the first and the last row of the object:
    # only these can overlap anything.
    occupied = words != 0
    first = occupied.argmax(axis=1)
    last = width - occupied[:, ::-1].argmax(axis=1)
    both = np.empty((count - 1) * width, dtype=np.uint64)
    counts = np.empty((count - 1) * width, dtype=np.uint8)
    for i in range(count - 1):
        if areas[i] == 0:
            continue
        span = slice(first[i], last[i])
        others = words[i + 1 :, span]
        common = both[: others.size].reshape(others.shape)
        bits = counts[: others.size].reshape(others.shape)
        np.bitwise_and(others, words[i, span], out=common)
        _popcount(common, out=bits)
        intersection = bits.sum(axis=1, dtype=np.uint32)
        iou[i, i + 1 :] = intersection / (areas[i] + areas[i + 1 :] - intersection)
    return iou


def _areas(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    areas: NDArray[np.int64] = _popcount(words).sum(axis=1, dtype=np.int64)
    return areas


def _size(masks: NDArray[Any]) -> int:
    """Pixels of one mask; unlike -1 in a reshape it is known without any mask, too."""
    return int(np.prod(masks.shape[1:]))
