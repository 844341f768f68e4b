"""What the shapes of the weights (under our names) say about the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from solo_edge.config import ModelConfig

__all__ = ["BIAS_BEFORE_NORM", "model_fields", "obstacles"]

# Residual blocks in the four stages, with bottlenecks or without.
DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
BIAS_BEFORE_NORM = r"(head|mask_feature_branch)\..+\.conv\.bias"
TOWERS = ("category_convs", "kernel_convs")


def model_fields(weights: Mapping[str, Tensor], base: ModelConfig) -> dict[str, Any]:
    """The fields of `ModelConfig` that shapes tell; those whose weight is missing are `base`'s.

    `backbone` is None where the blocks are those of no ResNet.
    """

    def size(name: str, axis: int, otherwise: int) -> int:
        shape = weights[name].shape if name in weights else ()
        return shape[axis] if axis < len(shape) else otherwise

    return {
        "backbone": _backbone(weights),
        "num_classes": size("head.category_out.weight", 0, base.num_classes),
        "fpn_channels": size("fpn.output_convs.0.weight", 0, base.fpn_channels),
        "head_channels": size("head.category_out.weight", 1, base.head_channels),
        "head_depth": max(_count(weights, f"head.{tower}.") for tower in TOWERS) or base.head_depth,
        "kernel_length": size("head.kernel_out.weight", 0, base.kernel_length),
        "mask_channels": size("mask_feature_branch.out.conv.weight", 1, base.mask_channels),
        "norm": "batch" if "mask_feature_branch.out.gn.running_mean" in weights else "group",
        "conv": "deformable" if _offsets(weights) else "standard",
    }


def obstacles(weights: Mapping[str, Tensor], depth: int) -> list[str]:
    """What our models cannot hold, though its names are known."""
    reasons = []
    offsets = _offsets(weights)
    stages = sorted({int(name.split(".")[2][-1]) + 1 for name in offsets if "backbone." in name})
    if stages:
        reasons.append(
            f"deformable convolutions in the backbone (stages {', '.join(map(str, stages))})"
        )
    if any(name.startswith("mask_feature_branch.") for name in offsets):
        reasons.append("deformable convolutions in mask_feature_branch")
    towers = {
        tower: {int(name.split(".")[2]) for name in offsets if name.startswith(f"head.{tower}.")}
        for tower in TOWERS
    }
    if any(towers.values()) and any(places != {depth - 1} for places in towers.values()):
        reasons.append(
            "deformable convolutions elsewhere than in the last one of category_branch and of kernel_branch"
        )
    counts = {offset.shape[0] for offset in offsets.values() if offset.ndim}
    if 18 in counts:
        reasons.append("deformable convolution v1 (18 offset channels; v2 has 27)")
    if counts - {18, 27}:
        reasons.append(f"deformable convolutions with {max(counts - {18, 27})} offset channels")
    if any(re.fullmatch(BIAS_BEFORE_NORM, name) for name in weights):
        reasons.append("convolutions with a bias before their norm in the branches")
    kernel, features = "head.kernel_out.weight", "mask_feature_branch.out.conv.weight"
    if kernel in weights and features in weights:
        length, maps = weights[kernel].shape[:1], weights[features].shape[:1]
        if length and maps and length[0] == 9 * maps[0]:
            reasons.append("mask kernels of 3x3")
    return reasons


def _offsets(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    end = ".conv_offset.weight"
    return {name: tensor for name, tensor in weights.items() if name.endswith(end)}


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many modules are numbered after `prefix`; gaps count, so that they are found missing."""
    numbers = [name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)]
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)


def _backbone(weights: Mapping[str, Tensor]) -> str | None:
    """timm's name of the ResNet, None where there is none."""
    place = "backbone.body."
    blocks = tuple(_count(weights, f"{place}layer{stage}.") for stage in (1, 2, 3, 4))
    bottlenecks = any(re.match(r"backbone\.body\.layer\d\.\d+\.conv3\.", name) for name in weights)
    depth = DEPTHS.get((blocks, bottlenecks))
    if depth is None:
        return None
    # C: three convolutions in the stem; D: also a pooling in the shortcuts.
    stem = any(name.startswith(f"{place}conv1.0.") for name in weights)
    pooled = any(name.startswith(f"{place}layer2.0.downsample.2.") for name in weights)
    variant = ("d" if pooled else "c") if stem else ""
    wide = weights.get(f"{place}layer1.0.conv2.weight")
    if not bottlenecks or wide is None or wide.ndim != 4 or tuple(wide.shape[:2]) == (64, 64):
        return f"resnet{depth}{variant}"
    width, inputs = wide.shape[:2]
    if width == inputs:
        return f"wide_resnet{depth}_{width // 64}"
    return f"resnext{depth}{variant}_{width // max(inputs, 1)}x{inputs}d"
