"""The operations in NumPy, for devices without torch. Masks are bit-packed inside.

`best_candidates`, `dynamic_masks`, `decay_best_first` and `best_instances` take one image and the
true number of candidates: the fast path on a CPU. The float masks of the candidates never exist as a
whole, overlaps are AND + popcount, and only pairs of one class are looked at. The functions with the
names of public operations give the same results in slots of a fixed number, batch first.

Arguments are checked by the public functions of the same names; `reference` is the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.kernels.host_bits import (
    PIXELS_PER_WORD,
    from_words_32,
    mask_areas,
    pack_masks,
    to_words_32,
    unpack_masks,
)
from solo_edge.kernels.host_nms import decay_best_first, overlaps
from solo_edge.kernels.host_overlay import draw_overlay
from solo_edge.kernels.host_preprocess import preprocess
from solo_edge.kernels.host_render import render_masks
from solo_edge.kernels.results import MAX_SCORE, Candidates, InstanceSlots, PackedMasks

__all__ = [
    "BestCandidates",
    "BestInstances",
    "HostMasks",
    "best_candidates",
    "best_instances",
    "decay_best_first",
    "draw_overlay",
    "dynamic_conv",
    "dynamic_conv_pack",
    "dynamic_masks",
    "mask_iou",
    "mask_iou_packed",
    "matrix_nms",
    "matrix_nms_packed",
    "pack_masks",
    "points_nms",
    "postprocess",
    "preprocess",
    "render_masks",
    "select_candidates",
    "sigmoid",
    "unpack_masks",
]

# 4 MiB: a tile of logits that stays in the cache, but few enough tiles: BLAS's threads meet at each,
# which costs a time slice where others want the cores as well.
_SCRATCH_FLOATS = 1 << 20
# 16 MiB: so many logits are rather kept than computed again for those that survive, 195 candidates
# at 448 x 768. With more, touching the memory costs what the second product does.
_KEPT_FLOATS = 1 << 22


class BestCandidates(NamedTuple):
    """The chosen (cell, class) pairs of one image, best first."""

    scores: NDArray[Any]  # [n]
    labels: NDArray[np.int64]  # [n]
    cells: NDArray[np.int64]  # [n] index along T


class HostMasks(NamedTuple):
    """Bit-packed masks of one image with what scoring needs to know of them."""

    words: NDArray[np.uint64]  # [N, ceil(H * W / 64)], see `host_bits`
    areas: NDArray[np.int64]  # [N] pixels inside the mask
    probability_sums: NDArray[np.float64]  # [N] over the pixels inside the mask
    logits: NDArray[np.float32] | None  # [N, H * W], if they were to be kept and are not too many

    @property
    def maskness(self) -> NDArray[np.float32]:
        """[N]: the mean probability inside the mask, 0 for an empty one."""
        return (self.probability_sums / np.maximum(self.areas, 1)).astype(np.float32)


class BestInstances(NamedTuple):
    """What is left of one image after Matrix NMS, best first."""

    scores: NDArray[np.float32]  # [n]
    labels: NDArray[np.int64]  # [n]
    probabilities: NDArray[np.float32]  # [n, h, w]


def points_nms(scores: NDArray[Any]) -> NDArray[Any]:
    """[B, C, S, S] -> [B, C, S, S]: 0 where a neighbour above, left or above-left is higher (or NaN)."""
    highest = scores.copy()
    np.maximum(scores[..., 1:, :], scores[..., :-1, :], out=highest[..., 1:, :])
    highest[..., 1:] = np.maximum(highest[..., 1:], highest[..., :-1])
    kept: NDArray[Any] = np.where(scores == highest, scores, np.zeros((), dtype=scores.dtype))
    return kept


def best_candidates(
    category_scores: NDArray[Any], *, score_threshold: float, max_candidates: int
) -> BestCandidates:
    """[C, T] -> the best (cell, class) pairs above the threshold, descending; ties by (class, cell)."""
    flat = category_scores.reshape(-1)
    chosen = np.flatnonzero((flat > score_threshold) & (flat < MAX_SCORE))
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")[:max_candidates]]
    labels, cells = np.divmod(chosen, category_scores.shape[1])
    return BestCandidates(flat[chosen], labels, cells)


def select_candidates(
    category_scores: Sequence[NDArray[Any]] | NDArray[Any],
    *,
    score_threshold: float,
    max_candidates: int,
) -> Candidates:
    """Levels [B, C, S, S], or [B, C, T] after points NMS -> Candidates."""
    scores = _flat_scores(category_scores)
    slots = Candidates(
        np.zeros((len(scores), max_candidates), dtype=np.float32),
        np.zeros((len(scores), max_candidates), dtype=np.int32),
        np.zeros((len(scores), max_candidates), dtype=np.int32),
        np.zeros(len(scores), dtype=np.int32),
    )
    for image, image_scores in enumerate(scores):
        best = best_candidates(
            image_scores, score_threshold=score_threshold, max_candidates=max_candidates
        )
        _fill(slots, image, *best)
    return slots


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
    mask_features: NDArray[np.float32],
    mask_kernels: NDArray[np.float32],
    mask_threshold: float,
    *,
    keep_logits: bool = False,
) -> HostMasks:
    """Dynamic convolution, sigmoid and threshold in one pass that keeps only bits, areas and sums.

    Args:
        mask_features: [E, H, W].
        mask_kernels: [N, E].
        mask_threshold: a pixel belongs to the mask if its probability is above it; in (0, 1).
    """
    count, pixels = len(mask_kernels), mask_features[0].size
    features = mask_features.reshape(len(mask_features), pixels)
    words = np.zeros((count, -(-pixels // PIXELS_PER_WORD)), dtype=np.uint64)
    sums = np.zeros(count, dtype=np.float64)
    if count == 0:
        return HostMasks(words, np.zeros(0, dtype=np.int64), sums, None)
    # Tiles of pixels, not of candidates: BLAS then reads every feature once, and the scratch is
    # reused (memory that is touched for the first time costs more than the product itself).
    tile = max(_SCRATCH_FLOATS // count // PIXELS_PER_WORD, 1) * PIXELS_PER_WORD
    tile = min(tile, pixels)
    keep = keep_logits and count * pixels <= _KEPT_FLOATS
    kept = np.empty((count, pixels), dtype=np.float32) if keep else None
    scratch = np.empty(0 if keep else count * tile, dtype=np.float32)
    inside_scratch = np.empty(count * tile, dtype=np.bool_)
    limit = np.float32(np.log(mask_threshold / (1.0 - mask_threshold)))
    for start in range(0, pixels, tile):
        shape = (count, min(tile, pixels - start))
        size = shape[0] * shape[1]
        logits = scratch[:size].reshape(shape) if kept is None else kept[:, start : start + tile]
        inside = inside_scratch[:size].reshape(shape)
        with np.errstate(invalid="ignore", over="ignore"):
            np.matmul(mask_kernels, features[:, start : start + tile], out=logits)
            np.greater(logits, limit, out=inside)
        packed = pack_masks(inside)
        first = start // PIXELS_PER_WORD
        words[:, first : first + packed.shape[1]] = packed
        areas = mask_areas(packed)
        rows = np.flatnonzero(areas)
        if len(rows):
            probabilities = sigmoid(logits[inside])
            starts = np.cumsum(areas)[rows] - areas[rows]
            sums[rows] += np.add.reduceat(probabilities, starts)
    return HostMasks(words, mask_areas(words), sums, kept)


def dynamic_conv_pack(
    mask_features: NDArray[Any],
    mask_kernels: NDArray[Any],
    cells: NDArray[Any],
    valid_count: NDArray[Any],
    *,
    mask_threshold: float,
) -> PackedMasks:
    """[B, E, H, W], [B, E, T], [B, K], [B] -> PackedMasks."""
    pixels = mask_features[0, 0].size
    packed = PackedMasks(
        np.zeros((*cells.shape, -(-pixels // 32)), dtype=np.uint32),
        np.zeros(cells.shape, dtype=np.int32),
        np.zeros(cells.shape, dtype=np.float32),
    )
    for image, count in enumerate(valid_count.tolist()):
        different, which = np.unique(cells[image, :count], return_inverse=True)
        chosen_kernels = _chosen(mask_kernels[image], different)
        masks = dynamic_masks(_float32(mask_features[image]), chosen_kernels, mask_threshold)
        packed.words[image, :count] = to_words_32(masks.words, pixels)[which]
        packed.areas[image, :count] = masks.areas[which]
        packed.probability_sums[image, :count] = masks.probability_sums[which]
    return packed


def mask_iou(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """[N, H, W] bool -> [N, N] float32; two empty masks have IoU 0."""
    words = pack_masks(masks)
    return overlaps(words, mask_areas(words))


def mask_iou_packed(words: NDArray[np.uint32], areas: NDArray[Any]) -> NDArray[np.float32]:
    """[B, K, W], [B, K] -> [B, K, K] float32."""
    iou = np.empty((*areas.shape, areas.shape[1]), dtype=np.float32)
    for image in range(len(words)):
        iou[image] = overlaps(from_words_32(words[image]), areas[image])
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
    words = pack_masks(masks)
    result = np.zeros_like(scores)
    _decay_into(result, words, mask_areas(words), labels, scores, decay=decay, sigma=sigma)
    return result


def matrix_nms_packed(
    words: NDArray[np.uint32],
    areas: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any],
    valid_count: NDArray[Any],
    *,
    decay: str,
    sigma: float,
) -> NDArray[Any]:
    """[B, K, W], [B, K], [B, K], [B, K], [B] -> [B, K]: scores after Matrix NMS, in the order given."""
    result = np.zeros_like(scores)
    for image, count in enumerate(valid_count.tolist()):
        rows = (array[image, :count] for array in (areas, labels, scores))
        image_words = from_words_32(words[image, :count])
        _decay_into(result[image, :count], image_words, *rows, decay=decay, sigma=sigma)
    return result


def best_instances(
    category_scores: NDArray[Any],
    mask_kernels: NDArray[Any],
    mask_features: NDArray[Any],
    cell_strides: NDArray[Any],
    *,
    score_threshold: float,
    mask_threshold: float,
    update_threshold: float,
    max_candidates: int,
    max_instances: int,
    decay: str,
    sigma: float,
) -> BestInstances:
    """[C, T] after points NMS, [E, T], [E, h, w], [T] -> the instances of one image."""
    candidates = best_candidates(
        category_scores, score_threshold=score_threshold, max_candidates=max_candidates
    )
    mask_features = _float32(mask_features)
    # A cell may be chosen for several classes, but it has one mask.
    cells, which = np.unique(candidates.cells, return_inverse=True)
    chosen_kernels = _chosen(mask_kernels, cells)
    masks = dynamic_masks(mask_features, chosen_kernels, mask_threshold, keep_logits=True)
    scores = candidates.scores * masks.maskness[which]

    large = np.flatnonzero((masks.areas > cell_strides[cells])[which])
    order = large[np.argsort(-scores[large], kind="stable")]
    mask_index, labels = which[order], candidates.labels[order]
    scores = decay_best_first(
        masks.words, masks.areas, mask_index, labels, scores[order], decay=decay, sigma=sigma
    )
    kept = np.flatnonzero(scores >= update_threshold)
    best = kept[np.argsort(-scores[kept], kind="stable")[:max_instances]]
    survivors = mask_index[best]
    if masks.logits is None:
        logits = dynamic_conv(mask_features, chosen_kernels[survivors])
    else:
        logits = masks.logits[survivors].reshape(-1, *mask_features.shape[1:])
    return BestInstances(scores[best], labels[best], sigmoid(logits))


def postprocess(
    category_scores: Sequence[NDArray[Any]] | NDArray[Any],
    mask_kernels: NDArray[Any],
    mask_features: NDArray[Any],
    cell_strides: NDArray[Any],
    *,
    max_instances: int,
    **thresholds: Any,
) -> InstanceSlots:
    """Levels [B, C, S, S] or [B, C, T], [B, E, T], [B, E, h, w], [T] -> InstanceSlots."""
    scores = _flat_scores(category_scores)
    batch, size = len(scores), mask_features.shape[2:]
    slots = InstanceSlots(
        np.zeros((batch, max_instances), dtype=np.int32),
        np.zeros((batch, max_instances), dtype=np.float32),
        np.zeros((batch, max_instances, *size), dtype=np.float32),
        np.zeros(batch, dtype=np.int32),
    )
    for image in range(batch):
        arrays = (scores[image], mask_kernels[image], mask_features[image], cell_strides)
        best = best_instances(*arrays, max_instances=max_instances, **thresholds)
        _fill(slots, image, best.labels, best.scores, best.probabilities)
    return slots


def _flat_scores(category_scores: Sequence[NDArray[Any]] | NDArray[Any]) -> NDArray[np.float32]:
    """[B, C, T] after points NMS."""
    if isinstance(category_scores, np.ndarray):
        return _float32(category_scores)
    levels = [points_nms(_float32(level)) for level in category_scores]
    return np.concatenate([level.reshape(*level.shape[:2], -1) for level in levels], axis=2)


def _fill(slots: tuple[Any, ...], image: int, *values: NDArray[Any]) -> None:
    """Write arrays of true length into the slots of one image, and their number behind them."""
    *arrays, valid_count = slots
    for array, value in zip(arrays, values, strict=True):
        array[image, : len(value)] = value
    valid_count[image] = len(values[0])


def _decay_into(
    result: NDArray[Any],
    words: NDArray[np.uint64],
    areas: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any],
    *,
    decay: str,
    sigma: float,
) -> None:
    """Matrix NMS in any order, into `result` [N]; a score that is not finite takes no part."""
    finite = np.flatnonzero(np.isfinite(scores))
    order = finite[np.argsort(-scores[finite], kind="stable")]
    result[order] = decay_best_first(
        words, areas, order, labels[order], scores[order], decay=decay, sigma=sigma
    )


def _chosen(mask_kernels: NDArray[Any], cells: NDArray[Any]) -> NDArray[np.float32]:
    """[E, T], [n] -> [n, E]."""
    return np.ascontiguousarray(mask_kernels[:, cells].T, dtype=np.float32)


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    return array.astype(np.float32, copy=False)
