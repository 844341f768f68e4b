"""From the content of a COCO annotation file to records that can be used; what is wrong is collected.

Every record is checked before any is used. A defect never hides another one: what refers to a
defective image or category is not blamed for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any, TypeVar

from solo_edge.data.defects import DefectiveError, Defects, Noun
from solo_edge.data.segmentations import mask_api, run_length_code
from solo_edge.images import MAX_PIXELS

__all__ = ["Annotation", "AnnotationFile", "ImageRecord", "leaves_folder", "parse_content"]

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
    """What can be used of an annotation file, in its order. `categories` maps ids to names, sorted by id."""

    images: list[ImageRecord] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)


def parse_content(content: dict[str, Any], defects: Defects) -> AnnotationFile:
    """The usable records of a COCO file of instances: polygons, compressed or plain run-length codes."""
    if not _has_lists(content, defects):
        return AnnotationFile()
    categories = _by_id(content["categories"], "category", "categories", _category, defects)
    images = _by_id(content["images"], "image", "images", _image, defects)
    api = mask_api()

    def parse(record: dict[str, Any]) -> Annotation | None:
        return _annotation(record, images, categories, api, defects)

    annotations = _by_id(content["annotations"], "annotation", "annotations", parse, defects)
    names = {i: name for i, name in sorted(categories.items()) if name is not None}
    records = [record for record in images.values() if record is not None]
    kept = [annotation for annotation in annotations.values() if annotation is not None]
    if not kept:
        defects.note("no-objects", "data", defects.where.name)
    _note_doubled("file-name-duplicate", "image", {r.id: r.file_name for r in records}, defects)
    _note_doubled("category-name-duplicate", "category", names, defects)
    return AnnotationFile(records, kept, names)


def leaves_folder(name: str) -> bool:
    """Whether a relative path would lead out of the folder that it is meant for, on any system."""
    windows = PureWindowsPath(name)  # splits at both kinds of slashes
    return PurePosixPath(name).is_absolute() or bool(windows.anchor) or ".." in windows.parts


def _has_lists(content: dict[str, Any], defects: Defects) -> bool:
    complete = True
    for key in ("images", "annotations", "categories"):
        problem = None
        if not isinstance(content.get(key), list):
            problem = f"{key!r} {'is not a list' if key in content else 'is missing'}"
            defects.note("list-missing", "data", defects.where.name, problem)
        elif key != "annotations" and not content[key]:
            problem = f"{key!r} is empty"
            defects.note(f"no-{key}", "data", defects.where.name, problem)
        complete = complete and problem is None
    return complete


def _by_id(
    records: list[Any],
    noun: Noun,
    key: str,
    parse: Callable[[dict[str, Any]], Parsed | None],
    defects: Defects,
) -> dict[int, Parsed | None]:
    """id -> parsed record, None for one with a defect: what refers to it is not to blame.

    A record without an id is named by its place in the list.
    """
    parsed: dict[int, Parsed | None] = {}
    for position, record in enumerate(records):
        identity: int | None = None
        try:
            if not isinstance(record, dict):
                raise DefectiveError("record-malformed", f"{noun} is not an object")
            identity = _identity(record, "id")
            if identity in parsed:
                raise DefectiveError("id-duplicate", f"duplicate {noun} id")
            parsed[identity] = None
            parsed[identity] = parse(record)
        except DefectiveError as error:
            if identity is None:
                defects.note_error(error, "data", f"{key}[{position}]")
            else:
                defects.note_error(error, noun, identity)
    return parsed


def _identity(record: dict[str, Any], key: str) -> int:
    if key not in record:
        raise DefectiveError("id-missing", f"{key} is missing")
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise DefectiveError("id-not-number", f"{key} is {value!r:.40}, not a number")
    return value


def _category(record: dict[str, Any]) -> str:
    name = record.get("name")
    if not isinstance(name, str) or not name.strip():
        raise DefectiveError("category-name-missing", "name is missing or empty")
    return " ".join(name.split())


def _image(record: dict[str, Any]) -> ImageRecord:
    height, width = _side(record, "height"), _side(record, "width")
    if height < 1 or width < 1:
        raise DefectiveError("image-size-invalid", f"size is {width} x {height}")
    if height * width > MAX_PIXELS:
        what = f"{width} x {height} pixels are more than {MAX_PIXELS / 1e6:g} million"
        raise DefectiveError("image-too-large", what)
    name = record.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise DefectiveError("file-name-invalid", "file_name is missing or not a name")
    if leaves_folder(name):
        what = f"file_name {name!r:.80} leaves the folder of the images"
        raise DefectiveError("file-name-unsafe", what)
    return ImageRecord(record["id"], name, height, width)


def _side(record: dict[str, Any], key: str) -> int:
    value = record.get(key)
    if key not in record:
        raise DefectiveError("image-size-invalid", f"{key} is missing")
    if not isinstance(value, int) or isinstance(value, bool):
        raise DefectiveError("image-size-invalid", f"{key} is {value!r:.40}, not a number")
    return value


def _annotation(
    record: dict[str, Any],
    images: dict[int, ImageRecord | None],
    categories: dict[int, str | None],
    api: ModuleType,
    defects: Defects,
) -> Annotation | None:
    image_id = _identity(record, "image_id")
    category_id = _identity(record, "category_id")
    if "segmentation" not in record:
        raise DefectiveError("segmentation-missing")
    if image_id not in images:
        what = f"image_id {image_id} is not among the images"
        raise DefectiveError("image-id-unknown", what)
    if category_id not in categories:
        what = f"category_id {category_id} is not among the categories"
        raise DefectiveError("category-id-unknown", what)
    is_crowd = record.get("iscrowd", 0)
    if is_crowd not in (0, 1):
        raise DefectiveError("crowd-flag-invalid")
    image = images[image_id]
    if image is None:
        return None
    code = run_length_code(record["segmentation"], (image.height, image.width), api)
    area: Any = record.get("area")
    bbox: Any = record.get("bbox")
    if not _is_finite(area):
        _note_unusable(record, "area", defects)
        area = int(api.area([code])[0])
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_finite, bbox))):
        _note_unusable(record, "bbox", defects)
        bbox = api.toBbox([code])[0].tolist()
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
    if not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


def _note_unusable(record: dict[str, Any], key: str, defects: Defects) -> None:
    """Left out is fine, and so is null or an empty list; anything else was meant to be a value."""
    if record.get(key) not in (None, []):
        what = f"{key} is {record[key]!r:.60}"
        defects.note("bbox-invalid", "annotation", record["id"], what)


def _note_doubled(code: str, noun: Noun, names: Mapping[int, str], defects: Defects) -> None:
    first: dict[str, int] = {}
    for identity, name in names.items():
        if first.setdefault(name, identity) != identity:
            what = f"{name!r} is also {defects.place(noun, first[name])}"
            defects.note(code, noun, identity, what)
