"""The unified mask features: one map at stride 4 that every predicted mask kernel is applied to."""

from __future__ import annotations

from torch import Tensor, nn

from solo_edge.config import ModelConfig
from solo_edge.models.layers import ConvNorm, append_coordinates, init_normal, resize_bilinear

__all__ = ["MaskFeatureBranch"]


class MaskFeatureBranch(nn.Module):
    """P2..P5 brought to stride 4, summed, mixed by a 1x1 convolution (arXiv:2003.10152, section 3.1.2).

    P2 passes one convolution; P(2+i) passes i rounds of convolution and x2 upsampling; the first
    convolution of P5 also sees coordinates.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        kind = "separable" if config.conv == "separable" else "standard"
        self.levels = nn.ModuleList()  # one ModuleList of ConvNorm for each of P2..P5
        for i in range(4):
            convs = nn.ModuleList()
            for j in range(max(i, 1)):
                inputs = config.mask_channels if j else config.fpn_channels + (2 if i == 3 else 0)
                convs.append(ConvNorm(config, inputs, config.mask_channels, kind=kind))
            self.levels.append(convs)
        self.out = ConvNorm(config, config.mask_channels, config.kernel_length, size=1)
        init_normal(self)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """[P2..P6] -> mask features [B, E, H/4, W/4]."""
        features = []
        for i, convs in enumerate(self.levels):
            x = append_coordinates(pyramid[3]) if i == 3 else pyramid[i]
            for step, conv in enumerate(convs.children()):
                # Exact sizes (not a factor of 2) keep odd inputs aligned with P2.
                target = pyramid[max(i - 1 - step, 0)]
                x = resize_bilinear(conv(x), (target.shape[-2], target.shape[-1]))
            features.append(x)
        mask_features: Tensor = self.out(sum(features[1:], start=features[0]))
        return mask_features
