"""Zones and lines in which something is counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw.canvas import canvas
from solo_edge.draw.text import cut_text, font_size, line, stamp

__all__ = ["Shape", "draw_shapes"]

# White between two dark lines is seen on every ground, and no class or track is white.
_LINE, _HALO, _PLATE = (255, 255, 255), (20, 20, 20), (32, 32, 32)
_FILL = 0.12  # opacity of a zone
_SHIFT = 4  # OpenCV takes coordinates in sixteenths of a pixel
_FARTHEST = 1 << 15  # coordinates beyond, in pixels, would overflow in sixteenths


@dataclass(frozen=True, eq=False)
class Shape:
    """A zone (closed) or a line to be drawn."""

    name: str
    points: NDArray[np.float32]  # [K, 2] x, y in pixels of the image; may lie outside of it
    closed: bool
    text: str = ""  # what is counted, as people should read it


def draw_shapes(
    image: NDArray[np.uint8], shapes: Sequence[Shape], *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`image` with zones lightly filled, lines, and the name and text of each.

    Args:
        image: [H, W, 3] uint8 RGB.
        out: where the result goes; may be `image` itself. A new image if not given.
    """
    output = canvas(image, out)
    polygons = [_fixed_point(shape.points) for shape in shapes]
    for shape, polygon in zip(shapes, polygons, strict=True):
        if shape.closed and len(polygon) > 2:
            _fill(output, polygon)
    for shape, polygon in zip(shapes, polygons, strict=True):
        _outline(output, polygon, shape.closed)
    # Above all lines.
    for shape in shapes:
        _name(output, shape)
    return output


def _fixed_point(points: NDArray[np.float32]) -> NDArray[np.int32]:
    near = np.clip(points, -_FARTHEST, _FARTHEST).reshape(-1, 2)
    return np.rint(near * (1 << _SHIFT)).astype(np.int32)


def _fill(output: NDArray[np.uint8], polygon: NDArray[np.int32]) -> None:
    """Lighten what is inside, within the polygon's box."""
    import cv2

    height, width = output.shape[:2]
    low, high = polygon.min(axis=0) >> _SHIFT, (polygon.max(axis=0) >> _SHIFT) + 1
    left, top = np.maximum(low, 0).tolist()
    right, bottom = np.minimum(high, (width, height)).tolist()
    if left >= right or top >= bottom:
        return
    inside = np.zeros((bottom - top, right - left), dtype=np.uint8)
    moved = polygon - np.array([left, top], dtype=np.int32) * (1 << _SHIFT)
    cv2.fillPoly(inside, [moved], 255, cv2.LINE_8, _SHIFT)
    target = output[top:bottom, left:right]
    lighter = cv2.convertScaleAbs(target, alpha=1.0 - _FILL, beta=255.0 * _FILL)
    cv2.copyTo(lighter, inside, target)


def _outline(output: NDArray[np.uint8], polygon: NDArray[np.int32], closed: bool) -> None:
    import cv2

    thickness = font_size(output.shape[:2], 1 / 360, 1, 4)
    for color, width in ((_HALO, thickness + 2), (_LINE, thickness)):
        cv2.polylines(output, [polygon], closed, color, width, cv2.LINE_AA, _SHIFT)


def _name(output: NDArray[np.uint8], shape: Shape) -> None:
    """In the upper left corner of a zone, or beside the higher end of a line; always in the image.

    Things are more often in the middle, and their names with them.
    """
    height, width = output.shape[:2]
    size = font_size((height, width), 1 / 40, 12, 38)
    said = "  ".join(part for part in (shape.name, shape.text) if part)
    if not said or len(shape.points) == 0:
        return
    text = line(cut_text(said, size, width - size))
    if text.shape[0] > height or text.shape[1] > width:
        return
    gap = size // 3
    if shape.closed:
        x, y = shape.points[shape.points.sum(axis=1).argmin()]
    else:
        ends = shape.points[:: max(len(shape.points) - 1, 1)]
        x, y = ends[ends[:, 1].argmin()]
    left = int(np.clip(x + gap, 0, width - text.shape[1]))
    top = int(np.clip(y + gap, 0, height - text.shape[0]))
    stamp(output, top, left, text, _PLATE, _LINE)
