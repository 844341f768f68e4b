"""Folders of LabelMe files: one JSON file for each image, with the shapes drawn in it.

The coordinates are those of the image as labelme shows it, turned upright by its EXIF orientation, which
is how we read images, too (older versions did not turn them: then the sizes differ, and that is told).
Read from the files of labelme 3 to 5 and its relatives, see github.com/wkentaro/labelme `label_file.py`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.coco_files import json_kind
from solo_edge.data.defects import Defects
from solo_edge.data.labelme_shapes import Part, join_parts, kind_of_shape, part_of_shape
from solo_edge.data.source import (
    NO_OBJECTS,
    Content,
    Source,
    is_file,
    read_names,
    sized,
    split_of,
)
from solo_edge.errors import DataError
from solo_edge.images import IMAGE_SUFFIXES, decode_image

__all__ = ["LabelMeFolder", "embedded_bytes", "embedded_image"]

DEPTH = 3  # folders below the data set's in which LabelMe files are looked for


class LabelMeFolder:
    """LabelMe files in a folder, or in folders of it with the names of splits.

    The classes are the labels in alphabetical order over all splits, or the lines of `labels.txt` or
    `classes.txt`, which labelme takes with `--labels`.
    """

    name: ClassVar[str] = "LabelMe"

    def __init__(self, path: Path, files: list[Path]):
        self.path = path
        self.files = files
        self._records: dict[Path, dict[str, Any] | str] = {}

    @classmethod
    def detect(cls, path: Path) -> LabelMeFolder | None:
        files = [file for file in _json_files(path) if json_kind(file) == "labelme"]
        return cls(path, files) if files else None

    def splits(self) -> list[str]:
        return sorted({split_of(file.relative_to(self.path)) for file in self.files})

    def where(self, split: str) -> Path:
        return self.path

    def read(self, split: str, defects: Defects) -> Source:
        names, origin = self._class_names()
        labels = {name: label for label, name in enumerate(names)}
        content = Content(names)
        defects.places = content.places
        embedded: dict[str, Path] = {}
        files = [file for file in self.files if split_of(file.relative_to(self.path)) == split]
        for file in files:
            relative = file.relative_to(self.path).as_posix()
            record = self._record(file)
            if isinstance(record, str):
                defects.note("file-unreadable", "file", relative, record)
                continue
            name, size = self._image(file, record, embedded, defects)
            if name is None or size is None:
                continue
            image_id = content.add_image(name, size)
            _add_objects(content, image_id, record["shapes"], size, relative, labels, defects)
        read = f"read as LabelMe: {len(files)} files, classes {origin}: {', '.join(names[:10])}"
        notes = (f"{read}, ..." if len(names) > 10 else read,)
        return Source(
            self.name, self.path, split, self.path, content.to_dict(), [self.path], embedded, notes
        )

    def _class_names(self) -> tuple[list[str], str]:
        """The classes and where they come from."""
        for file_name in ("labels.txt", "classes.txt"):
            listed = read_names(self.path, (file_name,))
            if listed:
                return listed, f"of {file_name}"
        found = {
            _label(shape)
            for record in map(self._record, self.files)
            if not isinstance(record, str)
            for shape in record["shapes"]
            if isinstance(shape, dict)
        }
        return sorted(found - {"", *NO_OBJECTS}), "in alphabetical order"

    def _record(self, file: Path) -> dict[str, Any] | str:
        """The content of a file without the image in it, or what is wrong with it."""
        if file not in self._records:
            self._records[file] = _read(file)
        return self._records[file]

    def _image(
        self, file: Path, record: dict[str, Any], embedded: dict[str, Path], defects: Defects
    ) -> tuple[str | None, tuple[int, int] | None]:
        """Name of the image in the data set and its size (height, width) as annotated."""
        relative = file.relative_to(self.path).as_posix()
        image, annotated = self._image_file(file, record.get("imagePath")), _annotated_size(record)
        if image is not None:
            name = image.relative_to(self.path).as_posix()
            return name, annotated or sized(image, relative, defects)
        if not record["has_image"]:
            what = f"imagePath {record.get('imagePath')!r:.80} is not there and imageData is empty"
            defects.note("image-missing", "file", relative, what)
            return None, None
        embedded[relative] = file
        return relative, annotated or sized(file, relative, defects, _embedded_size)

    def _image_file(self, file: Path, image_path: Any) -> Path | None:
        """The image of a LabelMe file: where it says, else of that name or of its own beside it."""
        names: list[str] = []
        if isinstance(image_path, str) and image_path:
            windows = PureWindowsPath(image_path)
            names += [windows.as_posix()] if not windows.anchor else []
            names.append(windows.name)
        names += [file.stem + suffix for suffix in IMAGE_SUFFIXES]
        root = self.path.resolve()
        for name in dict.fromkeys(names):
            place = file.parent / name
            if is_file(place) and place.resolve().is_relative_to(root):
                # Without the ".." that lead from a folder of labels to one of images.
                return self.path / os.path.relpath(place, self.path)
        return None


def embedded_bytes(file: Path) -> bytes:
    """The image file inside a LabelMe file.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        data = json.loads(file.read_text("utf-8-sig", errors="replace")).get("imageData")
        return base64.b64decode(data, validate=False)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        fix = "annotate with the image beside it"
        raise DataError("imageData is damaged", where=file, fix=fix) from None


def _json_files(path: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(path):
        depth = len(Path(place).relative_to(path).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and depth < DEPTH)
        found += [Path(place, n) for n in sorted(names) if n.endswith(".json") and n[0] != "."]
    return found


def _read(file: Path) -> dict[str, Any] | str:
    try:
        record = json.loads(file.read_text("utf-8-sig", errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        return f"no JSON ({error})"
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        return "it has no list 'shapes'"
    # Kept for every file of the data set: the image in it would fill the memory.
    record["has_image"] = bool(record.pop("imageData", None))
    return record


def _annotated_size(record: dict[str, Any]) -> tuple[int, int] | None:
    """(imageHeight, imageWidth) if the file has them; versions before 3.6 do not write them."""
    height, width = record.get("imageHeight"), record.get("imageWidth")
    if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
        return height, width
    return None


def _embedded_size(file: Path) -> tuple[int, int]:
    image = embedded_image(file)
    return image.shape[0], image.shape[1]


def _label(shape: dict[str, Any]) -> str:
    label = shape.get("label")
    return " ".join(label.split()) if isinstance(label, str) else ""


def _add_objects(
    content: Content,
    image_id: int,
    shapes: list[Any],
    size: tuple[int, int],
    place: str,
    labels: dict[str, int],
    defects: Defects,
) -> None:
    """Add the objects of one file; parts with one group id and one label are one object."""
    for label, numbers, parts in _objects(shapes, size, place, defects):
        where = f"{place} shape {numbers}"
        if label in NO_OBJECTS:
            continue
        if label not in labels:
            what = f"label {label!r:.40} is not among the classes"
            defects.note("category-id-unknown", "file", where, what)
            continue
        content.add(image_id, labels[label], join_parts(parts, size), where)


def _objects(
    shapes: list[Any], size: tuple[int, int], place: str, defects: Defects
) -> Iterator[tuple[str, str, list[Part]]]:
    """(label, numbers of the shapes from 1, parts) of each object, in the order of the file."""
    objects: dict[tuple[Any, ...], tuple[list[int], list[Part]]] = {}
    for number, shape in enumerate(shapes, start=1):
        if not isinstance(shape, dict):
            defects.note("record-malformed", "file", f"{place} shape {number}")
            continue
        kind = kind_of_shape(shape)
        if kind is None:
            what = f"shape of type {shape.get('shape_type')!r:.30} is not used"
            defects.note("shape-unsupported", "file", f"{place} shape {number}", what)
            continue
        group = shape.get("group_id")
        alone = group is None or isinstance(group, (list, dict))
        key = (_label(shape), "alone", number) if alone else (_label(shape), "group", group)
        numbers, parts = objects.setdefault(key, ([], []))
        numbers.append(number)
        parts.append(part_of_shape(kind, shape, size))
    for (label, *_), (numbers, parts) in objects.items():
        yield label, "+".join(map(str, numbers)), parts


def embedded_image(file: Path) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB of the image inside a LabelMe file.

    Raises:
        DataError: it is damaged.
    """
    return decode_image(embedded_bytes(file), file)
