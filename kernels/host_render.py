"""The masks of a batch in slots of a fixed number, from the regions of `resize`. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.kernels.host_bits import pack_rows
from solo_edge.kernels.resize import mask_regions

__all__ = ["render_masks"]


def render_masks(
    probabilities: NDArray[Any],
    valid_count: NDArray[Any],
    *,
    resized_sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    mask_threshold: float,
    exact: bool,
    packed: bool,
) -> NDArray[Any]:
    """[B, M, h, w], [B] -> [B, M, H, W] uint8, or packed [B, M, H, ceil(W / 32)] uint32."""
    height, width = (max(size[axis] for size in original_sizes) for axis in (0, 1))
    step = 32 if packed else 1
    masks = np.zeros(
        (*probabilities.shape[:2], height, -(-width // step)),
        dtype=np.uint32 if packed else np.uint8,
    )
    for image, count in enumerate(valid_count.tolist()):
        regions = mask_regions(
            probabilities[image, :count],
            resized_sizes[image],
            original_sizes[image],
            mask_threshold,
            exact=exact,
            align=step,
        )
        for slot, (top, left, region) in enumerate(regions):
            values = pack_rows(region) if packed else region
            rows = slice(top, top + values.shape[0])
            columns = slice(left // step, left // step + values.shape[1])
            masks[image, slot, rows, columns] = values
    return masks
