"""Masks on a coarse grid: small enough to be compared pair by pair in every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances
from solo_edge.kernels import host_bits, host_nms
from solo_edge.kernels.resize import STRIDE

__all__ = ["Cutout", "Silhouettes", "box_overlaps", "mask_overlaps", "silhouettes_of"]


class Cutout(NamedTuple):
    """One mask, cut out of its grid."""

    top: int
    left: int
    mask: NDArray[np.bool_]  # [h, w]

    def scaled(self, factors: tuple[float, float]) -> Cutout:
        """On a grid so many times as fine (vertical, horizontal): each cell is the nearest one of this."""
        corner: list[int] = []
        index = []
        for start, length, factor in zip(self[:2], self.mask.shape, factors, strict=True):
            corner.append(round(start * factor))
            count = max(round(length * factor), 1)
            index.append(((np.arange(count) + 0.5) * length / count).astype(np.intp))
        return Cutout(corner[0], corner[1], self.mask[np.ix_(*index)])


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """N masks on a grid of cells. What is in pairs is (vertical, horizontal), in cells."""

    inside: NDArray[np.bool_]  # [N, h, w]
    extent: tuple[float, float]  # how much of the grid the image takes, from the upper left
    boxes: NDArray[
        np.int64
    ]  # [N, 4] top, left, bottom, right, the ends exclusive; 0 if it is empty
    centroids: NDArray[np.float64]  # [N, 2] 0 if it is empty

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N, 2] height and width of the boxes."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """[N]: whether anything is inside."""
        return self.boxes[:, 2] > 0

    def cutout(self, index: int) -> Cutout:
        top, left, bottom, right = self.boxes[index].tolist()
        return Cutout(top, left, self.inside[index, top:bottom, left:right].copy())


def silhouettes_of(instances: Instances) -> Silhouettes:
    """The masks at stride 4: the network's own; of pixels, each 4 x 4 of which any is inside."""
    lazy = instances.lazy_masks
    if lazy is not None:
        inside, size = lazy.probabilities > lazy.threshold, lazy.geometry.resized_size
    else:
        inside, size = _reduced(instances.masks), instances.image_size
    down = np.add.reduce(inside, axis=2, dtype=np.uint16)
    right = np.add.reduce(inside, axis=1, dtype=np.uint16)
    (top, bottom), (left, right_end) = _reach(down), _reach(right)
    areas = np.maximum(down.sum(axis=1, dtype=np.int64), 1)
    moments = [
        counts @ np.arange(0.5, counts.shape[1]) * counts.any(axis=1) for counts in (down, right)
    ]
    return Silhouettes(
        inside,
        (size[0] / STRIDE, size[1] / STRIDE),
        np.stack([top, left, bottom, right_end], axis=1),
        np.stack(moments, axis=1) / areas[:, None],
    )


def _reduced(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[N, H, W] -> [N, ceil(H / 4), ceil(W / 4)]: whether any of 4 x 4 pixels is inside."""
    padding = [(0, -length % STRIDE) for length in masks.shape[1:]]
    padded = np.ascontiguousarray(np.pad(masks, [(0, 0), *padding]))
    quads = padded.view(np.uint32) != 0  # four pixels side by side at once
    count, height, width = quads.shape
    reduced: NDArray[np.bool_] = quads.reshape(count, height // STRIDE, STRIDE, width).any(axis=2)
    return reduced


def _reach(counts: NDArray[np.uint16]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """[N, length] -> the range [first, last) outside which the counts are 0; [0, 0) if all are."""
    used = counts > 0
    last = used.shape[1] - used[:, ::-1].argmax(axis=1)
    return used.argmax(axis=1), np.where(used.any(axis=1), last, 0)


def mask_overlaps(cutouts: list[Cutout], silhouettes: Silhouettes) -> NDArray[np.float32]:
    """IoU [T + N, N] of T cutouts, as far as they lie on the grid, and then of all masks, with the masks."""
    height, width = silhouettes.inside.shape[1:]
    planes = np.zeros((len(cutouts) + len(silhouettes.inside), height, width), dtype=np.bool_)
    for plane, (top, left, mask) in zip(planes, cutouts, strict=False):
        rows, columns = _within(top, mask.shape[0], height), _within(left, mask.shape[1], width)
        plane[rows, columns] = mask[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
    planes[len(cutouts) :] = silhouettes.inside
    words = host_bits.pack_masks(planes)
    return host_nms.overlaps(words, host_bits.mask_areas(words))[:, len(cutouts) :]


def _within(start: int, length: int, limit: int) -> slice:
    """What of [start, start + length) lies in [0, limit)."""
    return slice(min(max(start, 0), limit), min(max(start + length, 0), limit))


def box_overlaps(boxes: NDArray[np.float64], silhouettes: Silhouettes) -> NDArray[np.float64]:
    """IoU [T + N, N] of T boxes [T, 4] (top, left, bottom, right), and then of all boxes, with the boxes."""
    others = silhouettes.boxes
    boxes = np.concatenate([boxes, others])
    upper = np.maximum(boxes[:, None, :2], others[:, :2])
    lower = np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = np.prod(np.maximum(lower - upper, 0.0), axis=2)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = areas[:, None] + np.prod(silhouettes.lengths, axis=1) - common
    overlaps: NDArray[np.float64] = common / np.maximum(union, 1e-9)
    return overlaps
