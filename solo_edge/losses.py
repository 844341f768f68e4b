"""SOLOv2's two losses, dice on the masks of positive cells and focal loss on every (cell, class) score, and
what can be added to them in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from solo_edge.config import TrainConfig
from solo_edge.models.solov2 import SOLOv2Output
from solo_edge.targets import Targets

__all__ = [
    "Counts",
    "dice_loss",
    "focal_loss",
    "lovasz_hinge",
    "mask_logits",
    "quality_focal_loss",
    "semantic_loss",
    "solov2_losses",
    "training_losses",
]

EPSILON = 0.001  # in both terms of dice's denominator


class Counts(NamedTuple):
    """What the losses of a batch are divided by. Counts of parts of a batch add up to those of the batch."""

    pairs: float  # (cell, instance) pairs
    positives: float  # distinct cells with a category
    images: float

    @classmethod
    def of(cls, targets: Sequence[Targets], classes: int) -> Counts:
        pairs = sum(len(target.cells) for target in targets)
        positives = sum(int(np.count_nonzero(t.category < classes)) for t in targets)
        return cls(pairs, positives, len(targets))


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
    config = TrainConfig(
        dice_weight=dice_weight, focal_weight=focal_weight, focal_alpha=alpha, focal_gamma=gamma
    )
    counts = Counts.of(targets, output.category_logits[0].shape[1])
    losses = training_losses(output, targets, config, counts)
    return losses["dice_loss"], losses["focal_loss"]


def training_losses(
    output: SOLOv2Output, targets: Sequence[Targets], config: TrainConfig, counts: Counts
) -> dict[str, Tensor]:
    """The weighted losses that `config` asks for, by name; their sum is what training lowers.

    `dice_loss` and `focal_loss` are those of `solov2_losses`; with `category_loss="quality"` the latter
    is `quality_focal_loss`, whose wanted score is the IoU of the mask that the cell predicts now.
    `lovasz_loss` is the mean of `lovasz_hinge` over the same pairs as dice.

    Args:
        counts: of the whole batch, of which `output` and `targets` may be a part. The losses of the
            parts add up to those of the batch.
    """
    device = output.mask_features.device
    scores = torch.cat([x.float().flatten(2) for x in output.category_logits], dim=2)  # [B, C, T]
    classes = scores.shape[1]
    # Without a positive cell the loss is zero, but still connected to the graph.
    dice = lovasz = 0.0 * _sum(output)
    quality = torch.zeros(len(targets), scores.shape[2], device=device)
    for i, target in enumerate(targets):
        if len(target.cells) == 0:
            continue
        logits = mask_logits(output, i, torch.from_numpy(target.cells).to(device))
        instances = torch.from_numpy(target.instances).to(device)
        masks = torch.from_numpy(target.masks).to(device).flatten(1).float()  # [N, hw]
        wanted = masks.index_select(0, instances)  # [P, hw]
        dice = dice + dice_loss(logits.sigmoid(), wanted).sum()
        if config.lovasz_weight > 0:
            lovasz = lovasz + lovasz_hinge(logits, wanted).sum()
        if config.category_loss == "quality":
            cells, last = _last_claims(target.cells)
            found = _iou(logits.detach() > 0, wanted > 0.5)
            quality[i, torch.from_numpy(cells).to(device)] = found[
                torch.from_numpy(last).to(device)
            ]
    category = np.array([target.category for target in targets], dtype=np.int64)
    labels = torch.from_numpy(category.reshape(scores.shape[0], scores.shape[2])).to(
        device
    )  # [B, T]
    logits = scores.transpose(1, 2)  # [B, T, C]
    if config.category_loss == "quality":
        one_hot = F.one_hot(labels, classes + 1)[..., :classes]
        focal = quality_focal_loss(logits, one_hot * quality[..., None], gamma=config.focal_gamma)
    else:
        focal = focal_loss(logits, labels, alpha=config.focal_alpha, gamma=config.focal_gamma)
    pairs = max(counts.pairs, 1.0)
    losses = {
        "dice_loss": config.dice_weight * dice / pairs,
        "focal_loss": config.focal_weight * focal / (counts.positives + 1),
    }
    if config.lovasz_weight > 0:
        losses["lovasz_loss"] = config.lovasz_weight * lovasz / pairs
    return losses


def mask_logits(output: SOLOv2Output, image: int, cells: Tensor) -> Tensor:
    """The masks that cells [P] (indices into all T cells) of image number `image` predict: [P, hw]."""
    mask_kernels = torch.cat([x[image].float().flatten(1) for x in output.mask_kernels], dim=1)
    chosen = mask_kernels.index_select(1, cells).t()  # [P, E]
    return chosen @ output.mask_features[image].float().flatten(1)


def dice_loss(probabilities: Tensor, masks: Tensor) -> Tensor:
    """[P, hw] probabilities and masks -> [P], 1 - 2 sum(pt) / (sum(p^2) + sum(t^2) + 2 epsilon).

    `masks` are 0/1, or the probabilities of a teacher: with p = t the loss is 0 up to epsilon.
    """
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


def quality_focal_loss(logits: Tensor, wanted: Tensor, *, gamma: float) -> Tensor:
    """Focal loss towards scores between 0 and 1 (arXiv:2006.04388, equation 2), summed.

    |y - p|^gamma * -((1 - y) log(1 - p) + y log(p)) with p = sigmoid(logit); it is lowest at p = y.

    Args:
        logits, wanted: of the same shape.
    """
    distance = (wanted - logits.sigmoid()).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted.to(logits.dtype), reduction="none")
    return (entropy * distance.pow(gamma)).sum()


def lovasz_hinge(logits: Tensor, masks: Tensor) -> Tensor:
    """[P, hw] logits and 0/1 masks -> [P], a convex bound of 1 - IoU (arXiv:1705.08790, section 3.1).

    Hinge errors m = 1 - logit * (2t - 1) in descending order are weighted with the steps by which the
    Jaccard loss 1 - |T minus first k| / |T or first k| grows when the first k pixels are wrong.
    """
    errors, order = (1 - logits * (2 * masks - 1)).sort(dim=1, descending=True)
    sorted_masks = masks.gather(1, order)
    total = masks.sum(1, keepdim=True)
    intersection = total - sorted_masks.cumsum(1)
    union = total + (1 - sorted_masks).cumsum(1)
    jaccard = 1 - intersection / union
    steps = torch.diff(jaccard, dim=1, prepend=torch.zeros_like(jaccard[:, :1]))
    return (errors.relu() * steps).sum(1)


def semantic_loss(
    logits: Tensor, targets: Sequence[Targets], labels: Sequence[NDArray[np.int64]]
) -> Tensor:
    """Which classes are in a pixel, whatever the instance (YOLACT, arXiv:1904.02689, section 3.4).

    Binary cross entropy, mean over pixels, sum over classes and images: a pixel may be of several classes.

    Args:
        logits: [B, C, H/4, W/4]. labels: B times [N], the class of each mask of the image's targets.
    """
    wanted = torch.zeros_like(logits).flatten(2)  # [B, C, hw]
    for i, (target, found) in enumerate(zip(targets, labels, strict=True)):
        masks = torch.from_numpy(target.masks).to(logits.device).flatten(1).to(logits.dtype)
        wanted[i].index_add_(0, torch.from_numpy(found).to(logits.device), masks)
    wanted.clamp_(max=1.0)
    entropy = F.binary_cross_entropy_with_logits(logits.flatten(2), wanted, reduction="none")
    return entropy.mean(2).sum()


def _last_claims(cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each cell once, with the index of its last claim: the instance that gave it its category."""
    found, first_of_reversed = np.unique(cells[::-1], return_index=True)
    return found, len(cells) - 1 - first_of_reversed


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """[P, hw] bool, twice -> [P]."""
    union = (a | b).sum(1)
    return (a & b).sum(1) / union.clamp_min(1)


def _sum(output: SOLOv2Output) -> Tensor:
    """A number that depends on all that dice depends on."""
    parts = [*output.mask_kernels, output.mask_features]
    return torch.stack([x.float().sum() for x in parts]).sum()
