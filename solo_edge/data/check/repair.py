"""Repairs of COCO content for a clean copy: what has one obvious meaning gets it.

What stays wrong is left out later, when the result is read like any other annotation file.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from solo_edge.data.annotations import leaves_folder
from solo_edge.data.source import is_file
from solo_edge.errors import SoloEdgeError
from solo_edge.images import image_size

__all__ = ["repair_content"]

Record = dict[str, Any]


def repair_content(content: dict[str, Any], image_folders: Sequence[Path]) -> dict[str, Any]:
    """A copy with ids that are numbers and unique, sizes of images filled in, and stray points removed.

    Images and categories of one id are merged where they say the same, and otherwise left out with all
    that refers to them: nobody knows which one was meant.
    """
    lists = {key: content.get(key) for key in ("images", "annotations", "categories")}
    if not all(isinstance(records, list) for records in lists.values()):
        return content
    images, annotations, categories = (
        [dict(record) for record in records or [] if isinstance(record, dict)]
        for records in lists.values()
    )
    images = _unique(images, lambda record: (record.get("file_name"),))
    categories = _unique(categories, lambda record: (record.get("name"),))
    for records, key in ((images, "image_id"), (categories, "category_id")):
        numbers = _numbers([record["id"] for record in records])
        for record in records:
            record["id"] = numbers[_key(record["id"])]
        for annotation in annotations:
            if _is_key(annotation.get(key)):
                annotation[key] = numbers.get(_key(annotation[key]), annotation[key])
    for image in images:
        _fill_size(image, image_folders)
    _renumber(annotations)
    for annotation in annotations:
        annotation["segmentation"] = _without_stray_points(annotation.get("segmentation"))
    return {**content, "images": images, "annotations": annotations, "categories": categories}


def _is_key(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _key(value: int | str) -> int | str:
    """What ids are compared by: "12" is 12."""
    if isinstance(value, str) and value.isascii() and value.lstrip("-").isdecimal():
        return int(value)
    return value


def _numbers(ids: list[int | str]) -> dict[int | str, int]:
    """Key -> number: itself, or for other texts the next free one."""
    keys = [_key(value) for value in ids]
    free = max((key for key in keys if isinstance(key, int)), default=0) + 1
    numbers: dict[int | str, int] = {}
    for key in keys:
        numbers[key] = key if isinstance(key, int) else free
        free += isinstance(key, str)
    return numbers


def _unique(records: list[Record], meaning: Callable[[Record], tuple[Any, ...]]) -> list[Record]:
    """Records with an id, one for each; those of one id that mean different things are left out."""
    by_key: dict[int | str, list[Record]] = defaultdict(list)
    for record in records:
        if _is_key(record.get("id")):
            by_key[_key(record["id"])].append(record)
    return [
        same[0] for same in by_key.values() if all(meaning(r) == meaning(same[0]) for r in same)
    ]


def _renumber(annotations: list[Record]) -> None:
    """Give every annotation without an id of its own the next free number."""
    seen: set[int] = set()
    lost = []
    for annotation in annotations:
        value: Any = annotation.get("id")
        key = _key(value) if _is_key(value) else None
        if isinstance(key, int) and key not in seen:
            annotation["id"] = key
            seen.add(key)
        else:
            lost.append(annotation)
    for free, annotation in enumerate(lost, start=max(seen, default=0) + 1):
        annotation["id"] = free


def _fill_size(image: Record, folders: Sequence[Path]) -> None:
    sides = (image.get("height"), image.get("width"))
    name = image.get("file_name")
    if all(type(side) is int and side > 0 for side in sides) or not isinstance(name, str):
        return
    if leaves_folder(name):
        return
    for folder in folders:
        if is_file(folder / name):
            with contextlib.suppress(SoloEdgeError):  # what cannot be read is left out anyway
                image["height"], image["width"] = image_size(folder / name)
            return


def _without_stray_points(segmentation: Any) -> Any:
    """Polygons without parts of one or two points, if anything else is there."""
    if not isinstance(segmentation, list):
        return segmentation
    kept = [
        part
        for part in segmentation
        if not (isinstance(part, list) and len(part) < 6 and len(part) % 2 == 0)
    ]
    return kept or segmentation
