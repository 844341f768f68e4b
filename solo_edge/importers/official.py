"""Checkpoints with the key names of the authors' code (github.com/WXinlong/SOLO)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from solo_edge.config import PRESETS, ModelConfig, from_dict
from solo_edge.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["convert", "recognises", "rename"]

# (their pattern, our name). Backbones keep torchvision's names, which timm's ResNets share.
RENAMES = (
    (r"backbone\.(.+)", r"backbone.body.\1"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(\w+)", r"fpn.lateral_convs.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(\w+)", r"fpn.output_convs.\1.\2"),
    (r"bbox_head\.cate_convs\.(\d)\.(.+)", r"head.category_convs.\1.\2"),
    (r"bbox_head\.kernel_convs\.(\d)\.(.+)", r"head.kernel_convs.\1.\2"),
    (r"bbox_head\.solo_cate\.(\w+)", r"head.category_out.\1"),
    (r"bbox_head\.solo_kernel\.(\w+)", r"head.kernel_out.\1"),
    (
        r"mask_feat_head\.convs_all_levels\.(\d)\.conv(\d)\.(.+)",
        r"mask_feature_branch.levels.\1.\2.\3",
    ),
    (r"mask_feat_head\.conv_pred\.0\.(.+)", r"mask_feature_branch.out.\1"),
)
# Residual blocks in the four stages tell the depth; the kind of block tells 34 from 50.
DEPTHS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    return "bbox_head.solo_cate.weight" in tensors and "bbox_head.solo_kernel.weight" in tensors


def convert(tensors: Mapping[str, Tensor], where: str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The configuration read off the shapes, and the weights under our names."""
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = rename(key)
        if name is None:
            unknown.append(key)
        else:
            renamed[name] = tensor
    if unknown:
        raise ArtifactError(
            f"{len(unknown)} keys are not of the authors' layout ({', '.join(unknown[:3])} ...)",
            where=where,
            fix="check that the checkpoint is a SOLOv2 one",
        )
    return _config(tensors, where), renamed


def rename(key: str) -> str | None:
    """Our name for one of theirs, None where there is none."""
    for pattern, replacement in RENAMES:
        name, count = re.subn(f"^{pattern}$", replacement, key)
        if count:
            return name
    return None


def _config(tensors: Mapping[str, Tensor], where: str) -> ModelConfig:
    blocks = tuple(
        len({key.split(".")[2] for key in tensors if key.startswith(f"backbone.layer{stage}.")})
        for stage in (1, 2, 3, 4)
    )
    backbone = DEPTHS.get((blocks, "backbone.layer1.0.conv3.weight" in tensors))
    if backbone is None:
        fix = "ResNet-18, 34, 50 and 101 are known"
        raise ArtifactError(f"backbone with {blocks} blocks is not known", where=where, fix=fix)
    if "backbone.layer2.0.conv2.conv_offset.weight" in tensors:
        raise ArtifactError(
            "the backbone has deformable convolutions, which are not supported yet",
            where=where,
            fix="use a checkpoint with a plain backbone",
        )
    try:
        depth = len(
            {key.split(".")[2] for key in tensors if key.startswith("bbox_head.cate_convs.")}
        )
        classes, channels = tensors["bbox_head.solo_cate.weight"].shape[:2]
        # The full model is wider and was trained on larger images.
        base = PRESETS["solov2-r50-800" if channels > 256 else "solov2-light-r50-448"]
        offsets = {key: t for key, t in tensors.items() if key.endswith(".conv_offset.weight")}
        if any(tensor.shape[0] != 27 for tensor in offsets.values()):
            raise ArtifactError(
                "deformable convolution v1 is not supported yet",
                where=where,
                fix="use a checkpoint with DCNv2 or without deformable convolutions",
            )
        fields = {
            "name": f"official-{backbone}",
            "backbone": backbone,
            "num_classes": classes,
            "head_channels": channels,
            "head_depth": depth,
            "fpn_channels": tensors["neck.fpn_convs.0.conv.weight"].shape[0],
            "kernel_length": tensors["bbox_head.solo_kernel.weight"].shape[0],
            "mask_channels": tensors["mask_feat_head.conv_pred.0.conv.weight"].shape[1],
            "conv": "deformable" if offsets else "standard",
        }
    except (KeyError, IndexError) as error:
        fix = "check that the file is complete"
        raise ArtifactError(f"key {error} is missing", where=where, fix=fix) from None
    return from_dict(ModelConfig, {**vars(base), **fields})
