"""Folders `images` and `masks`: a map of objects for each image, or one mask file for each object.

For `images/a.jpg`, the first of these that exists is taken:

    masks/a.png                     every value but 0 is an object (also masks/a_mask.png)
    masks/a/*.png                   every file is one object: the pixels that are not 0
    masks/a_1.png, masks/a_2.png    likewise
    masks/*.png                     likewise, where `images` holds this image alone
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.defects import Defects
from solo_edge.data.label_maps import regions_of_labels
from solo_edge.data.source import Content, Source, images_under, read_names, sized, split_of
from solo_edge.errors import SoloEdgeError
from solo_edge.images import read_values

__all__ = ["MaskFolder"]

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")  # others change the values
DEPTH = 3  # folders below the data set's in which `images` and `masks` are looked for


@dataclass
class Masked:
    """One image and its mask files: one map of all objects, or a mask for each."""

    image: Path
    is_map: bool = True
    masks: list[Path] = field(default_factory=list)


class MaskFolder:
    """Pairs of folders `images` and `masks`, at the top or in folders of it. There is one class, which
    the first line of `classes.txt` names; else it is "object"."""

    name: ClassVar[str] = "images/ with masks/"

    def __init__(self, path: Path, places: list[Path]):
        self.path = path
        self._orphans: list[Path] = []
        self._images: dict[str, list[Masked]] = {}
        for place in places:
            for found in self._pairs(place):
                split = split_of(found.image.relative_to(path))
                self._images.setdefault(split, []).append(found)

    @classmethod
    def detect(cls, path: Path) -> MaskFolder | None:
        places = [
            place
            for place in _folders(path, DEPTH)
            if (place / "images").is_dir() and (place / "masks").is_dir()
        ]
        found = cls(path, places)
        has_masks = any(masked.masks for images in found._images.values() for masked in images)
        return found if has_masks else None

    def splits(self) -> list[str]:
        return sorted(self._images)

    def where(self, split: str) -> Path:
        return self.path

    def read(self, split: str, defects: Defects) -> Source:
        names = (read_names(self.path, ("classes.txt",)) or ["object"])[:1]
        content = Content(names)
        defects.places = content.places
        for masked in self._images[split]:
            self._add(content, masked, defects)
        for file in self._orphans:
            relative = file.relative_to(self.path)
            if split_of(relative) == split:
                defects.note("label-orphan", "file", relative.as_posix())
        count = len(self._images[split])
        notes = (f"read as images/ with masks/: {count} images, one class: {names[0]}",)
        return Source(
            self.name, self.path, split, self.path, content.to_dict(), [self.path], notes=notes
        )

    def _pairs(self, place: Path) -> Iterator[Masked]:
        """Every image of one pair of folders with its masks."""
        images = images_under(place / "images")
        files = [f for f in images_under(place / "masks") if f.suffix.lower() in SUFFIXES]
        by_image = _assign([image.relative_to(place / "images") for image in images], files, place)
        used = {file for masked in by_image.values() for file in masked.masks}
        if len(images) == 1 and not used:  # a folder for each image, as of the Data Science Bowl
            yield Masked(images[0], False, files)
            return
        self._orphans += [file for file in files if file not in used]
        for image in images:
            found = by_image[image.relative_to(place / "images")]
            yield Masked(image, found.is_map, found.masks)

    def _add(self, content: Content, masked: Masked, defects: Defects) -> None:
        """Add an image with its objects; nothing of one whose masks cannot be used."""
        name = masked.image.relative_to(self.path).as_posix()
        size = sized(masked.image, name, defects)
        if size is None:
            return
        objects = []
        for file in masked.masks:
            place = file.relative_to(self.path).as_posix()
            try:
                values = read_values(file)
            except SoloEdgeError as error:
                defects.note("file-unreadable", "file", place, error.what)
                return
            if values.shape != size:
                (height, width), (found_height, found_width) = size, values.shape
                what = f"mask of {found_width} x {found_height} pixels, image of {width} x {height}"
                defects.note("mask-size", "file", place, what)
                return
            regions = regions_of_labels(values if masked.is_map else (values != 0).astype(np.uint8))
            if masked.is_map and len(regions) == 1 and (parts := _separate_parts(values)) > 1:
                defects.note("mask-merged", "file", place, f"one value, {parts} separate parts")
            objects += [(code, f"{place} value {value}") for value, code in regions.items()]
        if not masked.masks:
            defects.note("mask-missing", "file", name)
        image_id = content.add_image(name, size)
        for code, place in objects:
            content.add(image_id, 0, code, place)


def _folders(path: Path, depth: int) -> Iterator[Path]:
    """`path` and the folders in it, down to `depth`; those called images or masks are not entered."""
    for place, folders, _ in os.walk(path):
        yield Path(place)
        level = len(Path(place).relative_to(path).parts)
        kept = (name for name in folders if name not in ("images", "masks") and name[0] != ".")
        folders[:] = sorted(kept) if level < depth else []


def _assign(names: list[Path], files: list[Path], place: Path) -> dict[Path, Masked]:
    """Which mask files belong to which image, both told by their paths inside their folders."""
    stems = {name.with_suffix("").as_posix(): name for name in names}
    found = {name: Masked(name) for name in names}
    pieces: dict[Path, list[Path]] = {name: [] for name in names}
    for file in files:
        relative = file.relative_to(place / "masks").with_suffix("")
        stem = relative.as_posix()
        whole = stems.get(stem) or stems.get(stem.removesuffix("_mask"))
        if whole is not None:
            found[whole].masks.append(file)
            continue
        owner = stems.get(relative.parent.as_posix()) or stems.get(_longest_stem(stem, stems) or "")
        if owner is not None:
            pieces[owner].append(file)
    for name, masked in found.items():
        if not masked.masks:
            masked.is_map, masked.masks = False, pieces[name]
    return found


def _longest_stem(stem: str, stems: dict[str, Path]) -> str | None:
    """ "a_b" of "a_b_3": the longest name of an image that a separator follows."""
    ends = [i for i, letter in enumerate(stem) if letter in "_-."]
    return next((stem[:end] for end in reversed(ends) if stem[:end] in stems), None)


def _separate_parts(values: NDArray[Any]) -> int:
    import cv2

    count, _ = cv2.connectedComponents((values != 0).astype(np.uint8))
    return int(count) - 1
