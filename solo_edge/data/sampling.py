"""Which samples an epoch has and in which order; both follow from the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["EpochBatches", "SampleKey", "labels_of_images", "repeat_factors"]


class SampleKey(NamedTuple):
    """One sample of a run."""

    epoch: int
    image: int  # its index in the data set
    repeat: int  # how many samples of this image come before it in the epoch's list


class EpochBatches:
    """The batches of an epoch as lists of keys; the last one may be smaller.

    Every process gets its share of the same batches, so that their number does not change what is learnt.

    Args:
        length: number of images.
        factors: [length] how often an image is wanted in an epoch; None for once each. An epoch has
            round(sum(factors)) samples; a fraction is the image's chance to be there once more.
        rank, world_size: which process of how many this is.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        *,
        factors: NDArray[np.float64] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.factors = factors
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.first = 0  # batches before it are left out
        self.samples = length if factors is None else round(float(factors.sum()))

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size) - self.first

    def __iter__(self) -> Iterator[list[SampleKey]]:
        order = self.order(self.epoch)
        for start in range(self.first * self.batch_size, self.samples, self.batch_size):
            yield order[start : start + self.batch_size][self.rank :: self.world_size]

    def order(self, epoch: int) -> list[SampleKey]:
        """All samples of `epoch`."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.factors is None:
            return [SampleKey(epoch, int(i), 0) for i in rng.permutation(self.length)]
        # Systematic sampling: an image comes floor or ceil of its factor times, and their sum is fixed.
        marks = np.cumsum(self.factors) * (self.samples / self.factors.sum())
        marks[-1] = self.samples
        ends = np.floor(marks + rng.random()).astype(np.int64)
        counts = np.diff(ends, prepend=0)
        keys = [
            SampleKey(epoch, i, repeat)
            for i, count in enumerate(counts.tolist())
            for repeat in range(count)
        ]
        return [keys[i] for i in rng.permutation(len(keys))]


def repeat_factors(
    labels: Sequence[Collection[int]], threshold: float
) -> NDArray[np.float64]:  # [N]
    """How often each image is wanted so that rare classes are seen more often (LVIS, arXiv:1908.03195).

    A class in a share f of the images has the factor max(1, sqrt(threshold / f)), an image the largest
    of its classes'.

    Args:
        labels: the classes in each of the N images.
    """
    counts: dict[int, int] = {}
    for found in labels:
        for label in set(found):
            counts[label] = counts.get(label, 0) + 1
    rare = {c: max(1.0, (threshold * len(labels) / n) ** 0.5) for c, n in counts.items()}
    return np.array([max((rare[c] for c in found), default=1.0) for found in labels])


def labels_of_images(coco: dict[str, Any]) -> list[set[int]]:
    """The category ids in each image of a data set in COCO's format, crowd regions not counted."""
    found: dict[int, set[int]] = {image["id"]: set() for image in coco["images"]}
    for annotation in coco["annotations"]:
        if not annotation["iscrowd"]:
            found[annotation["image_id"]].add(annotation["category_id"])
    return list(found.values())
