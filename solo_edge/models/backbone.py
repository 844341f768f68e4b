"""Backbones from timm: the last four stages, strides 4, 8, 16 and 32. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from solo_edge.errors import UsageError, did_you_mean

__all__ = ["STRIDES", "Backbone"]

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module):
    """C2..C5 of a timm model, with random weights."""

    def __init__(self, name: str):
        super().__init__()
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
        self.body: nn.Module = body
        self.channels: tuple[int, ...] = tuple(body.feature_info.channels())

    def forward(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.body(images)
        return features
