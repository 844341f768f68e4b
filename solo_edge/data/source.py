"""One split of a data set of any format, before it is checked: everything becomes COCO's form."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from solo_edge.data.defects import Defects
from solo_edge.errors import SoloEdgeError, UsageError
from solo_edge.images import IMAGE_SUFFIXES, TooLargeError, image_size

__all__ = [
    "Content",
    "Format",
    "Source",
    "images_under",
    "is_file",
    "match_split",
    "read_names",
    "sized",
    "split_of",
]

ALIASES = {"val": ("valid", "validation")}
SPLIT_NAME = re.compile(r"(train|training|val|valid|validation|test|testing)([-_]?\d+)?")
NO_OBJECTS = ("__ignore__", "_background_")  # labelme's first two labels
UNDIVIDED: str = "all"  # the split of a data set that is not divided


@dataclass(frozen=True)
class Source:
    """What a format's reader found. Nothing in `content` is trusted yet."""

    format: str  # "COCO", "LabelMe", ...
    path: Path  # the data set's folder
    split: str
    annotation_path: Path  # the annotation file, or the folder with many of them
    content: dict[str, Any]  # as in a COCO file of instances
    image_folders: Sequence[
        Path
    ]  # where the file names may be; the first with the first image is it
    embedded: Mapping[str, Path] = field(
        default_factory=dict
    )  # file name -> LabelMe file with its pixels
    notes: tuple[
        str, ...
    ] = ()  # how the data were understood, for formats that leave room for doubt


class Format(Protocol):
    """The reader of one format, made for one folder."""

    name: ClassVar[str]
    path: Path

    @classmethod
    def detect(cls, path: Path) -> Format | None:
        """A reader if the folder `path` looks like this format."""

    def splits(self) -> list[str]:
        """The names of the parts that there are, sorted."""

    def read(self, split: str, defects: Defects) -> Source:
        """Read one of them; files that cannot be read go to `defects`."""

    def where(self, split: str) -> Path:
        """What to name in messages about that part: its annotation file or folder."""


class Content:
    """Builds COCO content from another format; ids count from 1 and `places` says what they stand for."""

    def __init__(self, class_names: Sequence[str]):
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.class_names = class_names
        self.places: dict[tuple[str, int], str] = {}

    def add_image(self, file_name: str, size: tuple[int, int]) -> int:
        """An image of `size` (height, width); returns its id."""
        image_id = len(self.images) + 1
        height, width = size
        record = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        self.images.append(record)
        self.places["image", image_id] = file_name
        return image_id

    def add(self, image_id: int, label: int, segmentation: Any, place: str) -> None:
        """An object of the class `label` (from 0); one outside the classes is left for the check to find."""
        annotation_id = len(self.annotations) + 1
        record = {"id": annotation_id, "image_id": image_id, "category_id": label + 1}
        self.annotations.append({**record, "segmentation": segmentation, "iscrowd": 0})
        self.places["annotation", annotation_id] = place

    def to_dict(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(self.class_names)],
        }


def match_split(split: str, names: Sequence[str], path: Path) -> str:
    """The one of `names` that is meant by `split`: itself, an alias, or with a number ("train2017").

    Raises:
        UsageError: there is none, or several may be meant.
    """
    numbered = re.compile(rf"{re.escape(split)}[-_]?\d+")  # "train2017", but not "training"
    found: list[str] = [name for name in (split, *ALIASES.get(split, ())) if name in names][:1]
    found = found or [name for name in names if numbered.fullmatch(name)]
    if len(found) == 1:
        return found[0]
    if found:
        what = f"split {split!r} may be any of {', '.join(found)}"
        raise UsageError(what, where=path, fix="name one of them exactly")
    fix = f"there are: {', '.join(names)}"
    if list(names) == [UNDIVIDED]:
        fix += "; divide it with solo-edge split"
    raise UsageError(f"no split {split!r}", where=path, fix=fix)


def split_of(file: Path) -> str:
    """The split that a path inside the data set belongs to: its first folder with the name of one."""
    named = (part for part in file.parts[:-1] if SPLIT_NAME.fullmatch(part))
    return next(named, UNDIVIDED)


def read_names(path: Path, names: Sequence[str]) -> list[str] | None:
    """Class names, one on each line of the first of these files that exists; None without any.

    `__ignore__` and `_background_`, which labelme wants first, are left out.
    """
    for name in names:
        if is_file(path / name):
            lines = (path / name).read_text("utf-8-sig", errors="replace").splitlines()
            found = [" ".join(line.split()) for line in lines]
            return [line for line in found if line and line not in NO_OBJECTS]
    return None


def images_under(folder: Path) -> list[Path]:
    """The files with an image's suffix in `folder` and the folders in it, sorted, without hidden ones."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (name for name in sorted(names) if not name.startswith("."))
        found += [Path(place, n) for n in shown if Path(n).suffix.lower() in IMAGE_SUFFIXES]
    return found


def sized(
    file: Path, name: str, defects: Defects, read: Callable[[Path], tuple[int, int]] = image_size
) -> tuple[int, int] | None:
    """(height, width) of an image file; None, and its defect under `name`, if it cannot be read."""
    try:
        return read(file)
    except SoloEdgeError as error:
        code = "image-too-large" if isinstance(error, TooLargeError) else "image-unreadable"
        defects.note(code, "file", name, error.what)
        return None


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, a NUL character
        return False
