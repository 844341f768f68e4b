"""Data sets for YOLO segmentation: a text file of normalised polygons for each image.

A line is `class x y x y ...` with x and y from 0 to 1. The labels of `a/images/b.jpg` are in
`a/labels/b.txt`; an image without such a file has no objects (docs.ultralytics.com/datasets/segment).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

from solo_edge.data.defects import Defects
from solo_edge.data.source import (
    Content,
    Source,
    images_under,
    is_file,
    read_names,
    sized,
    split_of,
)
from solo_edge.data.yolo_yaml import DataYaml, read_data_yaml

__all__ = ["YoloFolder"]

YAML_KEYS = re.compile(rb"^(train|val|names)\s*:", re.MULTILINE)
NAME_FILES = ("classes.txt", "obj.names")


class YoloFolder:
    """A folder with `data.yaml`, or just with the folders `images` and `labels`.

    The classes are those of the YAML file by their number, else the lines of `classes.txt`, else
    "class 0" to the largest number in any label file.
    """

    name: ClassVar[str] = "YOLO-seg"

    def __init__(self, path: Path, yaml_file: Path | None):
        self.path = path
        self._yaml = DataYaml() if yaml_file is None else read_data_yaml(yaml_file, path)
        self._images = self._find_images()

    @classmethod
    def detect(cls, path: Path) -> YoloFolder | None:
        candidates = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        # The usual name first.
        for file in sorted(candidates, key=lambda file: file.stem != "data"):
            if len(set(YAML_KEYS.findall(_head(file)))) >= 2:
                return cls(path, file)
        labels = [path / "labels", *sorted(path.glob("*/labels"))]
        has_labels = any(True for folder in labels for _ in folder.glob("**/*.txt"))
        return cls(path, None) if has_labels else None

    def splits(self) -> list[str]:
        return sorted(self._images)

    def where(self, split: str) -> Path:
        return self._yaml.file or self.path

    def read(self, split: str, defects: Defects) -> Source:
        names, origin = self._class_names()
        content = Content(names)
        defects.places = content.places
        if self._yaml.problem is not None:
            defects.note("file-unreadable", "file", self.where(split).name, self._yaml.problem)
        images = self._images[split]
        for image in images:
            relative = image.relative_to(self.path).as_posix()
            size = sized(image, relative, defects)
            if size is not None:
                image_id = content.add_image(relative, size)
                self._add_objects(content, image_id, _label_file(image), size, defects)
        self._note_orphans(images, defects)
        read = f"read as YOLO-seg: {len(images)} images, classes {origin}: {', '.join(names[:10])}"
        notes = (f"{read}, ..." if len(names) > 10 else read,)
        where = self.where(split)
        return Source(
            self.name, self.path, split, where, content.to_dict(), [self.path], notes=notes
        )

    def _find_images(self) -> dict[str, list[Path]]:
        if self._yaml.splits:
            found = {
                split: list(dict.fromkeys(image for place in places for image in _images_of(place)))
                for split, places in self._yaml.splits.items()
            }
            return {split: images for split, images in found.items() if images}
        divided: dict[str, list[Path]] = {}
        for image in images_under(self.path):
            relative = image.relative_to(self.path)
            if "images" in relative.parts[:-1]:
                divided.setdefault(split_of(relative), []).append(image)
        return divided

    def _class_names(self) -> tuple[list[str], str]:
        """The classes and where they come from."""
        if self._yaml.names and self._yaml.file is not None:
            return self._yaml.names, f"of {self._yaml.file.name}"
        listed = read_names(self.path, NAME_FILES)
        if listed:
            return listed, f"of {' or '.join(NAME_FILES)}"
        numbers = [
            label
            for images in self._images.values()
            for image in images
            for line in _lines(_label_file(image)) or []
            if (label := _whole(line.split()[0])) is not None
        ]
        return [f"class {i}" for i in range(max(numbers, default=0) + 1)], "without names"

    def _add_objects(
        self,
        content: Content,
        image_id: int,
        file: Path,
        size: tuple[int, int],
        defects: Defects,
    ) -> None:
        relative = file.relative_to(self.path).as_posix()
        lines = _lines(file)
        if lines is None:
            defects.note("file-unreadable", "file", relative, "no text")
            return
        for number, line in enumerate(lines, start=1):
            place, words = f"{relative} line {number}", line.split()
            label, values = _whole(words[0]), [_number(word) for word in words[1:]]
            if label is None:
                what = f"class {words[0]!r:.30} is not a whole number"
                defects.note("category-id-unknown", "file", place, what)
            elif len(values) == 4:
                defects.note("box-only", "file", place)
            else:
                content.add(image_id, label, [_scaled(values, size)], place)

    def _note_orphans(self, images: list[Path], defects: Defects) -> None:
        expected = {_label_file(image) for image in images}
        for folder in sorted({file.parent for file in expected}):
            for file in sorted(set(folder.glob("*.txt")) - expected):
                # A list of classes or of images lies beside the labels of some tools.
                if file.name not in (*NAME_FILES, "train.txt", "val.txt", "test.txt"):
                    relative = file.relative_to(self.path).as_posix()
                    defects.note("label-orphan", "file", relative)


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(1 << 16)
    except OSError:
        return b""


def _images_of(place: Path) -> list[Path]:
    """The images of a folder, or those that a text file lists."""
    if place.is_dir():
        return images_under(place)
    found = []
    for line in _lines(place) or []:
        image = place.parent / line.strip().removeprefix("./")
        if is_file(image) and image.resolve().is_relative_to(place.parent.resolve()):
            found.append(image)
    return found


def _label_file(image: Path) -> Path:
    """The last folder called "images" becomes "labels"; without one the labels lie beside the image."""
    parts = list(image.parts)
    places = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _lines(file: Path) -> list[str] | None:
    """The lines with something in them; none of a file that does not exist, None of one that is no text."""
    try:
        return [line for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        return None


def _whole(word: str) -> int | None:
    try:
        value = float(word)
        return int(value) if value == int(value) else None
    except (ValueError, OverflowError):
        return None


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _scaled(values: list[float | str], size: tuple[int, int]) -> list[Any]:
    """To pixels; what is no number stays for the check of all segmentations to name."""
    height, width = size
    return [
        value if isinstance(value, str) else value * (height if i % 2 else width)
        for i, value in enumerate(values)
    ]
