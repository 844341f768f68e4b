"""The definition of `draw_overlay`, in plain torch: slow and obvious, what the others must equal.

It computes masks in the type of the probabilities, as `reference_render` does.

Arguments are checked by the public function of the same name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_edge.kernels.reference_render import resize_probabilities

__all__ = ["draw_overlay"]


def draw_overlay(
    frame: Tensor,
    probabilities: Tensor,
    valid_count: Tensor,
    colors: Tensor,
    *,
    resized_size: tuple[int, int],
    alpha: float,
    mask_threshold: float,
    thickness: int,
) -> Tensor:
    """[H, W, 3] uint8, [M, h, w], [1], [M, 3] uint8 -> [H, W, 3] uint8."""
    height, width = frame.shape[:2]
    count = len(probabilities)
    if count == 0:
        return frame.clone(memory_format=torch.contiguous_format)
    values = resize_probabilities(probabilities, resized_size, (height, width), exact=True)
    valid = torch.arange(count, device=frame.device) < valid_count
    inside = (values > mask_threshold) & valid[:, None, None]
    seen = inside.any(0)
    first = inside.to(torch.uint8).argmax(0)

    # Numbers from 1, 0 for none; max_pool2d leaves out what is beyond the border.
    numbers = torch.where(seen, first + 1, 0).double()[None]
    window = 2 * thickness + 1
    highest = F.max_pool2d(numbers, window, stride=1, padding=thickness)
    lowest = -F.max_pool2d(-numbers, window, stride=1, padding=thickness)
    outline = (seen & (highest != lowest)[0])[..., None]

    color = colors[first].float()
    tinted = torch.round(frame.float() * (1.0 - alpha) + color * alpha)
    drawn = torch.where(outline, color, torch.where(seen[..., None], tinted, frame.float()))
    return drawn.to(torch.uint8)
