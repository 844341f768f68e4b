"""Which format a data set has: found from its files, in a fixed order, the first that fits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from solo_edge.data.coco_files import CocoFiles
from solo_edge.data.defects import Defects
from solo_edge.data.labelme import LabelMeFolder
from solo_edge.data.mask_folder import MaskFolder
from solo_edge.data.pascal import PascalFolder
from solo_edge.data.source import Format, Source, match_split
from solo_edge.data.yolo import YoloFolder
from solo_edge.errors import UsageError

__all__ = ["FORMATS", "find_format", "read_source", "require_format"]

FORMATS: tuple[type[Format], ...] = (
    CocoFiles,
    LabelMeFolder,
    YoloFolder,
    PascalFolder,
    MaskFolder,
)


def find_format(path: Path) -> Format | None:
    """The reader for the folder `path`; None if nothing in it looks like annotations."""
    for kind in FORMATS:
        found = kind.detect(path)
        if found is not None:
            return found
    return CocoFiles.anyhow(path)


def require_format(path: Path) -> Format:
    """
    Raises:
        UsageError: there is no such folder, or no annotations in it.
    """
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "no such folder"
        raise UsageError(problem, where=path, fix="give the folder that holds the dataset")
    found = find_format(path)
    if found is None:
        fix = f"known formats: {', '.join(kind.name for kind in FORMATS)}, see docs/data.md"
        raise UsageError("no annotation files found", where=path, fix=fix)
    return found


def read_source(reader: Format, split: str) -> tuple[Source, Defects]:
    """One split with what is wrong with its files; `split` may be an alias ("val" for "valid").

    Raises:
        UsageError: there is no such split, or several may be meant.
    """
    name = match_split(split, reader.splits(), reader.path)
    defects = Defects(reader.where(name), reader.path)
    return dataclasses.replace(reader.read(name, defects), split=split), defects
