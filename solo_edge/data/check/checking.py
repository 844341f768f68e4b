"""All defects of a data set in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo_edge.data.annotations import AnnotationFile, parse_content
from solo_edge.data.check.files import ImageFacts, Level, check_files
from solo_edge.data.check.geometry import check_geometry
from solo_edge.data.check.leakage import Seen, find_copies
from solo_edge.data.coco import folder_of
from solo_edge.data.coco_files import CocoFiles
from solo_edge.data.defects import Defects
from solo_edge.data.formats import read_source, require_format
from solo_edge.data.source import Source, images_under, match_split
from solo_edge.data.statistics import SplitStatistics, split_statistics

__all__ = ["CheckedSplit", "Report", "check_dataset", "check_split", "seen_images"]

SCHEMA = 1


@dataclass(frozen=True)
class CheckedSplit:
    """One split, what is wrong with it and what can be used of it."""

    source: Source
    parsed: AnnotationFile
    defects: Defects
    image_folder: Path
    files: dict[int, ImageFacts]  # of the images that can be used, by id
    statistics: SplitStatistics


@dataclass(frozen=True)
class Report:
    """What `check_dataset` found."""

    path: Path
    format: str
    splits: tuple[CheckedSplit, ...]
    between: Defects  # what concerns several splits

    def all_defects(self) -> list[tuple[str | None, Defects]]:
        """Defects with their split, None for those between splits."""
        found: list[tuple[str | None, Defects]] = [(s.source.split, s.defects) for s in self.splits]
        return [*found, (None, self.between)]

    def count(self, severity: str) -> int:
        return sum(defects.count(severity) for _, defects in self.all_defects())

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every single defect."""
        return {
            "schema": SCHEMA,
            "path": str(self.path),
            "format": self.format,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "notes": self.count("note"),
            "defects": [
                {
                    "code": kind.code,
                    "severity": kind.severity,
                    "split": split,
                    "count": len(findings),
                    "what": kind.title,
                    "fix": kind.fix,
                    "fix_to": kind.clean,
                    "found": [
                        {"of": f.noun, "id": f.key, "place": f.place, "what": f.detail}
                        for f in findings
                    ],
                }
                for split, defects in self.all_defects()
                for kind, findings in defects.found()
            ],
            "splits": {
                split.source.split: {
                    "annotation_path": str(split.source.annotation_path),
                    "image_folder": str(split.image_folder),
                    **split.statistics.to_dict(),
                }
                for split in self.splits
            },
        }


def check_dataset(
    path: Path,
    splits: Sequence[str] = (),
    *,
    level: Level = "decode",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Look at everything; nothing is written and no defect ends it.

    Args:
        path: the data set's folder.
        splits: only these parts of it.
        level: how closely to look at the images, see `check_files`. Pictures that look alike are only
            found with "decode".
        progress: called with the number of images looked at and of all.

    Raises:
        UsageError: there is no such folder or split, or no annotations.
    """
    reader = require_format(path)
    names = [match_split(name, reader.splits(), path) for name in splits] or reader.splits()
    between = Defects(path, path)
    read = []
    for name in dict.fromkeys(names):
        source, defects = read_source(reader, name)
        read.append((source, defects, parse_content(source.content, defects)))
    total, done = sum(len(parsed.images) for _, _, parsed in read), 0

    def tick() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    checked = [check_split(*each, level, tick) for each in read]
    _compare_classes(checked, between)
    find_copies([seen for split in checked for seen in seen_images(split, level)], between)
    if len(checked) == len(reader.splits()) and level != "none":
        _find_unlisted(checked, between)
    return Report(path, reader.name, tuple(checked), between)


def seen_images(split: CheckedSplit, level: Level = "decode") -> list[Seen]:
    """The images of a split that can be compared with others."""
    if level == "none":
        return []
    return [
        Seen(split.source.split, record.file_name, split.files[record.id])
        for record in split.parsed.images
        if record.id in split.files
    ]


def check_split(
    source: Source, defects: Defects, parsed: AnnotationFile, level: Level, tick: Callable[[], None]
) -> CheckedSplit:
    """Look at the objects and images of one split; what is found goes to `defects`."""
    folder = folder_of(parsed.images, source.image_folders)
    if parsed.images:
        check_geometry(source.content, parsed, defects)
        _check_categories(source, parsed, defects)
        if source.format == CocoFiles.name:
            _note_uncompressed(source.content["annotations"], defects)
    files = check_files(parsed.images, folder, source.embedded, level, defects, tick)
    return CheckedSplit(source, parsed, defects, folder, files, split_statistics(parsed))


def _check_categories(source: Source, parsed: AnnotationFile, defects: Defects) -> None:
    ids = list(parsed.categories)
    if ids and ids[-1] - ids[0] + 1 != len(ids):
        what = f"{len(ids)} ids from {ids[0]} to {ids[-1]}"
        defects.note("category-gaps", "data", source.annotation_path.name, what)
    used = {annotation.category_id for annotation in parsed.annotations}
    for category, name in parsed.categories.items():
        if category not in used:
            defects.note("category-unused", "category", category, f"no object is {name!r}")


def _note_uncompressed(annotations: list[Any], defects: Defects) -> None:
    for record in annotations:
        segmentation = record.get("segmentation") if isinstance(record, dict) else None
        if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
            defects.note("rle-uncompressed", "annotation", record.get("id"))


def _compare_classes(splits: Sequence[CheckedSplit], between: Defects) -> None:
    usable = [split for split in splits if split.parsed.categories]
    for split in usable[1:]:
        ours, first = (list(s.parsed.categories.values()) for s in (split, usable[0]))
        if ours != first:
            only = [name for name in ours if name not in first]
            lost = [name for name in first if name not in ours]
            parts = [f"only here: {only[:5]}"] if only else []
            parts += [f"not here: {lost[:5]}"] if lost else []
            what = f"{split.source.split} and {usable[0].source.split} differ in their classes"
            what += f" ({'; '.join(parts) or 'the same in another order'})"
            between.note("classes-differ", "data", split.source.split, what)


def _find_unlisted(splits: Sequence[CheckedSplit], between: Defects) -> None:
    """Image files beside those of the annotations. Other formats have no list that could lack one."""
    if splits[0].source.format not in ("COCO", "LabelMe"):
        return
    listed = {split.image_folder / r.file_name for split in splits for r in split.parsed.images}
    listed |= {facts.path for split in splits for facts in split.files.values()}
    seen = set()
    for folder in dict.fromkeys(split.image_folder for split in splits):
        for file in images_under(folder):
            if file not in listed and file not in seen:
                seen.add(file)
                between.note("image-unlisted", "file", str(file.relative_to(splits[0].source.path)))
