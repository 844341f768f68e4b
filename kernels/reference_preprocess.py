"""`preprocess` in plain torch, with OpenCV's fixed-point arithmetic.

The definition is `solo_edge.preprocess.Preprocess`, which calls OpenCV; the tests hold both to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from solo_edge.kernels.host_preprocess import axis_taps

__all__ = ["preprocess"]


def preprocess(
    frame: Tensor,
    *,
    resized_size: tuple[int, int],
    input_size: tuple[int, int],
    pixel_mean: tuple[float, float, float],
    pixel_std: tuple[float, float, float],
    bgr: bool,
    dtype: str,
) -> Tensor:
    """[H, W, 3] uint8 -> [1, 3, height, width] of `dtype`."""
    pixels = (frame.flip(2) if bgr else frame).to(torch.int32)
    for axis in (1, 0):  # columns first, as OpenCV
        taps = axis_taps(frame.shape[axis], resized_size[axis], whole_at_borders=axis == 1)
        shape = (-1, 1) if axis else (-1, 1, 1)
        first, second, left, right = (torch.from_numpy(each).to(frame.device) for each in taps)
        a = pixels.index_select(axis, first) * left.view(shape)
        b = pixels.index_select(axis, second) * right.view(shape)
        pixels = (a + b) >> 4 if axis else ((a >> 16) + (b >> 16) + 2) >> 2
    numbers = (pixel_mean, [1.0 / std for std in pixel_std])
    mean, factor = (
        torch.tensor(each, dtype=torch.float32, device=frame.device) for each in numbers
    )
    normal = (pixels.float() - mean) * factor
    image = torch.zeros(1, 3, *input_size, dtype=getattr(torch, dtype), device=frame.device)
    image[0, :, : resized_size[0], : resized_size[1]] = normal.permute(2, 0, 1)
    return image
