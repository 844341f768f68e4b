"""Backbones from timm: the last four stages, strides 4, 8, 16 and 32. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from solo_edge.errors import UsageError, did_you_mean

__all__ = ["STRIDES", "Backbone"]

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """C2..C5 of a timm model, with random weights.

    Args:
        stride_in_1x1: ResNet bottlenecks halve the map in their first 1x1 convolution instead of the
            3x3 one, as in the first (Caffe) ResNets and in detectron2's default.
    """

    def __init__(self, name: str, *, stride_in_1x1: bool = False):
        super().__init__()
        self.name = name
        import timm

        if not timm.is_model(name):
            fix = did_you_mean(name, timm.list_models())
            raise UsageError(f"timm has no backbone {name!r}", fix=fix[:200])
        try:
            body: Any = timm.create_model(name, pretrained=False, features_only=True)
            reductions = body.feature_info.reduction()
            indices = tuple(reductions.index(stride) for stride in STRIDES)
        except (RuntimeError, ValueError, AttributeError) as error:
            fix = "choose a model with features at strides 4, 8, 16 and 32"
            raise UsageError(f"backbone {name!r} does not fit ({error})", fix=fix) from None
        if len(reductions) != len(indices):
            body = timm.create_model(
                name, pretrained=False, features_only=True, out_indices=indices
            )
        if stride_in_1x1 and not _move_strides(body):
            fix = "set stride_in_1x1=False, or choose a ResNet of 50 layers or more"
            raise UsageError(f"backbone {name!r} has no bottlenecks with a stride", fix=fix)
        self.body: nn.Module = body
        self.channels: tuple[int, ...] = tuple(body.feature_info.channels())

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.body(images)
        return features


def _move_strides(body: nn.Module) -> int:
    """From the 3x3 to the first 1x1 convolution of each bottleneck; how many had a stride."""
    from timm.models.resnet import Bottleneck

    moved = 0
    for block in body.modules():
        if isinstance(block, Bottleneck) and block.conv2.stride != (1, 1):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
            moved += 1
    return moved
