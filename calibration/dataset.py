"""Which images calibration looks at: a fixed choice that covers the classes, and never the wrong ones.

Ranges that were measured on other images than those of the camera are the commonest reason for INT8
losing accuracy in silence, and ranges measured on the evaluation's images make its result worthless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from solo_edge.data.coco import CocoDataset
from solo_edge.errors import DataError
from solo_edge.files import sha256_of

__all__ = ["ADVISED_IMAGES", "MIN_IMAGES", "CalibrationImage", "choose_images", "refuse_overlap"]

MIN_IMAGES = 32  # below it, a single image decides too much
ADVISED_IMAGES = 128
FLAT = 2.0  # standard deviation of the pixels in each channel of an image that shows nothing


@dataclass(frozen=True)
class CalibrationImage:
    """One chosen image and the fingerprint of its file."""

    index: int  # in the data set
    file_name: str
    sha256: str


def choose_images(
    dataset: CocoDataset,
    count: int,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> list[CalibrationImage]:
    """`count` different images, or all there are; the same choice on every machine.

    The classes take turns: each takes the next image, in an order drawn with `seed`, in which it is
    present. What is left is filled with any images. Copies of an image count once.

    Args:
        report: is called with one line about each thing that is worth knowing.

    Raises:
        DataError: fewer than 32 different images, or most of them show nothing.
    """
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    by_class: dict[int, list[int]] = {}
    for index in order:
        for label in np.unique(dataset.ground_truth(index).labels).tolist():
            by_class.setdefault(label, []).append(index)
    wanted = list(dict.fromkeys([*_in_turns(list(by_class.values())), *order]))
    chosen: dict[str, CalibrationImage] = {}
    flat = looked_at = 0
    for index in wanted:
        if len(chosen) == count:
            break
        path = dataset.image_path(index)
        digest = sha256_of(path)
        if digest in chosen:
            continue
        looked_at += 1
        if float(dataset.image(index).std(axis=(0, 1)).max()) < FLAT:
            flat += 1
            continue
        chosen[digest] = CalibrationImage(index, path.name, digest)
    where = dataset.annotation_path
    if flat > looked_at // 2:
        what = f"{flat} of {looked_at} images are of one colour"
        raise DataError(what, where=where, fix="calibrate with images as the camera gives them")
    if len(chosen) < MIN_IMAGES:
        what = f"calibration needs at least {MIN_IMAGES} different images, here are {len(chosen)}"
        raise DataError(what, where=where, fix="add images as the camera gives them")
    if flat:
        report(f"{flat} images of one colour are left out")
    if len(chosen) < ADVISED_IMAGES:
        report(
            f"only {len(chosen)} images: with fewer than {ADVISED_IMAGES}, ranges depend on chance"
        )
    missing = [name for label, name in enumerate(dataset.class_names) if label not in by_class]
    if missing:
        report(f"no image shows {', '.join(missing[:5])}")
    return list(chosen.values())


def refuse_overlap(chosen: Mapping[str, str], evaluation: CocoDataset) -> None:
    """Raise DataError if calibration saw an image that the evaluation uses, whatever its name.

    Args:
        chosen: SHA-256 of each image of the calibration -> its name.
    """
    for index in range(len(evaluation)):
        path = evaluation.image_path(index)
        name = chosen.get(sha256_of(path))
        if name is not None:
            what = f"calibration saw {name}, an image of the evaluation ({path.name})"
            fix = "calibrate with other images, for example those of training"
            raise DataError(what, where=evaluation.annotation_path, fix=fix)


def _in_turns(groups: list[list[int]]) -> list[int]:
    """The first of each group, then the second of each, ...; each number once."""
    longest = max(map(len, groups), default=0)
    rounds = (group[i] for i in range(longest) for group in groups if i < len(group))
    return list(dict.fromkeys(rounds))
