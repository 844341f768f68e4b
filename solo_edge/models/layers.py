"""Building blocks that all branches share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from solo_edge.config import ModelConfig

__all__ = ["ConvNorm", "append_coordinates", "init_normal", "resize_bilinear"]


class ConvNorm(nn.Module):
    """Convolution without bias, norm, ReLU; names and order as in the authors' ConvModule.

    Args:
        kind: "standard", "separable" (depthwise 3x3, then pointwise) or "deformable" (DCNv2).
    """

    def __init__(
        self, config: ModelConfig, inputs: int, outputs: int, size: int = 3, kind: str = "standard"
    ):
        super().__init__()
        self.conv: nn.Module
        if kind == "deformable":
            self.conv = DeformConv(inputs, outputs)
        elif kind == "separable" and size > 1:
            self.conv = nn.Sequential(
                nn.Conv2d(inputs, inputs, size, padding=size // 2, groups=inputs, bias=False),
                nn.Conv2d(inputs, outputs, 1, bias=False),
            )
        else:
            self.conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        if config.norm == "group":
            self.gn: nn.Module = nn.GroupNorm(config.norm_groups, outputs)
        else:
            self.gn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.gn(self.conv(x)))


class DeformConv(nn.Module):
    """3x3 modulated deformable convolution (DCNv2, arXiv:1811.11168), laid out as in mmcv.

    `conv_offset` predicts 27 channels: 18 offsets, (dy, dx) for each of the nine taps, and nine
    modulation logits.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.conv_offset = nn.Conv2d(inputs, 27, 3, padding=1)
        nn.init.normal_(self.weight, std=0.01)
        # Starts as an ordinary convolution at half strength, as in mmcv.
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import deform_conv2d

        predicted = self.conv_offset(x)
        offset, modulation = predicted[:, :18], predicted[:, 18:].sigmoid()
        convolved: Tensor = deform_conv2d(x, offset, self.weight, padding=1, mask=modulation)
        return convolved


def append_coordinates(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C + 2, H, W] with x, then y, running from -1 to 1 over the map (CoordConv)."""
    batch, _, height, width = x.shape
    columns = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    rows = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    x_map = columns.view(1, 1, 1, width).expand(batch, 1, height, width)
    y_map = rows.view(1, 1, height, 1).expand(batch, 1, height, width)
    return torch.cat([x, x_map, y_map], dim=1)


def resize_bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize with half-pixel centres (align_corners=False)."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def init_normal(module: nn.Module, std: float = 0.01) -> None:
    """The authors' initialisation of every convolution in the branches; norms start as identity."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d) and not _is_offset(module, child):
            nn.init.normal_(child.weight, std=std)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def _is_offset(module: nn.Module, conv: nn.Conv2d) -> bool:
    return any(isinstance(m, DeformConv) and m.conv_offset is conv for m in module.modules())
