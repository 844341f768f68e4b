"""Masks as a tint and an outline; the work is done by `solo_edge.kernels.host_overlay`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances
from solo_edge.kernels.host_overlay import DrawnMasks, draw_regions

__all__ = ["DrawnMasks", "draw_masks", "outline_width"]


def draw_masks(
    output: NDArray[np.uint8], instances: Instances, colors: NDArray[np.uint8], alpha: float
) -> DrawnMasks:
    """Tint and outline every mask in its colour, in place; where masks overlap the best one is seen.

    Args:
        output: [H, W, 3].
        colors: [N, 3].
        alpha: opacity of the tint, in [0, 1]; the outline is opaque.
    """
    thickness = outline_width(instances.image_size)
    return draw_regions(output, instances.regions(), colors, alpha, thickness)


def outline_width(image_size: tuple[int, int]) -> int:
    """Pixels: 1 up to about 700 rows, 2 for 720 and 1080, 4 for 2160."""
    return max(1, round(min(image_size) / 480))
