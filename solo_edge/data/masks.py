"""Ground-truth masks, kept small: each instance's pixels inside its own box.

A photo of cells can hold hundreds of instances; as full-size planes they would take hundreds of
megabytes, inside their boxes a few hundred kilobytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "GroundTruth", "crop_of_runs", "runs_of_counts", "tight_box"]

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are exclusive


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotated instances of one image. Boxes are tight and never empty."""

    image_size: tuple[int, int]  # (height, width)
    crops: tuple[NDArray[np.uint8], ...]  # N times [bottom - top, right - left] 0/1
    boxes: NDArray[np.float32]  # [N, 4] left, top, right, bottom (exclusive)
    labels: NDArray[np.int64]  # [N] 0-based

    def __post_init__(self) -> None:
        if not len(self.crops) == len(self.boxes) == len(self.labels):
            raise ValueError(
                f"{len(self.crops)} crops, {len(self.boxes)} boxes and {len(self.labels)} labels"
            )

    @classmethod
    def from_regions(
        cls,
        image_size: tuple[int, int],
        regions: Iterable[tuple[Box, NDArray[np.uint8], int]],
    ) -> GroundTruth:
        """From (box, the mask inside it, label) of each instance."""
        regions = list(regions)
        return cls(
            image_size,
            tuple(crop for _, crop, _ in regions),
            np.array([box for box, _, _ in regions], dtype=np.float32).reshape(-1, 4),
            np.array([label for _, _, label in regions], dtype=np.int64),
        )

    @classmethod
    def from_masks(cls, masks: NDArray[np.uint8], labels: Sequence[int]) -> GroundTruth:
        """From masks [N, H, W] 0/1 at the image's size. An empty mask is a ValueError."""
        regions: list[tuple[Box, NDArray[np.uint8], int]] = []
        for i, (mask, label) in enumerate(zip(masks, labels, strict=True)):
            box = tight_box(mask)
            if box is None:
                raise ValueError(f"mask {i} is empty")
            left, top, right, bottom = box
            regions.append((box, np.ascontiguousarray(mask[top:bottom, left:right]), int(label)))
        return cls.from_regions((masks.shape[1], masks.shape[2]), regions)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def int_boxes(self) -> list[Box]:
        return [(a, b, c, d) for a, b, c, d in self.boxes.astype(np.int64).tolist()]

    @property
    def masks(self) -> NDArray[np.uint8]:
        """[N, H, W] 0/1 at the image's size, made at each call."""
        masks = np.zeros((len(self), *self.image_size), dtype=np.uint8)
        for plane, crop, (left, top, right, bottom) in zip(
            masks, self.crops, self.int_boxes, strict=True
        ):
            plane[top:bottom, left:right] = crop
        return masks

    def flipped(self) -> GroundTruth:
        """Mirrored left to right."""
        boxes = self.boxes.copy()
        boxes[:, [0, 2]] = self.image_size[1] - self.boxes[:, [2, 0]]
        return GroundTruth(
            self.image_size, tuple(crop[:, ::-1] for crop in self.crops), boxes, self.labels
        )


def tight_box(mask: NDArray[np.uint8]) -> Box | None:
    """The smallest box around the pixels of `mask` [h, w]; None when there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def runs_of_counts(counts: str) -> NDArray[np.int64]:
    """The run lengths in a compressed COCO run-length code, background first.

    Six bits per character from "0" on: five of the number, low ones first, and one that says
    whether more follow. From the fourth number on, each is the difference to the one before last
    (`rleFrString` of the COCO API).

    Raises:
        ValueError: a character is out of range or the last number is cut off.
    """
    if not counts.isascii():
        raise ValueError("characters outside ASCII")
    values = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if len(values) == 0:
        return values
    if values.min() < 0 or values.max() > 63:
        raise ValueError("characters outside '0' to 'o'")
    last = values & 32 == 0
    if not last[-1]:
        raise ValueError("cut off")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 12:
        raise ValueError("a number is too large")
    shifts = 5 * (np.arange(len(values)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((values & 31) << shifts, starts)
    # The highest of the five bits is the sign.
    numbers -= ((values[ends] & 16) != 0) * (np.int64(1) << (5 * lengths))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def crop_of_runs(
    runs: NDArray[np.int64], image_size: tuple[int, int]
) -> tuple[Box, NDArray[np.uint8]] | None:
    """Box and the mask inside it, of run lengths that go down the columns; None for an empty mask.

    Only the columns of the object are filled: a cell in a large image costs microseconds.
    """
    height = image_size[0]
    borders = np.cumsum(runs)
    starts = borders[0 : 2 * (len(runs) // 2) : 2]
    ends = borders[1::2]
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if len(starts) == 0:
        return None
    left, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    columns = np.zeros((right - left, height), dtype=np.uint8)
    flat, offset = columns.reshape(-1), left * height
    for start, end in zip((starts - offset).tolist(), (ends - offset).tolist(), strict=True):
        flat[start:end] = 1
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return (left, top, right, bottom), np.ascontiguousarray(columns[:, top:bottom].T)
