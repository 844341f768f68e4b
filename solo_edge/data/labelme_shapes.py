"""The shapes of LabelMe files as polygons or masks."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.defects import DefectiveError
from solo_edge.data.label_maps import regions_of_labels, run_lengths
from solo_edge.data.segmentations import mask_api, polygon_array
from solo_edge.errors import SoloEdgeError
from solo_edge.images import decode_image

__all__ = ["Part", "join_parts", "kind_of_shape", "part_of_shape"]

# A polygon as COCO has it, or a whole mask as a run-length code.
Part = Any

POLYGONS = ("polygon", "rotation", "oriented_rectangle", "quadrilateral")
MIN_CIRCLE_POINTS = 16
DAMAGED: Part = {"counts": None}  # a painted mask that cannot be read


def kind_of_shape(shape: dict[str, Any]) -> str | None:
    """What kind of area a shape encloses; None for lines, points and the like.

    A shape without `shape_type`, as the first versions wrote them, is a polygon.
    """
    kind = shape.get("shape_type") or "polygon"
    return kind if kind in (*POLYGONS, "rectangle", "circle", "mask") else None


def part_of_shape(kind: str, shape: dict[str, Any], size: tuple[int, int]) -> Part:
    """The area of one shape in an image of `size` (height, width).

    What makes no sense is passed on: the check of all segmentations names it.
    """
    points = shape.get("points")
    if kind == "rectangle":
        return _rectangle(points)
    if kind == "circle":
        return _circle(points)
    if kind == "mask":
        return _mask(points, shape.get("mask"), size)
    return _flat(points)


def join_parts(parts: list[Part], size: tuple[int, int]) -> Any:
    """One segmentation of several parts: polygons stay polygons, with a mask all become one code."""
    codes = [part for part in parts if isinstance(part, dict)]
    if not codes:
        return parts
    if len(parts) == 1 or DAMAGED in codes:
        return DAMAGED if DAMAGED in codes else codes[0]
    api = mask_api()
    packed = [api.frPyObjects(code, *size) for code in codes]
    try:
        polygons = [polygon_array(part).tolist() for part in parts if not isinstance(part, dict)]
    except DefectiveError:  # without the masks the check finds the same and names it
        return [part for part in parts if not isinstance(part, dict)]
    packed += api.frPyObjects(polygons, *size) if polygons else []
    merged = api.merge(packed)
    return {"size": list(size), "counts": merged["counts"].decode("ascii")}


def _pairs(points: Any) -> list[tuple[float, float]] | None:
    """The two points of a rectangle or circle; None if they are anything else."""
    try:
        pairs = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        return None
    # Some tools write a rectangle's four corners.
    return pairs if len(pairs) >= 2 else None


def _flat(points: Any) -> Part:
    if not isinstance(points, list):
        return points
    return [value for point in points for value in (point if isinstance(point, list) else [point])]


def _rectangle(points: Any) -> Part:
    pairs = _pairs(points)
    if pairs is None:
        return _flat(points)
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*pairs, strict=True))
    return [left, top, right, top, right, bottom, left, bottom]


def _circle(points: Any) -> Part:
    """A regular polygon of the circle's area: centre, then a point of the circle."""
    pairs = _pairs(points)
    if pairs is None or len(pairs) != 2 or not all(map(math.isfinite, [*pairs[0], *pairs[1]])):
        return _flat(points)
    (x, y), edge = pairs
    radius = math.dist((x, y), edge)
    count = min(max(MIN_CIRCLE_POINTS, math.ceil(math.pi * radius)), 360)
    radius *= math.sqrt(2 * math.pi / count / math.sin(2 * math.pi / count))
    angles = 2 * math.pi / count * np.arange(count)
    outline = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    flat: list[float] = outline.reshape(-1).tolist()
    return flat


def _mask(points: Any, encoded: Any, size: tuple[int, int]) -> Part:
    """A painted mask (labelme 5.3 and later): a PNG inside the box of its two points."""
    pairs = _pairs(points)
    if pairs is None or not isinstance(encoded, str):
        return DAMAGED
    try:
        crop = decode_image(base64.b64decode(encoded), "mask")[:, :, 0] > 0
        left, top = (round(min(side)) for side in zip(*pairs, strict=True))
    except (SoloEdgeError, ValueError, OverflowError):
        return DAMAGED
    return _placed(crop, left, top, size)


def _placed(crop: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> Part:
    """The run lengths of a mask whose first pixel lies at (left, top); what is outside is cut off."""
    whole = np.zeros(size, dtype=np.uint8)
    first_row, first_column = max(top, 0), max(left, 0)
    crop = crop[first_row - top :, first_column - left :]
    target = whole[first_row : first_row + len(crop), first_column : first_column + crop.shape[1]]
    target[:] = crop[: target.shape[0], : target.shape[1]]
    regions = regions_of_labels(whole)
    return regions.get(1, run_lengths([], whole.size, size))
