"""SOLOv2's two losses: dice on the masks of positive cells, focal loss on every (cell, class) score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_edge.models.solov2 import SOLOv2Output
from solo_edge.targets import Targets

__all__ = ["dice_loss", "focal_loss", "solov2_losses"]

EPSILON = 0.001  # in both terms of dice's denominator


def solov2_losses(
    output: SOLOv2Output,
    targets: Sequence[Targets],
    *,
    dice_weight: float = 3.0,
    focal_weight: float = 1.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """(dice loss, focal loss) of a batch, weighted, as in the authors' `SOLOv2Head.loss`.

    Dice is the mean over the positive cells of the whole batch; the focal sum is divided by the number
    of distinct positive cells + 1. Both are computed in float32 whatever the network's precision.

    Args:
        output: of B images. targets: one per image, for the same input size.
    """
    device = output.mask_features.device
    scores = torch.cat([x.float().flatten(2) for x in output.category_logits], dim=2)  # [B, C, T]
    mask_kernels = torch.cat(
        [x.float().flatten(2) for x in output.mask_kernels], dim=2
    )  # [B, E, T]
    losses = []
    for i, target in enumerate(targets):
        if len(target.cells) == 0:
            continue
        cells = torch.from_numpy(target.cells).to(device)
        instances = torch.from_numpy(target.instances).to(device)
        masks = torch.from_numpy(target.masks).to(device).flatten(1).float()  # [N, hw]
        chosen = mask_kernels[i].index_select(1, cells).t()  # [P, E]
        logits = chosen @ output.mask_features[i].float().flatten(1)  # [P, hw]
        losses.append(dice_loss(logits.sigmoid(), masks.index_select(0, instances)))
    # Without a positive cell the loss is zero, but still connected to the graph.
    dice = torch.cat(losses).mean() if losses else 0.0 * (mask_kernels.sum() + _sum(output))
    labels = torch.stack([torch.from_numpy(target.category) for target in targets]).to(device)
    classes = scores.shape[1]
    focal = focal_loss(scores.transpose(1, 2), labels, alpha=alpha, gamma=gamma)
    positives = (labels < classes).sum()
    return dice_weight * dice, focal_weight * focal / (positives + 1)


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """[P, hw] probabilities and 0/1 masks -> [P], 1 - 2 sum(pt) / (sum(p^2) + sum(t^2) + 2 epsilon)."""
    overlap = (probabilities * masks).sum(1)
    total = (probabilities * probabilities).sum(1) + (masks * masks).sum(1) + 2 * EPSILON
    return 1 - 2 * overlap / total


def focal_loss(logits: Tensor, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Sigmoid focal loss (arXiv:1708.02002), summed.

    Args:
        logits: [..., C]. labels: [...] int64 in 0..C, where C means background.
    """
    classes = logits.shape[-1]
    wanted = F.one_hot(labels, classes + 1)[..., :classes].to(logits.dtype)
    probability = logits.sigmoid()
    missed = (1 - probability) * wanted + probability * (1 - wanted)
    weight = (alpha * wanted + (1 - alpha) * (1 - wanted)) * missed.pow(gamma)
    return (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()


def _sum(output: SOLOv2Output) -> Tensor:
    return output.mask_features.float().sum()
