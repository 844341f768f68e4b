"""Which images calibration looks at: a fixed choice that covers the classes, and never the wrong ones.

Ranges that were measured on other images than those of the camera are the commonest reason for INT8
losing accuracy in silence, and ranges measured on the evaluation's images make its result worthless.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solo_edge.calibration.folder import ImageFolder
from solo_edge.data.coco import CocoDataset
from solo_edge.data.fingerprint import NEAR, distance, fingerprint
from solo_edge.errors import DataError
from solo_edge.files import sha256_of

__all__ = [
    "ADVISED_IMAGES",
    "MIN_IMAGES",
    "CalibrationImage",
    "choose_images",
    "refuse_overlap",
    "report_near_copies",
]

MIN_IMAGES = 32  # below it, a single image decides too much
ADVISED_IMAGES = 128
FLAT = 2.0  # standard deviation of the pixels in each channel of an image that shows nothing
DARK = 2.0  # the brightest pixel of an image that was divided by 255 before it was saved
READ_PER_IMAGE = 4  # images that are decoded at most, for each that is wanted
COMPARED = 512  # images of the evaluation that are decoded at most


@dataclass(frozen=True)
class CalibrationImage:
    """One chosen image, the hash of its file and the fingerprint of what it shows."""

    index: int  # in the data set
    file_name: str
    sha256: str
    fingerprint: int


def choose_images(
    dataset: CocoDataset | ImageFolder,
    count: int,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[CalibrationImage]:
    """`count` different images, or all there are; the same choice on every machine.

    The classes take turns (without annotations, the folders): each takes the next image, in an order
    drawn with `seed`, in which it is present. What is left is filled with any images. Copies of an
    image count once. An image that looks nearly like a chosen one, as the next frame of a video does,
    is taken only where nothing else is left, and then the least similar first.

    To learn what images look like, at most 4 x `count` of them are decoded, in the order of the turns,
    and no mask is: a large data set takes no longer than one of that size.

    Args:
        report: is called with one line about each thing that is worth knowing.
        progress: is called with the number of images found and wanted.

    Raises:
        DataError: fewer than 32 different images, or most of them show nothing; or an image of an
            annotated data set cannot be read. Without annotations such a file is left out.
    """
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    groups = _groups(dataset)
    by_group: dict[str, list[int]] = {}
    for index in order:
        for name in groups[index]:
            by_group.setdefault(name, []).append(index)
    wanted = list(dict.fromkeys([*_in_turns(list(by_group.values())), *order]))
    found = _Search(dataset, count, progress)
    found.look_through(wanted)
    chosen = found.chosen()
    where = dataset.annotation_path if isinstance(dataset, CocoDataset) else dataset.path
    _require_enough(found, len(chosen), where)
    for line in found.remarks(len(chosen)):
        report(line)
    if isinstance(dataset, CocoDataset):
        missing = [name for name in dataset.class_names if name not in by_group]
        if missing:
            report(f"no image shows {', '.join(missing[:5])}")
    return chosen


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


def report_near_copies(
    chosen: Sequence[CalibrationImage],
    evaluation: CocoDataset,
    report: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """One line if images of the evaluation look nearly like chosen ones, as frames of one video do.

    At most 512 images of the evaluation are decoded, spread evenly over it.
    """
    prints = {image.fingerprint: image.file_name for image in chosen}
    count = min(len(evaluation), COMPARED)
    pairs = []
    for done in range(count):
        progress(done, count)
        index = done * len(evaluation) // count
        mark = fingerprint(evaluation.image(index))
        if distance(mark, prints) <= NEAR:
            nearest = min(prints, key=lambda other: (mark ^ other).bit_count())
            pairs.append((prints[nearest], evaluation.image_path(index).name))
    progress(count, count)
    if pairs:
        (ours, theirs), share = pairs[0], f"{len(pairs)} of {count}"
        report(
            f"{share} images of the evaluation look nearly like images of the calibration"
            f" ({theirs} like {ours}): the accuracy measured there will be too good"
        )


class _Search:
    """Goes through the images in the order given until enough of them look different."""

    def __init__(
        self,
        dataset: CocoDataset | ImageFolder,
        count: int,
        progress: Callable[[int, int], None],
    ):
        self.dataset = dataset
        self.count = count
        self.progress = progress
        self.different: list[CalibrationImage] = []
        self.similar: list[CalibrationImage] = []
        self.unreadable: list[str] = []
        self.flat = self.dark = self.decoded = 0

    def look_through(self, indices: Sequence[int]) -> None:
        seen: set[str] = set()
        for index in indices:
            self.progress(len(self.different), self.count)
            if len(self.different) == self.count or self.decoded == READ_PER_IMAGE * self.count:
                break
            digest = sha256_of(self.dataset.image_path(index))
            if digest not in seen:
                seen.add(digest)
                self.look_at(index, digest)
        self.progress(self.count, self.count)

    def look_at(self, index: int, digest: str) -> None:
        path = self.dataset.image_path(index)
        self.decoded += 1
        image = self._read(index)
        if image is None:
            self.unreadable.append(path.name)
        elif float(image.std(axis=(0, 1)).max()) < FLAT:
            self.flat += 1
            self.dark += bool(image.max() < DARK)
        else:
            found = CalibrationImage(index, path.name, digest, fingerprint(image))
            is_near = distance(found.fingerprint, (o.fingerprint for o in self.different)) <= NEAR
            (self.similar if is_near else self.different).append(found)

    def _read(self, index: int) -> NDArray[np.uint8] | None:
        try:
            return self.dataset.image(index)
        except DataError:
            # A folder that a camera fills has a file cut short now and then; annotations are checked.
            if isinstance(self.dataset, CocoDataset):
                raise
            return None

    def chosen(self) -> list[CalibrationImage]:
        """Those that look different, then the least similar of the others until there are enough."""
        chosen, left = list(self.different), list(self.similar)
        distances = [distance(o.fingerprint, (c.fingerprint for c in chosen)) for o in left]
        while len(chosen) < self.count and left:
            place = distances.index(max(distances))
            chosen.append(left.pop(place))
            del distances[place]
            for i, other in enumerate(left):
                step = (other.fingerprint ^ chosen[-1].fingerprint).bit_count()
                distances[i] = min(distances[i], step)
        return chosen

    def remarks(self, chosen: int) -> list[str]:
        lines = []
        if self.flat:
            lines.append(f"{self.flat} images of one colour are left out")
        if self.unreadable:
            first = self.unreadable[0]
            lines.append(f"{len(self.unreadable)} images cannot be read and are left out ({first})")
        if chosen > len(self.different):
            lines.append(
                f"only {len(self.different)} of the {chosen} images look different: the others are"
                " nearly copies of them, like frames of one video"
            )
        if chosen < ADVISED_IMAGES:
            few = f"only {chosen} images: with fewer than {ADVISED_IMAGES}, ranges depend on chance"
            lines.append(few)
        return lines


def _require_enough(found: _Search, chosen: int, where: Path) -> None:
    if found.flat > found.decoded // 2:
        what = f"{found.flat} of {found.decoded} images are of one colour"
        fix = "calibrate with images as the camera gives them"
        if found.dark > found.decoded // 2:
            what += ", almost black"
            fix += "; pixels from 0 to 1 must be multiplied by 255 before they are saved"
        raise DataError(what, where=where, fix=fix)
    if chosen < MIN_IMAGES:
        what = f"calibration needs at least {MIN_IMAGES} different images, here are {chosen}"
        raise DataError(what, where=where, fix="add images as the camera gives them")


def _groups(dataset: CocoDataset | ImageFolder) -> list[set[str]]:
    """What takes turns: the names of the classes in each image, or the folder that it lies in."""
    if isinstance(dataset, ImageFolder):
        return [{str(dataset.image_path(i).parent)} for i in range(len(dataset))]
    content = dataset.coco_dict()
    names = {category["id"]: category["name"] for category in content["categories"]}
    shown: dict[int, set[str]] = {image_id: set() for image_id in dataset.image_ids}
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            shown[annotation["image_id"]].add(names[annotation["category_id"]])
    return list(shown.values())


def _in_turns(groups: list[list[int]]) -> list[int]:
    """The first of each group, then the second of each, ...; each number once."""
    longest = max(map(len, groups), default=0)
    rounds = (group[i] for i in range(longest) for group in groups if i < len(group))
    return list(dict.fromkeys(rounds))
