"""Pascal VOC's segmentation folders: a map of objects and a map of classes for each image.

`SegmentationObject/a.png` numbers the objects of `JPEGImages/a.jpg` from 1, `SegmentationClass/a.png`
gives their classes; 255 (the borders between objects) belongs to nothing. Maps are palette or gray PNGs,
or colours of VOC's palette.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.defects import Defects
from solo_edge.data.label_maps import regions_of_labels
from solo_edge.data.source import (
    UNDIVIDED,
    Content,
    Source,
    images_under,
    is_file,
    read_names,
    sized,
)
from solo_edge.errors import SoloEdgeError
from solo_edge.images import read_values

__all__ = ["PascalFolder"]

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
NAME_FILES = ("class_names.txt", "labels.txt", "classes.txt")
VOID = 255
MAX_GRAY = 1 << 16  # larger values are colours


class PascalFolder:
    """A folder with SegmentationObject, JPEGImages and, for several classes, SegmentationClass.

    The classes are the lines of `class_names.txt` (as labelme2voc writes it), `labels.txt` or
    `classes.txt` by their number in the map, else VOC's twenty; without a map of classes there is one,
    "object".
    """

    name: ClassVar[str] = "Pascal VOC"

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def detect(cls, path: Path) -> PascalFolder | None:
        return cls(path) if any((path / "SegmentationObject").glob("*.png")) else None

    def splits(self) -> list[str]:
        listed = sorted(file.stem for file in (self.path / "ImageSets/Segmentation").glob("*.txt"))
        if {"train", "val"} <= set(listed):
            listed = [name for name in listed if name != "trainval"]  # the same images again
        return listed or [UNDIVIDED]

    def where(self, split: str) -> Path:
        return self.path

    def read(self, split: str, defects: Defects) -> Source:
        images = {image.stem: image for image in images_under(self.path / "JPEGImages")}
        stems = self._stems(split)
        names, origin = self._class_names()
        content = Content(names)
        defects.places = content.places
        for stem in stems:
            mask = self.path / "SegmentationObject" / f"{stem}.png"
            relative = mask.relative_to(self.path).as_posix()
            if stem not in images:
                defects.note("image-missing", "file", relative, f"no JPEGImages/{stem}.*")
                continue
            name = images[stem].relative_to(self.path).as_posix()
            size = sized(images[stem], name, defects)
            if size is None:
                continue
            if not is_file(mask):
                defects.note("mask-missing", "file", name)
                content.add_image(name, size)
                continue
            self._add_objects(content, name, size, mask, relative, defects)
        read = f"read as Pascal VOC: {len(stems)} images, classes {origin}: {', '.join(names[:20])}"
        return Source(
            self.name, self.path, split, self.path, content.to_dict(), [self.path], notes=(read,)
        )

    def _stems(self, split: str) -> list[str]:
        file = self.path / "ImageSets/Segmentation" / f"{split}.txt"
        if is_file(file):
            lines = file.read_text("utf-8", errors="replace").split("\n")
            # No more than a name: a path would lead elsewhere.
            return list(dict.fromkeys(Path(line.split()[0]).name for line in lines if line.split()))
        return sorted(mask.stem for mask in (self.path / "SegmentationObject").glob("*.png"))

    def _class_names(self) -> tuple[Sequence[str], str]:
        """The classes and where they come from."""
        if not (self.path / "SegmentationClass").is_dir():
            return ["object"], "without a map of classes"
        listed = read_names(self.path, NAME_FILES)
        return (listed, "of a file") if listed else (VOC_CLASSES, "of VOC")

    def _add_objects(
        self,
        content: Content,
        name: str,
        size: tuple[int, int],
        mask: Path,
        place: str,
        defects: Defects,
    ) -> None:
        """Add an image with the objects of its map; nothing of one whose maps cannot be used."""
        classes_file = self.path / "SegmentationClass" / mask.name
        try:
            objects = _indices(mask)
            has_classes = is_file(classes_file)
            classes = _indices(classes_file) if has_classes else (objects > 0).astype(np.int64)
        except SoloEdgeError as error:
            defects.note("file-unreadable", "file", place, error.what)
            return
        if objects.shape != size or classes.shape != size:
            (height, width), (found_height, found_width) = size, objects.shape
            what = f"mask of {found_width} x {found_height} pixels, image of {width} x {height}"
            defects.note("mask-size", "file", place, what)
            return
        image_id = content.add_image(name, size)
        labels = _class_of_objects(objects, classes)
        objects[objects == VOID] = 0
        for value, code in regions_of_labels(objects).items():
            content.add(image_id, labels.get(value, 0) - 1, code, f"{place} value {value}")


def _class_of_objects(objects: NDArray[Any], classes: NDArray[Any]) -> dict[int, int]:
    """Number of an object -> the class that most of its pixels have; void and background do not count."""
    counted = (objects != 0) & (classes != 0) & (classes != VOID)
    pairs, counts = np.unique(
        np.stack([objects[counted], classes[counted]]), axis=1, return_counts=True
    )
    most: dict[int, tuple[int, int]] = {}
    for number, label, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        if count > most.get(number, (0, 0))[0]:
            most[number] = (count, label)
    return {number: label for number, (_, label) in most.items()}


def _indices(file: Path) -> NDArray[np.int64]:
    """Numbers of a map. Colours become their place in VOC's palette, others stay large numbers."""
    values = read_values(file)
    if values.max(initial=0) < MAX_GRAY and values.max(initial=0) <= VOID:
        return values
    places = {colour: i for i, colour in enumerate(_voc_palette())}
    found, inverse = np.unique(values, return_inverse=True)
    known = np.array([places.get(int(value), int(value)) for value in found], dtype=np.int64)
    return known[inverse].reshape(values.shape)


def _voc_palette() -> list[int]:
    """VOC's 256 colours, red * 65536 + green * 256 + blue: bits of the index, three at a time, from above."""
    colours = []
    for index in range(256):
        red = green = blue = 0
        for bit in range(8):
            three = index >> (3 * bit)
            red |= (three & 1) << (7 - bit)
            green |= (three >> 1 & 1) << (7 - bit)
            blue |= (three >> 2 & 1) << (7 - bit)
        colours.append(red << 16 | green << 8 | blue)
    return colours
