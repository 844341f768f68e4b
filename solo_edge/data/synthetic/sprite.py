"""From the description of an object to its shaded picture.

Each part is an outline that rises from its edge like a cushion. Together they make a height map,
whose slope gives the surface normals, which the scene's one lamp shades (Lambert and Blinn).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.curves import Points
from solo_edge.data.synthetic.parts import Blueprint, Light, Part

__all__ = ["Sprite", "render_sprite"]

_MARGIN = 2  # scene pixels around a sprite, so that its antialiased edge is inside
_TEXTURE_SPAN = 1.6  # local units that a blueprint's noise textures cover


@dataclass(frozen=True)
class Sprite:
    """A picture of one object, ready to be laid on a scene."""

    colour: NDArray[np.float32]  # [h, w, 3] linear light, premultiplied with alpha
    alpha: NDArray[np.float32]  # [h, w] coverage
    origin: tuple[
        int, int
    ]  # (row, column) of its corner, relative to the pixel that holds its centre
    length: float  # the object's long side

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[h, w]: the pixels that the object covers at least half."""
        covered: NDArray[np.bool_] = self.alpha >= 0.5
        return covered


def render_sprite(
    blueprint: Blueprint,
    length: float,
    angle: float,
    light: Light,
    *,
    offset: tuple[float, float] = (0.0, 0.0),
    mirrored: bool = False,
    supersample: int = 3,
) -> Sprite:
    """Draw an object `length` pixels long (long side of its unturned silhouette), turned by `angle` radians.

    offset: (x, y) of its centre inside its pixel, 0 to 1, so that motion is smooth.
    supersample: samples per pixel and direction.
    """
    import cv2

    scale = length * supersample / blueprint.extent
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    flip = -1.0 if mirrored else 1.0
    matrix = np.array([[flip * cos, -sin], [flip * sin, cos]])
    outlines = [
        [(o - blueprint.centre) @ matrix.T for o in (*part.outlines, *part.holes)]
        for part in blueprint.parts
    ]
    body = np.concatenate(
        [
            o
            for part, own in zip(blueprint.parts, outlines, strict=True)
            if not part.decal
            for o in own
        ]
    )
    low = np.floor(body.min(axis=0) / supersample + offset).astype(int) - _MARGIN
    high = np.ceil(body.max(axis=0) / supersample + offset).astype(int) + _MARGIN
    width, height = ((high - low) * supersample).tolist()
    shift = (np.asarray(offset) - low) * supersample  # of the object's centre, in tile samples

    inverse = np.linalg.inv(matrix)
    columns = (np.arange(width, dtype=np.float32) + 0.5 - shift[0]).astype(np.float32)
    rows = (np.arange(height, dtype=np.float32) + 0.5 - shift[1]).astype(np.float32)
    local_x, local_y = (
        (np.float32(inverse[k, 0]) * columns)[None, :]
        + (np.float32(inverse[k, 1]) * rows + np.float32(blueprint.centre[k]))[:, None]
        for k in (0, 1)
    )
    tile = _Tile(blueprint, (height, width), matrix, shift, float(scale), local_x, local_y)
    for part, own in zip(blueprint.parts, outlines, strict=True):
        tile.add(part, own[: len(part.outlines)], own[len(part.outlines) :])
    colour = tile.shade(light)
    alpha = tile.covered.astype(np.float32)
    colour *= alpha[..., None]
    small = (width // supersample, height // supersample)
    return Sprite(
        colour=np.asarray(cv2.resize(colour, small, interpolation=cv2.INTER_AREA), np.float32),
        alpha=np.asarray(cv2.resize(alpha, small, interpolation=cv2.INTER_AREA), np.float32),
        origin=(int(low[1]), int(low[0])),
        length=length,
    )


class _Tile:
    """The supersampled canvas on which one object is put together."""

    def __init__(
        self,
        blueprint: Blueprint,
        size: tuple[int, int],
        matrix: NDArray[np.float64],
        shift: NDArray[np.float64],
        scale: float,
        local_x: NDArray[np.float32],
        local_y: NDArray[np.float32],
    ):
        self.blueprint = blueprint
        self.size = size
        self.shift = shift
        self.scale = scale
        self.local_x, self.local_y = local_x, local_y
        self.covered = np.zeros(size, dtype=np.uint8)
        self.height = np.zeros(size, dtype=np.float32)
        self.albedo = np.zeros((*size, 3), dtype=np.float32)
        # gloss, shininess, metal
        self.finish = np.zeros((*size, 3), dtype=np.float32)
        self.mottle = self._texture(blueprint.mottle, matrix)
        self.grain = self._texture(blueprint.grain, matrix)

    def _texture(
        self, texture: NDArray[np.float32], matrix: NDArray[np.float64]
    ) -> NDArray[np.float32]:
        """A texture fixed to the object, as it lies in the tile."""
        import cv2

        texel = _TEXTURE_SPAN / texture.shape[0]
        forward = np.zeros((2, 3))
        forward[:, :2] = matrix * texel
        forward[:, 2] = self.shift - forward[:, :2] @ (0.5 * np.array(texture.shape[::-1]))
        warped = cv2.warpAffine(
            texture,
            forward,
            (self.size[1], self.size[0]),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        return np.asarray(warped, np.float32)

    def add(self, part: Part, outlines: list[Points], holes: list[Points]) -> None:
        """Lay a part on what is there."""
        import cv2

        corners = np.concatenate(outlines) + self.shift
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int) - 2, 0).tolist()
        right, bottom = np.minimum(
            np.ceil(corners.max(axis=0)).astype(int) + 2, (self.size[1], self.size[0])
        ).tolist()
        if right <= left or bottom <= top:
            return
        window = (slice(top, bottom), slice(left, right))
        inside = np.zeros((bottom - top, right - left), dtype=np.uint8)
        for polygons, value in ((outlines, 1), (holes, 0)):
            for polygon in polygons:
                # Fixed point with four fractional bits; pixel centres are at whole coordinates.
                fixed = np.rint((polygon + self.shift - (left + 0.5, top + 0.5)) * 16.0)
                cv2.fillPoly(inside, [fixed.astype(np.int32)], value, shift=4)
        rise = self._rise(part, inside, window)
        if part.decal:
            inside &= self.covered[window]
            if part.height:
                self.height[window] += rise * inside
        else:
            np.copyto(self.height[window], rise + np.float32(part.base), where=inside > 0)
            self.covered[window] |= inside
        self._paint(part, inside, window)

    def _rise(
        self, part: Part, inside: NDArray[np.uint8], window: tuple[slice, slice]
    ) -> NDArray[np.float32]:
        """The height of a part above its edge, in the object's units."""
        import cv2

        if part.height == 0.0:
            return np.zeros(inside.shape, dtype=np.float32)
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
        steep = np.minimum(distance * np.float32(1.0 / (part.rounding * self.scale)), 1.0)
        rise: NDArray[np.float32] = np.sqrt(np.maximum(steep * (2.0 - steep), 0.0))
        if part.cylinder is not None:
            axis, radius = part.cylinder
            across = (self.local_x[window] - np.float32(axis)) * np.float32(1.0 / radius)
            rise *= np.sqrt(np.maximum(1.0 - across * across, 0.0))
        rise *= np.float32(part.height)
        return rise

    def _paint(self, part: Part, inside: NDArray[np.uint8], window: tuple[slice, slice]) -> None:
        colour = np.empty((*inside.shape, 3), dtype=np.float32)
        colour[:] = part.colour
        if part.blend is not None:
            constant, along_x, along_y = np.array(part.blend.gradient, dtype=np.float32)
            blend = constant + along_x * self.local_x[window] + along_y * self.local_y[window]
            if part.blend.mottle:
                blend += np.float32(part.blend.mottle) * self.mottle[window]
            np.clip(blend, 0.0, 1.0, out=blend)
            colour += blend[..., None] * np.subtract(
                part.blend.colour, part.colour, dtype=np.float32
            )
        if part.grain:
            colour *= np.maximum(1.0 + np.float32(part.grain) * self.grain[window], 0.2)[..., None]
        where = inside[..., None] > 0
        if part.opacity < 1.0:
            opacity = np.float32(part.opacity)
            colour = opacity * colour + (1.0 - opacity) * self.albedo[window]
        np.copyto(self.albedo[window], colour, where=where)
        finish = np.array(
            [part.finish.gloss, part.finish.shininess, part.finish.metal], dtype=np.float32
        )
        np.copyto(self.finish[window], finish, where=where)

    def shade(self, light: Light) -> NDArray[np.float32]:
        """[h, w, 3]: the light that leaves the object towards the viewer."""
        import cv2

        blur = max(self.blueprint.smoothing * self.scale, 0.6)
        surface = cv2.GaussianBlur(self.height * np.float32(self.scale), (0, 0), blur)
        slope_x = cv2.Sobel(surface, cv2.CV_32F, 1, 0, ksize=3, scale=0.125)
        slope_y = cv2.Sobel(surface, cv2.CV_32F, 0, 1, ksize=3, scale=0.125)
        facing = 1.0 / np.sqrt(1.0 + slope_x * slope_x + slope_y * slope_y)  # the normal's z
        to_x, to_y, to_z = (np.float32(v) for v in light.direction)
        lambert = np.maximum((to_z - to_x * slope_x - to_y * slope_y) * facing, 0.0)
        half = np.add(light.direction, (0.0, 0.0, 1.0))
        half_x, half_y, half_z = (half / np.linalg.norm(half)).astype(np.float32)
        glint = np.maximum((half_z - half_x * slope_x - half_y * slope_y) * facing, 1e-4)
        gloss, shininess, metal = cv2.split(self.finish)
        glint = gloss * np.exp(shininess * np.log(glint))
        ambient = 0.55 + 0.45 * facing
        diffuse = 1.0 - 0.45 * metal
        shaded = np.empty_like(self.albedo)
        for channel in range(3):
            incoming = lambert * np.float32(light.colour[channel])
            incoming += ambient * np.float32(light.ambient[channel])
            own = self.albedo[..., channel]
            sheen = 1.0 + metal * (own * 2.2 - 1.0)
            shaded[..., channel] = own * diffuse * incoming + glint * sheen * np.float32(
                light.colour[channel]
            )
        return shaded
