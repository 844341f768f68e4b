"""The table while it is being laid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.parts import Light
from solo_edge.data.synthetic.sprite import Sprite

__all__ = ["Canvas"]


class Canvas:
    """The table while it is being laid: the picture so far, and to which object each pixel belongs."""

    def __init__(self, picture: NDArray[np.float32], light: Light):
        self.picture = picture  # [H, W, 3] linear light
        self.light = light
        self.size = (picture.shape[0], picture.shape[1])
        self.owner = np.full(self.size, -1, dtype=np.int16)  # [H, W] instance of each pixel, or -1
        self.full_areas: list[int] = []  # of the instances, in pixels
        self.places: list[tuple[int, int, float]] = []  # row, column, length

    def copy(self) -> Canvas:
        """An independent canvas in the same state."""
        twin = Canvas(self.picture.copy(), self.light)
        twin.owner = self.owner.copy()
        twin.full_areas, twin.places = list(self.full_areas), list(self.places)
        return twin

    @property
    def count(self) -> int:
        """Number of instances laid so far."""
        return len(self.places)

    def masks(self) -> NDArray[np.bool_]:
        """[N, H, W]: the visible pixels of each instance, in the order in which they were laid."""
        visible: NDArray[np.bool_] = self.owner == np.arange(self.count)[:, None, None]
        return visible

    def fits(
        self, sprite: Sprite, row: int, column: int, *, min_area: float, min_fraction: float
    ) -> bool:
        """Whether so much of the sprite, and of each instance that it covers, would stay visible.

        min_area: pixels. min_fraction: of the whole object, also of what lies outside the picture.
        """
        canvas, tile = _overlap(
            self.size, sprite.alpha.shape, row + sprite.origin[0], column + sprite.origin[1]
        )
        mask = sprite.mask
        here = mask[tile]
        if here.sum() < max(min_area, min_fraction * mask.sum()):
            return False
        if not self.count:
            return True
        visible = np.bincount(self.owner.ravel() + 1, minlength=self.count + 1)[1:]
        covered = np.bincount(self.owner[canvas][here] + 1, minlength=self.count + 1)[1:]
        left = visible - covered
        needed = np.maximum(min_area, min_fraction * np.array(self.full_areas))
        return bool((left >= needed).all())

    def lay(self, sprite: Sprite, row: int, column: int, *, instance: bool = False) -> None:
        """Draw the sprite and its shadow with its centre at (row, column)."""
        self._shade(sprite, row, column)
        canvas, tile = _overlap(
            self.size, sprite.alpha.shape, row + sprite.origin[0], column + sprite.origin[1]
        )
        view = self.picture[canvas]
        view *= 1.0 - sprite.alpha[tile][..., None]
        view += sprite.colour[tile]
        if instance:
            mask = sprite.mask
            self.owner[canvas][mask[tile]] = self.count
            self.full_areas.append(int(mask.sum()))
            self.places.append((row, column, sprite.length))

    def _shade(self, sprite: Sprite, row: int, column: int) -> None:
        """Darken what lies beside the sprite: a cast shadow away from the lamp, a tight one at its foot."""
        import cv2

        margin = int(0.3 * sprite.length) + 4
        alpha = cv2.copyMakeBorder(
            sprite.alpha, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0.0
        )
        towards = self.light.direction
        throw = 0.09 * sprite.length / towards[2]
        shift = np.array([[1.0, 0.0, -throw * towards[0]], [0.0, 1.0, -throw * towards[1]]])
        cast = cv2.warpAffine(alpha, shift, (alpha.shape[1], alpha.shape[0]))
        cast = cv2.GaussianBlur(cast, (0, 0), 0.035 * sprite.length + 0.8)
        foot = cv2.GaussianBlur(alpha, (0, 0), 0.015 * sprite.length + 0.8)
        shadow = 1.0 - (1.0 - np.float32(self.light.shadow) * cast) * (1.0 - 0.4 * foot)
        top, left = row + sprite.origin[0] - margin, column + sprite.origin[1] - margin
        canvas, tile = _overlap(self.size, alpha.shape, top, left)
        self.picture[canvas] *= 1.0 - shadow[tile][..., None]


def _overlap(
    size: tuple[int, ...], tile: tuple[int, ...], top: int, left: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The common window of a canvas and of a tile laid at (top, left): in the canvas, and in the tile."""
    rows = slice(max(top, 0), max(min(top + tile[0], size[0]), max(top, 0)))
    columns = slice(max(left, 0), max(min(left + tile[1], size[1]), max(left, 0)))
    return (rows, columns), (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
