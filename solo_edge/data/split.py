"""Dividing a data set into training, validation and test: classes spread evenly, copies kept together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from solo_edge.data.check.checking import CheckedSplit, check_dataset, seen_images
from solo_edge.data.check.copying import Part, require_apart, write_parts
from solo_edge.data.check.leakage import groups_of_copies
from solo_edge.data.formats import require_format
from solo_edge.errors import DataError, UsageError

__all__ = ["Division", "divide", "split_dataset"]

EMPTY = -1  # stands for the class of an image without objects


@dataclass(frozen=True)
class Division:
    """What was written: images, and objects by class, of each split."""

    images: dict[str, int]
    instances: dict[str, dict[str, int]]
    largest_group: int  # images that were kept together because they look alike


def split_dataset(
    path: Path,
    out: Path,
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    split: str | None = None,
    keep_copies_together: bool = True,
    link: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Division:
    """Write the images of `path` into `out` as COCO data with one split for each of `shares`.

    Args:
        shares: name of a split -> its share of the images; together 1.
        seed: the same one gives the same division of the same images.
        split: the part of `path` to divide, if it has several.
        keep_copies_together: images that are copies or look nearly alike, as frames of one video do,
            go to one split, so that no accuracy is measured on what training saw.
        link: hard links instead of copies of the images.
        progress: called with the number of images looked at and of all.

    Raises:
        UsageError: shares that make no sense, `out` holds something, or several parts may be meant.
        DataError: the data have errors, or too few images that look different.
        ResourceError: it cannot be written.
    """
    if not all(0 < share < 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise UsageError("the shares do not leave something for each split", fix="use 0.1 or 0.2")
    require_apart(out, path)
    checked = _checked(path, split, progress)
    images = seen_images(checked)
    groups = list(range(len(images)))
    if keep_copies_together:
        groups = groups_of_copies(images)
    ids = [record.id for record in checked.parsed.images]
    labels = _labels(checked, ids)
    largest = max(Counter(groups).values())
    chosen = divide(labels, groups, shares, seed)
    if empty := [name for name in shares if name not in chosen]:
        what = f"nothing is left for {', '.join(empty)}: of {len(ids)} images, {largest} look alike"
        fix = "add images of other scenes, or divide with --ignore-copies"
        raise DataError(what, where=path, fix=fix)
    parts = [
        Part(name, checked, [i for i, own in zip(ids, chosen, strict=True) if own == name])
        for name in shares
    ]
    write_parts(out, parts, link=link)
    return _summary(parts, largest)


def divide(
    labels: Sequence[Counter[int]], groups: Sequence[int], shares: Mapping[str, float], seed: int
) -> list[str]:
    """The split of each image.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, 2011): the rarest class is given out
    first, each time to the split that lacks most of it. Groups of images stay together, large ones
    first.

    Args:
        labels: for each image, how many objects it has of each class; nothing for none.
        groups: for each image, the number of its group.
    """
    members: dict[int, list[int]] = {}
    for image in np.random.default_rng(seed).permutation(len(labels)).tolist():
        members.setdefault(groups[image], []).append(image)
    left = sorted(members.values(), key=len, reverse=True)  # stable: equal ones in the drawn order
    content = [_presence(labels, group) for group in left]
    total = sum(content, Counter[int]())
    wanted = {
        name: {label: share * count for label, count in total.items()}
        for name, share in shares.items()
    }
    room = {name: share * len(labels) for name, share in shares.items()}
    chosen = [""] * len(labels)
    open_groups = dict(enumerate(content))
    while open_groups:
        remaining = Counter(label for own in open_groups.values() for label in own)
        rarest = min(remaining, key=lambda label: (remaining[label], label))
        for i in [i for i, own in open_groups.items() if rarest in own]:
            name = max(shares, key=lambda name: (wanted[name][rarest], room[name]))
            for image in left[i]:
                chosen[image] = name
            for label, count in open_groups.pop(i).items():
                wanted[name][label] -= count
            room[name] -= len(left[i])
    return chosen


def _presence(labels: Sequence[Counter[int]], group: Sequence[int]) -> Counter[int]:
    """How many images of a group show each class."""
    return Counter(label for image in group for label in (labels[image] or (EMPTY,)))


def _checked(path: Path, split: str | None, progress: Callable[[int, int], None]) -> CheckedSplit:
    names = require_format(path).splits()
    if split is None and len(names) > 1:
        what = f"this data set is divided already ({', '.join(names)})"
        raise UsageError(what, where=path, fix="name the part to divide with --split")
    report = check_dataset(path, [split or names[0]], progress=progress)
    (checked,) = report.splits
    checked.defects.raise_if_errors()
    return checked


def _labels(checked: CheckedSplit, ids: Sequence[int]) -> list[Counter[int]]:
    found: dict[int, Counter[int]] = {image_id: Counter() for image_id in ids}
    for annotation in checked.parsed.annotations:
        if not annotation.is_crowd and annotation.image_id in found:
            found[annotation.image_id][annotation.category_id] += 1
    return list(found.values())


def _summary(parts: Sequence[Part], largest: int) -> Division:
    instances = {}
    for part in parts:
        counts = sum(_labels(part.checked, part.image_ids), Counter[int]())
        names = part.checked.parsed.categories
        instances[part.name] = {name: counts[category] for category, name in names.items()}
    images = {part.name: len(part.image_ids) for part in parts}
    return Division(images, instances, largest)
