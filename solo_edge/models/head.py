"""The two branches that work on the grids: which class is in a cell, and the mask kernel of that cell."""

from __future__ import annotations

import math

from torch import Tensor, nn

from solo_edge.config import ModelConfig
from solo_edge.models.layers import ConvNorm, append_coordinates, init_normal, resize_bilinear

__all__ = ["SOLOv2Head"]

PRIOR = 0.01  # probability that a fresh model gives every class in every cell


class SOLOv2Head(nn.Module):
    """category_branch and kernel_branch (arXiv:2003.10152, section 3.1), shared by all levels.

    Only kernel_branch sees the coordinates, which run over the feature map before it is resized to the
    S x S grid (authors' `solov2_head.py`).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.grid_sizes = config.grid_sizes
        self.levels = config.levels
        self.category_convs = _tower(config, config.fpn_channels)
        self.kernel_convs = _tower(config, config.fpn_channels + 2)
        self.category_out = nn.Conv2d(config.head_channels, config.num_classes, 3, padding=1)
        self.kernel_out = nn.Conv2d(config.head_channels, config.kernel_length, 3, padding=1)
        init_normal(self)
        assert self.category_out.bias is not None
        nn.init.constant_(self.category_out.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, pyramid: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """[P2..P6] -> category logits [B, C, S, S] and mask kernels [B, E, S, S], one of each per grid."""
        category_logits, mask_kernels = [], []
        for level, size in zip(self.levels, self.grid_sizes, strict=True):
            x = append_coordinates(self._feature(pyramid, level))
            x = resize_bilinear(x, (size, size))
            mask_kernels.append(self.kernel_out(self.kernel_convs(x)))
            category_logits.append(self.category_out(self.category_convs(x[:, :-2])))
        return category_logits, mask_kernels

    @staticmethod
    def _feature(pyramid: list[Tensor], level: int) -> Tensor:
        """P2 is halved and P6 brought to P5's size, so that the strides are 8, 8, 16, 32, 32."""
        x = pyramid[level - 2]
        if level == 2:
            return resize_bilinear(x, (x.shape[-2] // 2, x.shape[-1] // 2))
        if level == 6:
            p5 = pyramid[3]
            return resize_bilinear(x, (p5.shape[-2], p5.shape[-1]))
        return x


def _tower(config: ModelConfig, inputs: int) -> nn.Sequential:
    convs = []
    for i in range(config.head_depth):
        kind: str = config.conv
        if kind == "deformable" and i < config.head_depth - 1:
            kind = "standard"
        convs.append(ConvNorm(config, inputs, config.head_channels, kind=kind))
        inputs = config.head_channels
    return nn.Sequential(*convs)
