"""Reading one COCO annotation file: everything in it is checked before any of it is used.

A file with mistakes is refused as a whole. The error shows the first mistake with its id and counts
the others by kind, so that a corrected file does not fail again for a reason known before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.masks import runs_of_counts
from solo_edge.errors import DataError, ResourceError
from solo_edge.files import read_json

__all__ = ["Annotation", "AnnotationFile", "Defects", "ImageRecord", "read_annotations"]

# A polygon may leave its image a little. One that starts inside and reaches this many times the
# image's longer side away is a mistake, and would keep the rasteriser busy for hours.
FAR_OUTSIDE = 16

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Annotation:
    id: int
    image_id: int
    category_id: int
    is_crowd: bool
    area: float  # as the file has it (it decides small, medium, large), else the mask's pixels
    bbox: tuple[float, ...]  # left, top, width, height: as the file has it, else the mask's
    counts: str  # compressed run-length code over the whole image


@dataclass(frozen=True)
class AnnotationFile:
    """What an annotation file holds, in its order. `categories` maps ids to names, sorted by id."""

    images: list[ImageRecord]
    annotations: list[Annotation]
    categories: dict[int, str]
    warnings: list[str]


class Defects:
    """The mistakes found in one file: the first in words, all of them counted by kind."""

    def __init__(self, path: Path):
        self.path = path
        self.first = ""
        self.kinds: Counter[str] = Counter()

    def note(self, place: str, kind: str, what: str | None = None) -> None:
        """`place`: the record with its id; `kind`: what is wrong, the same for all of its kind."""
        if not self.kinds:
            self.first = f"{place}: {what or kind}"
        self.kinds[kind] += 1

    def raise_if_any(self, fix: str = "correct the file") -> None:
        """
        Raises:
            DataError: there was a mistake; the message counts those after the first.
        """
        if not self.kinds:
            return
        (_, count), *others = self.kinds.items()
        more = [f"{count - 1} more of this kind"] if count > 1 else []
        more += [f"{count} x {kind!r}" for kind, count in others]
        what = f"{self.first} (and {', '.join(more)})" if more else self.first
        raise DataError(what, where=self.path, fix=fix)


def read_annotations(path: Path) -> AnnotationFile:
    """Read and check a COCO file of instances: polygons, compressed or plain run-length codes.

    Annotations without a single pixel in their image are left out and counted in `warnings`.

    Raises:
        DataError: something in it is missing, doubled, contradictory or of the wrong type.
        UsageError: there is no such file.
    """
    content = read_json(path, "annotation file")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            problem = "is not a list" if key in content else "is missing"
            raise DataError(f"{key!r} {problem}", where=path, fix="give a COCO instances file")
    for key in ("images", "categories"):
        if not content[key]:
            raise DataError(f"{key!r} is empty", where=path, fix="it needs at least one entry")

    defects = Defects(path)
    categories = _by_id(content["categories"], "category", "categories", _category, defects)
    images = _by_id(content["images"], "image", "images", _image, defects)
    mask_api = _mask_api()

    def parse(record: dict[str, Any]) -> Annotation | None:
        return _annotation(record, images, categories, mask_api)

    annotations = _by_id(content["annotations"], "annotation", "annotations", parse, defects)
    defects.raise_if_any()
    names = {i: name for i, name in sorted(categories.items()) if name is not None}
    records = [record for record in images.values() if record is not None]
    kept = [annotation for annotation in annotations.values() if annotation is not None]
    empty = [i for i, annotation in annotations.items() if annotation is None]
    warnings = []
    if empty:
        count = "1 annotation" if len(empty) == 1 else f"{len(empty)} annotations"
        warnings.append(f"{count} without a pixel inside the image left out (first: id {empty[0]})")
    if not kept:
        warnings.append("there is no object in any image")
    warnings += _doubled("file name", [record.file_name for record in records])
    warnings += _doubled("category name", names.values())
    return AnnotationFile(records, kept, names, [f"{path.name}: {text}" for text in warnings])


class _DefectError(Exception):
    """A mistake in one record: its kind, and the words for this one where they say more."""

    def __init__(self, kind: str, what: str | None = None):
        super().__init__(kind, what)
        self.kind = kind
        self.what = what


def _by_id(
    records: list[Any],
    noun: str,
    key: str,
    parse: Callable[[dict[str, Any]], Parsed | None],
    defects: Defects,
) -> dict[int, Parsed | None]:
    """id -> parsed record, None for one with a mistake: what refers to it is not to blame.

    Mistakes go to `defects` under the record's id or, where it has none, its place in the list.
    """
    parsed: dict[int, Parsed | None] = {}
    for position, record in enumerate(records):
        place = f"{key}[{position}]"
        try:
            if not isinstance(record, dict):
                raise _DefectError(f"{noun} is not an object")
            identity = _whole_number(record, "id")
            place = f"{noun} {identity}"
            if identity in parsed:
                raise _DefectError(f"duplicate {noun} id")
            parsed[identity] = None
            parsed[identity] = parse(record)
        except _DefectError as defect:
            defects.note(place, defect.kind, defect.what)
    return parsed


def _whole_number(record: dict[str, Any], key: str) -> int:
    if key not in record:
        raise _DefectError(f"{key} is missing")
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise _DefectError(f"{key} is not a whole number", f"{key} is {value!r:.40}, not a number")
    return value


def _category(record: dict[str, Any]) -> str:
    name = record.get("name")
    if not isinstance(name, str) or not name.strip():
        raise _DefectError("category without a name", "name is missing or empty")
    return " ".join(name.split())


def _image(record: dict[str, Any]) -> ImageRecord:
    height, width = _whole_number(record, "height"), _whole_number(record, "width")
    if height < 1 or width < 1:
        raise _DefectError("image size is not positive", f"size is {width} x {height}")
    name = record.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise _DefectError("image without a file_name", "file_name is missing or not a name")
    windows = PureWindowsPath(name)  # splits at both kinds of slashes
    if PurePosixPath(name).is_absolute() or windows.anchor or ".." in windows.parts:
        raise _DefectError(
            "file_name leaves the folder", f"file_name {name!r:.80} leaves the folder of the images"
        )
    return ImageRecord(record["id"], name, height, width)


def _annotation(
    record: dict[str, Any],
    images: dict[int, ImageRecord | None],
    categories: dict[int, str | None],
    mask_api: ModuleType,
) -> Annotation | None:
    image_id = _whole_number(record, "image_id")
    category_id = _whole_number(record, "category_id")
    if "segmentation" not in record:
        raise _DefectError("segmentation is missing")
    if image_id not in images:
        raise _DefectError("unknown image", f"image_id {image_id} is not among the images")
    if category_id not in categories:
        what = f"category_id {category_id} is not among the categories"
        raise _DefectError("unknown category", what)
    is_crowd = record.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise _DefectError("iscrowd is neither 0 nor 1")
    image = images[image_id]
    if image is None:
        return None
    code = _run_length_code(record["segmentation"], image, mask_api)
    pixels = 0 if code is None else int(mask_api.area([code])[0])
    if code is None or pixels == 0:
        return None
    area, bbox = record.get("area", pixels), record.get("bbox")
    if not _is_finite(area):
        area = pixels
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_finite, bbox))):
        bbox = mask_api.toBbox([code])[0].tolist()
    return Annotation(
        record["id"],
        image_id,
        category_id,
        bool(is_crowd),
        float(area),
        tuple(map(float, bbox)),
        code["counts"].decode("ascii"),
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _run_length_code(
    segmentation: Any, image: ImageRecord, mask_api: ModuleType
) -> dict[str, Any] | None:
    """The compressed code {"size", "counts": bytes} of any segmentation; None when nothing is inside."""
    if isinstance(segmentation, dict):
        return _checked_code(segmentation, image, mask_api)
    if not isinstance(segmentation, list):
        raise _DefectError("segmentation is neither polygons nor a run-length code")
    polygons = [_polygon(points) for points in segmentation]
    size = np.array([image.width, image.height])
    inside = []
    for polygon in polygons:
        points = polygon.reshape(-1, 2)
        if (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= size).any():
            continue
        if np.abs(points).max() > FAR_OUTSIDE * size.max():
            raise _DefectError("polygon reaches far outside its image")
        inside.append(polygon)
    if not inside:
        return None
    codes = mask_api.frPyObjects(inside, image.height, image.width)
    code: dict[str, Any] = codes[0] if len(codes) == 1 else mask_api.merge(codes)
    return code


def _polygon(points: Any) -> NDArray[np.float64]:
    if not isinstance(points, list):
        raise _DefectError("polygon is not a list of numbers")
    if len(points) < 6 or len(points) % 2:
        what = f"polygon has {len(points)} numbers, not an even number from 6 on"
        raise _DefectError("polygon with an odd number of numbers or less than 6", what)
    try:
        polygon = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _DefectError("polygon with something that is not a number") from None
    if polygon.ndim != 1 or any(isinstance(value, str) for value in points):
        raise _DefectError("polygon with something that is not a number")
    if not np.isfinite(polygon).all():
        raise _DefectError("polygon with NaN or infinity")
    return polygon


def _checked_code(code: dict[str, Any], image: ImageRecord, mask_api: ModuleType) -> dict[str, Any]:
    height, width = image.height, image.width
    size, counts = code.get("size"), code.get("counts")
    if size != [height, width]:
        what = f"run-length code has size {size!r:.40}, its image has [{height}, {width}]"
        raise _DefectError("run-length code of another size than its image", what)
    if isinstance(counts, str):
        try:
            runs = runs_of_counts(counts)
        except ValueError as error:
            what = f"run-length code is damaged: {error}"
            raise _DefectError("damaged run-length code", what) from None
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        if any(count < 0 or count > height * width for count in counts):
            raise _DefectError("damaged run-length code")
        runs = np.array(counts, dtype=np.int64)
    else:
        raise _DefectError("run-length code without counts")
    if len(runs) and (runs.min() < 0 or runs.max() > height * width):
        raise _DefectError("damaged run-length code")
    if runs.sum() != height * width:
        what = f"run-length code covers {runs.sum()} pixels, its image has {height * width}"
        raise _DefectError("run-length code of another size than its image", what)
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode("ascii")}
    packed: dict[str, Any] = mask_api.frPyObjects({"size": size, "counts": counts}, height, width)
    return packed


def _doubled(noun: str, names: Iterable[str]) -> list[str]:
    doubled = [name for name, count in Counter(names).items() if count > 1]
    return [f"{noun} {doubled[0]!r} is used more than once"] if doubled else []


def _mask_api() -> ModuleType:
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        what, fix = "COCO masks need faster-coco-eval", "pip install faster-coco-eval"
        raise ResourceError(what, fix=fix) from error
    module: ModuleType = mask
    return module
