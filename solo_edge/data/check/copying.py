"""Writing checked images and annotations as a COCO data set of their own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo_edge.data.check.checking import CheckedSplit
from solo_edge.data.check.files import ImageFacts
from solo_edge.data.labelme import embedded_bytes
from solo_edge.data.segmentations import mask_api
from solo_edge.errors import ResourceError, UsageError
from solo_edge.files import atomic_folder
from solo_edge.images import read_header, read_image, unturned

__all__ = ["Part", "class_ids", "require_apart", "write_parts"]

MASK_IS_RIGHT = ("bbox-invalid", "bbox-differs", "area-differs")
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png"}


@dataclass(frozen=True)
class Part:
    """One split to write, with some images of a checked one."""

    name: str
    checked: CheckedSplit
    image_ids: Sequence[int]


def require_apart(out: Path, data: Path) -> None:
    """
    Raises:
        UsageError: `out` holds something already, or one of the two folders is inside the other.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        fix = "choose another folder or remove this one"
        raise UsageError("already exists", where=out, fix=fix)
    ours, theirs = out.resolve(), data.resolve()
    if ours.is_relative_to(theirs) or theirs.is_relative_to(ours):
        fix = "choose a folder elsewhere: the data set itself is never written to"
        raise UsageError("the copy would lie inside the data set, or around it", where=out, fix=fix)


def class_ids(parts: Sequence[Part]) -> dict[str, int]:
    """Class name -> id in the copy: those of the original where they agree, else counted from 1."""
    ids: dict[str, set[int]] = {}
    for part in parts:
        for category, name in part.checked.parsed.categories.items():
            ids.setdefault(name, set()).add(category)
    agreed = {name: next(iter(own)) for name, own in ids.items() if len(own) == 1}
    if len(set(agreed.values())) == len(ids):
        return dict(sorted(agreed.items(), key=lambda item: item[1]))
    return {name: i for i, name in enumerate(ids, start=1)}


def write_parts(
    out: Path,
    parts: Sequence[Part],
    *,
    link: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write OUT/NAME.json and OUT/NAME/ for each part; the folder appears when it is complete.

    Args:
        link: hard links instead of copies of the images, where a file can stay as it is.
        progress: called with the number of images written and of all.

    Raises:
        ResourceError: no permission, no room, or links across file systems.
    """
    ids = class_ids(parts)
    total, done = sum(len(part.image_ids) for part in parts), 0
    with atomic_folder(out) as folder:
        for part in parts:
            names = _target_names(part)
            for image_id, name in names.items():
                target = folder / part.name / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _write_image(part.checked.files[image_id], target, link)
                done += 1
                progress(done, total)
            content = _content(part, names, ids)
            (folder / f"{part.name}.json").write_text(json.dumps(content) + "\n", "utf-8")


def _target_names(part: Part) -> dict[int, str]:
    """Image id -> where it goes in the part's folder: its path without what all images share."""
    files = part.checked.files
    paths = {
        i: Path(os.path.relpath(files[i].path, part.checked.image_folder)) for i in part.image_ids
    }
    if not paths:
        return {}
    shared = os.path.commonpath([path.parent for path in paths.values()])
    names = {i: _named(files[i], path.relative_to(shared)) for i, path in paths.items()}
    return {i: path.as_posix() for i, path in names.items()}


def _named(facts: ImageFacts, path: Path) -> Path:
    """With the suffix of what is written."""
    if facts.is_embedded:
        # With the whole name of the LabelMe file: there may be an image a.png beside a.json.
        return path.with_name(path.name + _suffix(embedded_bytes(facts.path)))
    return path.with_name(f"{path.name}.png") if facts.is_stored_turned else path


def _suffix(content: bytes) -> str:
    return ".jpg" if content.startswith(b"\xff\xd8") else ".png"


def _write_image(facts: ImageFacts, target: Path, link: bool) -> None:
    if facts.is_embedded:
        target.write_bytes(embedded_bytes(facts.path))
    elif facts.is_stored_turned:
        from PIL import Image

        pixels = unturned(read_image(facts.path), read_header(facts.path).orientation)
        Image.fromarray(pixels).save(target, "PNG")
    elif link:
        try:
            os.link(facts.path.resolve(), target)
        except OSError as error:
            what = f"no hard link to {facts.path} can be made ({error.strerror})"
            raise ResourceError(what, where=target, fix="leave --link out") from None
    else:
        shutil.copyfile(facts.path, target)


def _content(part: Part, names: Mapping[int, str], ids: Mapping[str, int]) -> dict[str, Any]:
    """The annotation file; what the original says beside the usual fields stays."""
    source, parsed = part.checked.source.content, part.checked.parsed
    written = {kind: _by_id(source[kind]) for kind in ("images", "annotations", "categories")}
    by_name: dict[str, dict[str, Any]] = {}
    for category, name in parsed.categories.items():
        by_name.setdefault(name, written["categories"][category])
    sizes = {record.id: (record.height, record.width) for record in parsed.images}
    kept: dict[str, Any] = {key: source[key] for key in ("info", "licenses") if key in source}
    return kept | {
        "images": [
            {
                **written["images"][i],
                "id": i,
                "file_name": name,
                "height": sizes[i][0],
                "width": sizes[i][1],
            }
            for i, name in names.items()
        ],
        "annotations": _annotations(part, written["annotations"], ids, names),
        "categories": [
            {**by_name.get(name, {}), "id": number, "name": name} for name, number in ids.items()
        ],
    }


def _annotations(
    part: Part,
    written: Mapping[int, dict[str, Any]],
    ids: Mapping[str, int],
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """Polygons as written, run lengths compressed; boxes and areas of the mask where they are wrong."""
    parsed, found = part.checked.parsed, part.checked.defects.by_code
    wrong = {finding.key for code in MASK_IS_RIGHT for finding in found.get(code, [])}
    sizes = {record.id: [record.height, record.width] for record in parsed.images}
    api = mask_api()
    records = []
    for annotation in parsed.annotations:
        if annotation.image_id not in names:
            continue
        code = {"size": sizes[annotation.image_id], "counts": annotation.counts}
        area, bbox = annotation.area, list(annotation.bbox)
        if annotation.id in wrong:
            packed = {**code, "counts": annotation.counts.encode("ascii")}
            area, bbox = int(api.area([packed])[0]), api.toBbox([packed])[0].tolist()
        drawn = written[annotation.id]["segmentation"]
        records.append(
            {
                **written[annotation.id],
                "id": annotation.id,
                "image_id": annotation.image_id,
                "category_id": ids[parsed.categories[annotation.category_id]],
                "iscrowd": int(annotation.is_crowd),
                "area": area,
                "bbox": bbox,
                "segmentation": drawn if isinstance(drawn, list) else code,
            }
        )
    return records


def _by_id(records: Sequence[Any]) -> dict[int, dict[str, Any]]:
    """The first record of each id, which is the one that is used."""
    found: dict[int, dict[str, Any]] = {}
    for record in records:
        if isinstance(record, dict) and type(record.get("id")) is int:
            found.setdefault(record["id"], record)
    return found
