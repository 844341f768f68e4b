"""The definition of every operation, in plain torch: slow and obvious, what the others must equal.

All of it but `select_candidates` has shapes that follow from its arguments' shapes alone, so it
exports to ONNX.

Arguments are checked by the public functions of the same names.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_edge.kernels.candidates import MAX_SCORE, Candidates

__all__ = [
    "decay_factors",
    "dynamic_conv",
    "mask_iou",
    "matrix_nms",
    "points_nms",
    "select_candidates",
]

# Smallest divisor of the linear decay: makes 0/0 a 0, and x/0 too large to be a minimum.
_TINY = 1e-12


def points_nms(scores: Tensor) -> Tensor:
    """[B, C, S, S] -> [B, C, S, S]: 0 where a neighbour above, left or above-left is higher (or NaN)."""
    highest = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[:, :, :-1, :-1]
    return torch.where(scores == highest, scores, torch.zeros_like(scores))


def select_candidates(
    category_scores: Tensor, *, score_threshold: float, max_candidates: int
) -> Candidates:
    """[C, T] -> the best (cell, class) pairs above the threshold, descending; ties by (class, cell)."""
    flat = category_scores.flatten()
    chosen = ((flat > score_threshold) & (flat < MAX_SCORE)).nonzero().flatten()
    order = flat[chosen].argsort(descending=True, stable=True)[:max_candidates]
    chosen = chosen[order]
    cells = category_scores.shape[1]
    labels = torch.div(chosen, cells, rounding_mode="trunc")
    return Candidates(flat[chosen], labels, chosen - labels * cells)


def dynamic_conv(mask_features: Tensor, mask_kernels: Tensor) -> Tensor:
    """[E, H, W], [N, E] -> mask logits [N, H, W]."""
    logits: Tensor = mask_kernels @ mask_features.flatten(1)
    return logits.reshape(-1, *mask_features.shape[1:])


def mask_iou(masks: Tensor) -> Tensor:
    """[N, H, W] or [B, N, H, W], bool or 0/1 -> [N, N] or [B, N, N] float32; two empty masks have IoU 0."""
    flat = masks.flatten(-2).to(torch.float32)  # counts up to 2**24 are exact
    intersection = flat @ flat.transpose(-1, -2)
    areas = flat.sum(-1)
    union = areas.unsqueeze(-1) + areas.unsqueeze(-2) - intersection
    return intersection / union.clamp(min=1.0)


def decay_factors(iou: Tensor, *, decay: str, sigma: float) -> Tensor:
    """The factor of each score under Matrix NMS.

    Args:
        iou: [..., N, N] with iou[i, j] the overlap where i is better than j and of its class, and 0
            elsewhere; N > 0.

    Returns:
        [..., N]: min over i of f(iou[i, j]) / f(max over k of iou[k, i]).
    """
    own = iou.amax(dim=-2).unsqueeze(-1)  # how much mask i is itself overlapped by a better one
    if decay == "gaussian":
        return torch.exp(sigma * (own * own - iou * iou)).amin(dim=-2)
    return ((1.0 - iou) / (1.0 - own).clamp(min=_TINY)).amin(dim=-2)


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, *, decay: str, sigma: float
) -> Tensor:
    """[N, H, W] bool, [N], [N] -> [N]: scores after Matrix NMS, in the order given."""
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores must be finite")
    if len(scores) == 0:
        return scores.clone()
    order = scores.argsort(descending=True, stable=True)
    labels = labels[order]
    # Pairs (i, j) with i before j and of one class; everything else overlaps by 0.
    better = (labels[:, None] == labels[None, :]).triu(diagonal=1)
    factors = decay_factors(mask_iou(masks[order]) * better, decay=decay, sigma=sigma)
    result = torch.empty_like(scores)
    result[order] = (scores[order] * factors).to(scores.dtype)
    return result
