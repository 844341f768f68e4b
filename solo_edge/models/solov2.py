"""SOLOv2 (arXiv:2003.10152), in the authors' light and full configurations and in ours."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from solo_edge.config import ModelConfig
from solo_edge.models.backbone import Backbone
from solo_edge.models.fpn import FPN
from solo_edge.models.head import SOLOv2Head
from solo_edge.models.mask_feature_branch import MaskFeatureBranch

__all__ = ["SOLOv2", "SOLOv2Output"]


class SOLOv2Output(NamedTuple):
    """What the network says about a batch, before any decision. One list entry per grid of S x S cells."""

    category_logits: list[Tensor]  # [B, C, S, S]
    mask_kernels: list[Tensor]  # [B, E, S, S]
    mask_features: Tensor  # [B, E, H/4, W/4]
    strides: tuple[int, ...]  # stride of each level, the smallest mask area that counts


class SOLOv2(nn.Module):
    """The network. Any image size works; sides that are multiples of 32 match the reference exactly."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, stride_in_1x1=config.stride_in_1x1)
        self.fpn = FPN(self.backbone.channels, config.fpn_channels)
        self.head = SOLOv2Head(config)
        self.mask_feature_branch = MaskFeatureBranch(config)

    def forward(self, images: Tensor) -> SOLOv2Output:
        """images: [B, 3, H, W] float32, normalised RGB -> SOLOv2Output."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be [B, 3, H, W], got {tuple(images.shape)}")
        pyramid = self.fpn(self.backbone(images))
        category_logits, mask_kernels = self.head(pyramid)
        mask_features = self.mask_feature_branch(pyramid)
        return SOLOv2Output(category_logits, mask_kernels, mask_features, self.config.strides)
