"""The places where COCO annotation files and their images are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from solo_edge.data.defects import Defects
from solo_edge.data.source import ALIASES, SPLIT_NAME, Source
from solo_edge.errors import DataError, UsageError
from solo_edge.files import read_json

__all__ = ["CocoFiles", "json_kind"]

# Annotation files that COCO publishes beside those of instances.
OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
ROBOFLOW_FILE = "_annotations.coco.json"  # Roboflow's export: one in the folder of each split
NICKNAMES = {other: (name,) for name, others in ALIASES.items() for other in others}
HEAD_BYTES = 1 << 16  # of a file, to tell what it is
COCO_KEYS = re.compile(rb'"(images|annotations|categories)"\s*:')
LABELME_KEYS = re.compile(rb'"(shapes|imagePath|imageData)"\s*:')


class CocoFiles:
    """A folder with a COCO file for each split, see `open_dataset` for the layouts."""

    name: ClassVar[str] = "COCO"

    def __init__(self, path: Path, files: dict[str, list[Path]]):
        self.path = path
        self.files = files

    @classmethod
    def detect(cls, path: Path) -> CocoFiles | None:
        """A reader if one of the annotation files looks like COCO's."""
        files = _annotation_files(path)
        kinds = {file: json_kind(file) for same in files.values() for file in same}
        if "coco" not in kinds.values():
            return None
        # A broken file keeps its place if it has the name of a split; other files are somebody's own.
        kept = {
            name: [f for f in same if kinds[f] == "coco" or _is_split_name(name)]
            for name, same in files.items()
        }
        return cls(path, {name: same for name, same in kept.items() if same})

    @classmethod
    def anyhow(cls, path: Path) -> CocoFiles | None:
        """A reader if there are JSON files at all: what is wrong with them is told when they are read."""
        files = _annotation_files(path)
        return cls(path, files) if files else None

    def splits(self) -> list[str]:
        return list(self.files)

    def where(self, split: str) -> Path:
        """
        Raises:
            UsageError: several files may be meant.
        """
        found = self.files[split]
        if len(found) > 1:
            listed = ", ".join(str(file.relative_to(self.path)) for file in found)
            what = f"split {split!r} may be any of {listed}"
            raise UsageError(what, where=self.path, fix="keep one of them")
        return found[0]

    def read(self, split: str, defects: Defects) -> Source:
        file = self.where(split)
        try:
            content = read_json(file, "annotation file")
        except (DataError, UsageError) as error:
            defects.note("file-unreadable", "file", file.name, error.what)
            content = {}
        beside = [file.parent] if file.name == ROBOFLOW_FILE else []
        images = self.path / "images"
        names = [split, re.sub(r"[-_]?\d+$", "", split), *NICKNAMES.get(split, ())]
        folders = [parent / name for parent in (self.path, images) for name in names]
        folders = [*beside, *dict.fromkeys(folders), images, self.path]
        return Source(self.name, self.path, split, file, content, folders)


def json_kind(file: Path) -> str | None:
    """ "coco" or "labelme" by the keys at the beginning of a JSON file, which may be large."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
    except OSError:
        return None
    if COCO_KEYS.search(head):
        return "coco"
    return "labelme" if LABELME_KEYS.search(head) else None


def _is_split_name(name: str) -> bool:
    return name == "all" or SPLIT_NAME.fullmatch(name) is not None


def _annotation_files(path: Path) -> dict[str, list[Path]]:
    """Name of a split -> the annotation files that may be meant by it."""
    files = sorted(path.glob("*.json")) + sorted((path / "annotations").glob("*.json"))
    found: dict[str, list[Path]] = {}
    for file in files:
        if not file.name.startswith((*OTHER_TASKS, ".")):
            found.setdefault(file.stem.removeprefix("instances_"), []).append(file)
    for file in sorted(path.glob(f"*/{ROBOFLOW_FILE}")):
        found.setdefault(file.parent.name, []).append(file)
    return found
