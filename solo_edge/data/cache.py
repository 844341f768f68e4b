"""A dataset whose decoded images stay in memory, when there is room for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.coco import CocoDataset
from solo_edge.data.masks import GroundTruth

__all__ = ["CachedDataset"]


class CachedDataset:
    """Reads like the `CocoDataset` it wraps, from memory if everything fits into `limit_bytes`.

    The decision is taken from the annotated sizes. Everything is read at once, before worker
    processes are forked, so that they share one copy. Cached arrays are read-only.

    Raises:
        DataError: an image cannot be read (when it is cached).
    """

    def __init__(self, dataset: CocoDataset, limit_bytes: int):
        self.dataset = dataset
        self.limit_bytes = limit_bytes
        sizes = (dataset.image_size(i) for i in range(len(dataset)))
        self.needed_bytes = sum(3 * height * width for height, width in sizes)
        self.needed_bytes += sum(dataset.mask_bytes(i) for i in range(len(dataset)))
        self._images: list[NDArray[np.uint8]] = []
        self._truths: list[GroundTruth] = []
        if self.needed_bytes <= limit_bytes:
            for index in range(len(dataset)):
                image = dataset.image(index)
                image.setflags(write=False)
                self._images.append(image)
                self._truths.append(dataset.ground_truth(index))

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def is_cached(self) -> bool:
        return bool(self._images)

    def describe(self) -> str:
        """Where the images come from, as a phrase."""
        needed = _megabytes(self.needed_bytes)
        if self.is_cached:
            return f"kept in memory ({needed})"
        return f"read from disk each time (in memory they would take {needed})"

    @property
    def path(self) -> Path:
        return self.dataset.path

    @property
    def split(self) -> str:
        return self.dataset.split

    @property
    def warnings(self) -> list[str]:
        return self.dataset.warnings

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.dataset.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        return self.dataset.category_ids

    @property
    def image_ids(self) -> list[int]:
        return self.dataset.image_ids

    def image(self, index: int) -> NDArray[np.uint8]:
        return self._images[index] if self.is_cached else self.dataset.image(index)

    def ground_truth(self, index: int) -> GroundTruth:
        return self._truths[index] if self.is_cached else self.dataset.ground_truth(index)

    def image_size(self, index: int) -> tuple[int, int]:
        return self.dataset.image_size(index)

    def image_path(self, index: int) -> Path:
        return self.dataset.image_path(index)

    def coco_dict(self) -> dict[str, Any]:
        return self.dataset.coco_dict()


def _megabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
