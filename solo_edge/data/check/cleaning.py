"""A clean copy of a data set with defects: mended where that has one meaning, else without them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from solo_edge.data.annotations import AnnotationFile, parse_content
from solo_edge.data.check.checking import CheckedSplit, Report, check_split
from solo_edge.data.check.copying import Part, require_apart, write_parts
from solo_edge.data.check.files import Level
from solo_edge.data.check.repair import repair_content
from solo_edge.data.defects import Defects
from solo_edge.errors import DataError

__all__ = ["write_clean_copy"]


def write_clean_copy(
    report: Report,
    out: Path,
    *,
    level: Level = "decode",
    link: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, tuple[int, int]]:
    """Write the checked splits into `out` as COCO files with their images; the original stays as it is.

    Args:
        level: how closely to look at the images again that were mended, see `check_files`.
        link: hard links instead of copies of the images.
        progress: called with the number of images written and of all.

    Returns:
        Split -> (images, annotations) in the copy.

    Raises:
        UsageError: `out` holds something, or lies inside the data set.
        DataError: nothing usable is left.
        ResourceError: it cannot be written.
    """
    require_apart(out, report.path)
    parts = []
    for split in report.splits:
        mended = _mended(split, level)
        usable = [r.id for r in mended.parsed.images if r.id in mended.files]
        if usable and mended.parsed.categories:
            parts.append(Part(split.source.split, mended, usable))
    if not parts:
        fix = "see what solo-edge check-data says about it"
        raise DataError("nothing usable is left", where=report.path, fix=fix)
    write_parts(out, parts, link=link, progress=progress)
    return {part.name: (len(part.image_ids), _annotations_of(part)) for part in parts}


def _annotations_of(part: Part) -> int:
    kept = set(part.image_ids)
    return sum(annotation.image_id in kept for annotation in part.checked.parsed.annotations)


def _mended(split: CheckedSplit, level: Level) -> CheckedSplit:
    """The split after all repairs, without what is doubled."""
    content = repair_content(split.source.content, split.source.image_folders)
    source = dataclasses.replace(split.source, content=content)
    defects = Defects(split.defects.where, split.defects.folder, split.defects.places)
    again = parse_content(content, defects)
    checked = check_split(source, defects, again, level, lambda: None)
    twins = {f.key for f in checked.defects.by_code.get("instance-duplicate", [])}
    first: dict[Path, int] = {}
    same = {i: first.setdefault(facts.path, i) for i, facts in checked.files.items()}
    parsed = checked.parsed
    images = [record for record in parsed.images if same.get(record.id, record.id) == record.id]
    annotations = [
        dataclasses.replace(annotation, image_id=same.get(annotation.image_id, annotation.image_id))
        for annotation in parsed.annotations
        if annotation.id not in twins
    ]
    merged = AnnotationFile(images, annotations, parsed.categories)
    return dataclasses.replace(checked, parsed=merged)
