"""One object's segmentation, polygons or run lengths, as a compressed run-length code over its image."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.defects import DefectiveError
from solo_edge.data.masks import runs_of_counts
from solo_edge.errors import ResourceError

__all__ = ["Code", "mask_api", "polygon_array", "run_length_code"]

# A polygon may leave its image a little. One that starts inside and reaches this many times the
# image's longer side away is a mistake, and would keep the rasteriser busy for hours.
FAR_OUTSIDE = 16

Code = dict[str, Any]  # {"size": [height, width], "counts": bytes}


def mask_api() -> ModuleType:
    """COCO's functions for run-length codes.

    Raises:
        ResourceError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        what, fix = "COCO masks need faster-coco-eval", "pip install faster-coco-eval"
        raise ResourceError(what, fix=fix) from error
    module: ModuleType = mask
    return module


def run_length_code(segmentation: Any, size: tuple[int, int], api: ModuleType) -> Code:
    """The compressed code of any segmentation in an image of `size` (height, width).

    Raises:
        DefectiveError: it is damaged, or has no pixel inside the image.
    """
    if isinstance(segmentation, dict):
        code = _checked_code(segmentation, size, api)
    elif isinstance(segmentation, list):
        code = _code_of_polygons([polygon_array(points) for points in segmentation], size, api)
    else:
        raise DefectiveError("segmentation-invalid")
    if int(api.area([code])[0]) == 0:
        raise DefectiveError("no-pixels")
    return code


def polygon_array(points: Any) -> NDArray[np.float64]:
    """x, y, x, y, ... of one polygon, checked.

    Raises:
        DefectiveError: these are no numbers, or not those of three or more points.
    """
    if not isinstance(points, list):
        raise DefectiveError("polygon-not-numbers", "polygon is not a list of numbers")
    what = f"polygon has {len(points)} numbers, not an even number from 6 on"
    if len(points) % 2:
        raise DefectiveError("polygon-odd", what)
    if len(points) < 6:
        raise DefectiveError("polygon-short", what)
    try:
        polygon = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DefectiveError("polygon-not-numbers") from None
    if polygon.ndim != 1 or any(isinstance(value, str) for value in points):
        raise DefectiveError("polygon-not-numbers")
    if not np.isfinite(polygon).all():
        raise DefectiveError("polygon-not-finite")
    return polygon


def _code_of_polygons(
    polygons: list[NDArray[np.float64]], size: tuple[int, int], api: ModuleType
) -> Code:
    height, width = size
    limit = np.array([width, height])
    inside = []
    for polygon in polygons:
        points = polygon.reshape(-1, 2)
        if (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= limit).any():
            continue
        if np.abs(points).max() > FAR_OUTSIDE * limit.max():
            raise DefectiveError("polygon-far-outside")
        inside.append(polygon)
    if not inside:
        raise DefectiveError("polygon-outside" if polygons else "no-pixels")
    codes = api.frPyObjects(inside, height, width)
    code: Code = codes[0] if len(codes) == 1 else api.merge(codes)
    return code


def _checked_code(code: Code, image_size: tuple[int, int], api: ModuleType) -> Code:
    height, width = image_size
    size, counts = code.get("size"), code.get("counts")
    if counts is None:
        raise DefectiveError("rle-counts", "run-length code without counts")
    if size != [height, width]:
        what = f"run-length code has size {size!r:.40}, its image has [{height}, {width}]"
        raise DefectiveError("rle-size", what)
    if isinstance(counts, str):
        try:
            runs = runs_of_counts(counts)
        except ValueError as error:
            raise DefectiveError("rle-damaged", f"run-length code is damaged: {error}") from None
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        if any(count < 0 or count > height * width for count in counts):
            raise DefectiveError("rle-counts", "a run length is negative or larger than the image")
        runs = np.array(counts, dtype=np.int64)
    else:
        raise DefectiveError("rle-counts", "run-length code without counts")
    if len(runs) and (runs.min() < 0 or runs.max() > height * width):
        raise DefectiveError("rle-damaged", "a run length is negative or larger than the image")
    if runs.sum() != height * width:
        what = f"run-length code covers {runs.sum()} pixels, its image has {height * width}"
        raise DefectiveError("rle-counts", what)
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode("ascii")}
    packed: Code = api.frPyObjects({"size": size, "counts": counts}, height, width)
    return packed
