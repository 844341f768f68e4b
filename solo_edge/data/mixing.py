"""Samples made of several images: instances pasted from another one, and mosaics of four."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.augment import MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE, Sample
from solo_edge.data.masks import tight_box

__all__ = ["copy_paste", "mosaic", "mosaic_tiles"]

# The corner where the four pictures of a mosaic meet lies in the middle of the input, give or take.
CORNER_RANGE = (0.3, 0.7)
PASTE_PROBABILITY = 0.5  # of each instance of the other image

Tile = tuple[int, int, int, int]  # top, left, height, width


def copy_paste(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """`sample` with a random half of the instances of `other` on top (arXiv:2012.07177, without blending).

    At least one instance is pasted where `other` has any. Nothing is pasted on the padding. What the
    pasted instances cover is no longer part of the masks below them; instances of which less than 4
    pixels or less than a tenth remains are dropped, those that were pasted as well.
    """
    draws = rng.random(len(other.labels))
    if len(draws) == 0:
        return sample
    chosen = np.flatnonzero((draws < PASTE_PROBABILITY) | (draws == draws.min()))
    height, width = np.minimum(sample.extent, other.extent)
    pasted = np.zeros_like(other.masks[chosen])
    pasted[:, :height, :width] = other.masks[chosen, :height, :width]
    seen = _still_visible(other.masks[chosen], pasted)
    chosen, pasted = chosen[seen], pasted[seen]
    covered = pasted.any(axis=0)
    below = sample.masks * ~covered
    # Instances of `other` keep the order in which they hide each other, which their masks show already.
    left = _still_visible(sample.masks, below)
    masks = np.concatenate([below[left], pasted])
    return Sample(
        np.where(covered, other.image, sample.image),
        sample.extent,
        masks,
        _tight_boxes(masks),
        np.concatenate([sample.labels[left], other.labels[chosen]]),
        sample.image_id,
    )


def mosaic_tiles(input_size: tuple[int, int], rng: np.random.Generator) -> list[Tile]:
    """Where the four pictures of a mosaic lie: they meet in a random point near the middle."""
    low, high = CORNER_RANGE
    down, right = (low + (high - low) * rng.random(2)).tolist()
    (height, width), top, left = (
        input_size,
        round(input_size[0] * down),
        round(input_size[1] * right),
    )
    rows, columns = ((0, top), (top, height - top)), ((0, left), (left, width - left))
    return [(y, x, tall, wide) for y, tall in rows for x, wide in columns]


def mosaic(samples: Sequence[Sample], tiles: Sequence[Tile]) -> Sample:
    """One sample that shows each of `samples` in its tile, top left (arXiv:2004.10934, figure 3).

    Args:
        samples: whose `extent` is no larger than their tile. The first one gives the image id.
    """
    image = np.zeros_like(samples[0].image)
    masks = np.zeros((sum(len(s.labels) for s in samples), *image.shape[1:]), dtype=np.uint8)
    boxes = []
    first = 0
    for sample, (top, left, tall, wide) in zip(samples, tiles, strict=True):
        height, width = sample.extent
        if height > tall or width > wide:
            raise ValueError(
                f"a picture of {height} x {width} does not fit a tile of {tall} x {wide}"
            )
        rows, columns = slice(top, top + height), slice(left, left + width)
        image[:, rows, columns] = sample.image[:, :height, :width]
        last = first + len(sample.labels)
        masks[first:last, rows, columns] = sample.masks[:, :height, :width]
        boxes.append(sample.boxes + np.array([left, top, left, top], dtype=np.float32))
        first = last
    labels = np.concatenate([sample.labels for sample in samples])
    extent = (image.shape[1], image.shape[2])
    return Sample(image, extent, masks, np.concatenate(boxes), labels, samples[0].image_id)


def _still_visible(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[N] which masks have kept enough pixels."""
    total, visible = (np.count_nonzero(masks, axis=(1, 2)) for masks in (before, after))
    enough: NDArray[np.bool_] = visible >= np.maximum(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * total)
    return enough


def _tight_boxes(masks: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.array([tight_box(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
