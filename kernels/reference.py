"""The definition of every operation, in plain torch: slow and obvious, what the others must equal.

All shapes follow from the arguments' shapes alone, so nothing waits for a device, and what the
exported graphs use has a standard ONNX form.

Arguments are checked by the public functions of the same names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_edge.kernels.reference_overlay import draw_overlay
from solo_edge.kernels.reference_preprocess import preprocess
from solo_edge.kernels.reference_render import render_masks
from solo_edge.kernels.results import MAX_SCORE, Candidates, InstanceSlots, PackedMasks

__all__ = [
    "decay_factors",
    "draw_overlay",
    "dynamic_conv",
    "dynamic_conv_pack",
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
    "unpack_masks",
]

# Smallest divisor of the linear decay: makes 0/0 a 0, and x/0 too large to be a minimum.
_TINY = 1e-12


def points_nms(scores: Tensor) -> Tensor:
    """[B, C, S, S] -> [B, C, S, S]: 0 where a neighbour above, left or above-left is higher (or NaN)."""
    highest = F.max_pool2d(scores, kernel_size=2, stride=1, padding=1)[:, :, :-1, :-1]
    return torch.where(scores == highest, scores, torch.zeros_like(scores))


def select_candidates(
    category_scores: Tensor | Sequence[Tensor], *, score_threshold: float, max_candidates: int
) -> Candidates:
    """Levels [B, C, S, S], or [B, C, T] after points NMS -> Candidates; ties by (class, cell)."""
    if not isinstance(category_scores, Tensor):
        levels = [points_nms(level.float()).flatten(2) for level in category_scores]
        category_scores = torch.cat(levels, dim=2)
    cells = category_scores.shape[2]
    flat = category_scores.flatten(1).float()
    allowed = (flat > score_threshold) & (flat < MAX_SCORE)
    scores, chosen = torch.where(allowed, flat, 0.0).sort(dim=1, descending=True, stable=True)
    scores, chosen = scores[:, :max_candidates], chosen[:, :max_candidates]
    valid = scores > 0  # so is every score above the threshold
    chosen = torch.where(valid, chosen, 0)
    labels = torch.div(chosen, cells, rounding_mode="trunc")
    missing = (0, max_candidates - chosen.shape[1])  # fewer (cell, class) pairs than slots
    return Candidates(
        F.pad(scores, missing),
        F.pad(labels, missing).int(),
        F.pad(chosen - labels * cells, missing).int(),
        valid.sum(dim=1, dtype=torch.int32),
    )


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
    if len(scores) == 0:
        return scores.clone()
    valid = torch.ones_like(scores, dtype=torch.bool)
    return _decayed(mask_iou(masks), labels, scores, valid, decay=decay, sigma=sigma)


def _decayed(
    iou: Tensor, labels: Tensor, scores: Tensor, valid: Tensor, *, decay: str, sigma: float
) -> Tensor:
    """[..., N, N], [..., N] and so on -> [..., N]; 0 where not valid or not finite."""
    takes_part = valid & scores.isfinite()
    ranked = torch.where(takes_part, scores, float("-inf"))
    mine, other = ranked.unsqueeze(-1), ranked.unsqueeze(-2)
    earlier = torch.ones_like(iou, dtype=torch.bool).triu(diagonal=1)
    better = (mine > other) | ((mine == other) & earlier)  # [..., i, j]: i before j
    same = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    both = takes_part.unsqueeze(-1) & takes_part.unsqueeze(-2)
    factors = decay_factors(iou * (better & same & both), decay=decay, sigma=sigma)
    return torch.where(takes_part, scores * factors, 0.0).to(scores.dtype)


def pack_masks(masks: Tensor) -> Tensor:
    """[..., pixels] bool -> [..., ceil(pixels / 32)] uint32, lowest bit first; surplus bits are 0."""
    padded = F.pad(masks, (0, -masks.shape[-1] % 32)).unflatten(-1, (-1, 32))
    words: Tensor = (padded.long() << torch.arange(32, device=masks.device)).sum(dim=-1)
    return words.to(torch.uint32)


def unpack_masks(words: Tensor, pixels: int) -> Tensor:
    """[..., words] uint32 -> [..., pixels] bool, the inverse of `pack_masks`."""
    bits: Tensor = (words.long().unsqueeze(-1) >> torch.arange(32, device=words.device)) & 1
    return bits.flatten(-2)[..., :pixels].bool()


def dynamic_conv_pack(
    mask_features: Tensor,
    mask_kernels: Tensor,
    cells: Tensor,
    valid_count: Tensor,
    *,
    mask_threshold: float,
) -> PackedMasks:
    """[B, E, H, W], [B, E, T], [B, K], [B] -> PackedMasks."""
    inside, probabilities = _candidate_masks(
        mask_features, mask_kernels, cells, valid_count, mask_threshold
    )
    sums = torch.where(inside, probabilities, 0.0).sum(dim=2)
    return PackedMasks(pack_masks(inside), inside.sum(dim=2, dtype=torch.int32), sums)


def mask_iou_packed(words: Tensor, areas: Tensor) -> Tensor:
    """[B, K, W], [B, K] -> [B, K, K] float32. The areas follow from the words; fast versions need them."""
    del areas
    return mask_iou(unpack_masks(words, 32 * words.shape[-1])[:, :, None])


def matrix_nms_packed(
    words: Tensor,
    areas: Tensor,
    labels: Tensor,
    scores: Tensor,
    valid_count: Tensor,
    *,
    decay: str,
    sigma: float,
) -> Tensor:
    """[B, K, W], [B, K], [B, K], [B, K], [B] -> [B, K]: scores after Matrix NMS, in the order given."""
    valid = torch.arange(scores.shape[1], device=scores.device) < valid_count[:, None]
    iou = mask_iou_packed(words, areas)
    return _decayed(iou, labels, scores, valid, decay=decay, sigma=sigma)


def postprocess(
    category_scores: Tensor | Sequence[Tensor],
    mask_kernels: Tensor,
    mask_features: Tensor,
    cell_strides: Tensor,
    *,
    score_threshold: float,
    mask_threshold: float,
    update_threshold: float,
    max_candidates: int,
    max_instances: int,
    decay: str,
    sigma: float,
) -> InstanceSlots:
    """Levels [B, C, S, S] or [B, C, T], [B, E, T], [B, E, h, w], [T] -> InstanceSlots."""
    scores, labels, cells, count = select_candidates(
        category_scores, score_threshold=score_threshold, max_candidates=max_candidates
    )
    inside, probabilities = _candidate_masks(
        mask_features, mask_kernels, cells, count, mask_threshold
    )
    areas = inside.sum(dim=2).float()
    maskness = torch.where(inside, probabilities, 0.0).sum(dim=2) / areas.clamp(min=1.0)
    large = areas > cell_strides[cells.long()]  # false for empty slots, whose area is 0
    rescored = scores * maskness
    iou = mask_iou(inside[:, :, None])
    decayed = _decayed(iou, labels, rescored, large, decay=decay, sigma=sigma)

    kept = large & (decayed >= update_threshold)
    # Equal scores count in their order before the decay.
    before = torch.where(kept, rescored, -1.0).argsort(dim=1, descending=True, stable=True)
    after = torch.where(kept, decayed, -1.0).gather(1, before)
    best = before.gather(1, after.argsort(dim=1, descending=True, stable=True))
    best = best[:, :max_instances]
    best = F.pad(best, (0, max_instances - best.shape[1]))
    count = kept.sum(dim=1).clamp(max=max_instances)
    filled = torch.arange(max_instances, device=count.device) < count[:, None]
    index = best[:, :, None].expand(-1, -1, probabilities.shape[2])
    chosen = torch.where(filled[:, :, None], probabilities.gather(1, index), 0.0)
    return InstanceSlots(
        torch.where(filled, labels.gather(1, best), 0),
        torch.where(filled, decayed.gather(1, best), 0.0),
        chosen.unflatten(2, mask_features.shape[2:]),
        count.int(),
    )


def _candidate_masks(
    mask_features: Tensor,
    mask_kernels: Tensor,
    cells: Tensor,
    valid_count: Tensor,
    mask_threshold: float,
) -> tuple[Tensor, Tensor]:
    """[B, K, pixels] bool and the probabilities behind it; nothing is inside from `valid_count` on."""
    index = cells.long()[:, None].expand(-1, mask_kernels.shape[1], -1)
    chosen = mask_kernels.float().gather(2, index).transpose(1, 2)  # [B, K, E]
    probabilities = (chosen @ mask_features.float().flatten(2)).sigmoid()
    valid = torch.arange(cells.shape[1], device=cells.device) < valid_count[:, None]
    return (probabilities > mask_threshold) & valid[:, :, None], probabilities
