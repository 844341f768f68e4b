"""Checks of masks that training does not need, but their owner may want to know of."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.annotations import Annotation, AnnotationFile
from solo_edge.data.defects import DefectiveError, Defects
from solo_edge.data.segmentations import Code, mask_api, polygon_array

__all__ = ["check_geometry", "crosses_itself"]

STICKS_OUT = 2.0  # pixels: less is rounding
BOX_PIXELS, BOX_SHARE = (
    3.0,
    0.1,
)  # a box may be off by this much, or by this share of its longer side
SAME = 0.9  # IoU from which two masks are one object drawn twice
MAX_PAIRS = 1_000_000  # of sides: an outline with more of them is not looked at


def check_geometry(content: dict[str, Any], parsed: AnnotationFile, defects: Defects) -> None:
    """Look at every annotation that can be used.

    Args:
        content: the file's content, for the polygons and boxes as they are written there.
        parsed: the same as `parse_content` read it.
    """
    api = mask_api()
    sizes = {record.id: [record.height, record.width] for record in parsed.images}
    codes: list[Code] = [
        {"size": sizes[annotation.image_id], "counts": annotation.counts.encode("ascii")}
        for annotation in parsed.annotations
    ]
    if not codes:
        return
    boxes, areas = np.asarray(api.toBbox(codes)), np.asarray(api.area(codes))
    written = _by_id(content["annotations"])
    for i, annotation in enumerate(parsed.annotations):
        height, width = sizes[annotation.image_id]
        record = written[annotation.id]
        _check_drawing(record["segmentation"], (height, width), annotation.id, defects)
        _check_box(record.get("bbox"), annotation, boxes[i], defects)
        _check_area(record.get("area"), annotation, float(areas[i]), defects)
    by_image: dict[int, list[int]] = {}
    for i, annotation in enumerate(parsed.annotations):
        if not annotation.is_crowd:
            by_image.setdefault(annotation.image_id, []).append(i)
    for indices in by_image.values():
        _find_twins(indices, parsed.annotations, boxes, codes, api, defects)


def crosses_itself(points: NDArray[np.float64]) -> bool:
    """Whether two sides of the closed polygon [N, 2] cross; touching is none.

    One with very many long sides is not looked at, and counts as fine.
    """
    kept = np.any(points != np.roll(points, 1, axis=0), axis=1)
    start = points[kept]
    if len(start) < 4:
        return False
    end = np.roll(start, -1, axis=0)
    # Only sides whose extents in x overlap can cross: of a traced outline these are few.
    left = np.minimum(start[:, 0], end[:, 0])
    order = np.argsort(left)
    start, end, left = start[order], end[order], left[order]
    last = np.searchsorted(left, np.maximum(start[:, 0], end[:, 0]), side="right")
    counts = last - np.arange(len(start)) - 1
    if counts.sum() > MAX_PAIRS:
        return False
    one = np.repeat(np.arange(len(start)), counts)
    other = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts) + one + 1
    a, b, c, d = start[one], end[one], start[other], end[other]
    return bool(
        ((_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)).any()
    )


def _side(a: Any, b: Any, point: Any) -> Any:
    """Positive left of the line from a to b, negative right of it, 0 on it."""
    along, to = b - a, point - a
    return np.sign(along[:, 0] * to[:, 1] - along[:, 1] * to[:, 0])


def _by_id(records: list[Any]) -> dict[int, dict[str, Any]]:
    """The first record of each id, which is the one that is used."""
    found: dict[int, dict[str, Any]] = {}
    for record in records:
        if isinstance(record, dict) and type(record.get("id")) is int:
            found.setdefault(record["id"], record)
    return found


def _check_drawing(segmentation: Any, size: tuple[int, int], key: int, defects: Defects) -> None:
    if isinstance(segmentation, dict):
        return
    outside, crossing = 0.0, False
    for part in segmentation:
        try:
            points = polygon_array(part).reshape(-1, 2)
        except DefectiveError:  # it was told already
            return
        beyond = np.maximum(-points, points - [size[1], size[0]])
        outside = max(outside, float(beyond.max()))
        crossing = crossing or crosses_itself(points)
    if outside > STICKS_OUT:
        what = f"polygon reaches {outside:.0f} pixels out of its image"
        defects.note("polygon-sticks-out", "annotation", key, what)
    if crossing:
        defects.note("polygon-self-crossing", "annotation", key)


def _check_box(written: Any, annotation: Annotation, box: Any, defects: Defects) -> None:
    """`box`: left, top, width, height of the mask."""
    if not written or tuple(annotation.bbox) == tuple(box):
        return
    found = np.array(annotation.bbox)
    edges = np.concatenate([found[:2] - box[:2], found[:2] + found[2:] - box[:2] - box[2:]])
    if np.abs(edges).max() > max(BOX_PIXELS, BOX_SHARE * float(max(box[2:]))):
        shown = [round(float(value), 1) for value in found]
        what = f"bbox is {shown}, the mask's {[round(float(value)) for value in box]}"
        defects.note("bbox-differs", "annotation", annotation.id, what)


def _check_area(written: Any, annotation: Annotation, pixels: float, defects: Defects) -> None:
    if written is None:
        return
    # Few pixels and a thin outline may well differ by this much.
    if not 0.5 * pixels - 16 <= annotation.area <= 2 * pixels + 16:
        what = f"area is {annotation.area:.0f}, the mask has {pixels:.0f} pixels"
        defects.note("area-differs", "annotation", annotation.id, what)


def _find_twins(
    indices: list[int],
    annotations: Sequence[Annotation],
    boxes: NDArray[np.float64],
    codes: Sequence[Code],
    api: ModuleType,
    defects: Defects,
) -> None:
    """Note every object of one image that covers the pixels of an earlier one."""
    corners = boxes[indices]
    first, last = corners[:, :2], corners[:, :2] + corners[:, 2:]
    overlap = np.minimum(last[:, None], last) - np.maximum(first[:, None], first)
    shared = np.prod(np.maximum(overlap, 0), axis=2)
    area = np.prod(corners[:, 2:], axis=1)
    # Masks that are nearly the same have nearly the same box.
    near = shared > 0.8 * (area[:, None] + area - shared)
    told = set()
    for i, j in np.argwhere(np.triu(near, 1)).tolist():
        one, other = indices[i], indices[j]
        iou = float(np.asarray(api.iou([codes[other]], [codes[one]], [0]))[0, 0])
        if iou < SAME or other in told:
            continue
        told.add(other)
        differs = annotations[one].category_id != annotations[other].category_id
        place = defects.place("annotation", annotations[one].id)
        code = "instance-two-classes" if differs else "instance-duplicate"
        what = f"covers the same pixels as {place} (IoU {iou:.2f})"
        defects.note(code, "annotation", annotations[other].id, what)
