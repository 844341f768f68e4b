"""Where instances stand: the point or the mask by which zones and lines judge them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances
from solo_edge.kernels.resize import STRIDE
from solo_edge.zones.geometry import inside, share_inside

__all__ = ["Anchors"]


class Anchors:
    """The anchors of the instances of one frame; what nobody asks for is not computed."""

    def __init__(self, instances: Instances):
        self._instances = instances
        self._points: dict[str, NDArray[np.float64]] = {}

    def points(self, anchor: str) -> NDArray[np.float64]:
        """[N, 2] x, y in pixels: the middle of the boxes or of their lower sides."""
        if anchor not in self._points:
            left, top, right, bottom = self._instances.boxes.astype(np.float64).T
            y = bottom if anchor == "bottom" else (top + bottom) / 2
            self._points[anchor] = np.stack([(left + right) / 2, y], axis=1)
        return self._points[anchor]

    def shares(self, polygon: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N]: how much of each mask lies in a polygon [K, 2], counted on every fourth pixel."""
        lazy = self._instances.lazy_masks
        if lazy is None:
            masks = self._instances.masks[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
            steps = (float(STRIDE), float(STRIDE))
        else:
            masks = lazy.probabilities > lazy.threshold
            whole, part = lazy.geometry.original_size, lazy.geometry.resized_size
            steps = (STRIDE * whole[0] / part[0], STRIDE * whole[1] / part[1])
        corners = tuple(map(tuple, polygon.tolist()))
        return share_inside(masks, _area(corners, masks.shape[1:], steps))


@lru_cache(maxsize=64)  # zones and cameras stay as they are
def _area(
    corners: tuple[tuple[float, ...], ...], cells: tuple[int, int], steps: tuple[float, float]
) -> NDArray[np.bool_]:
    """[h, w]: the cells of a grid whose centres lie in a polygon. steps: pixels for each cell, y and x."""
    y, x = ((np.arange(count) + 0.5) * step for count, step in zip(cells, steps, strict=True))
    centres = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return inside(np.array(corners), centres).reshape(cells)
