"""Masks on the grid: where they are, and how much they overlap."""

from __future__ import annotations

import numpy as np
import pytest

from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry
from solo_edge.tracking.silhouettes import Cutout, box_overlaps, mask_overlaps, silhouettes_of


def instances_of(masks: np.ndarray, lazy: bool = False) -> Instances:
    """masks: [N, h, w], on the grid if lazy, else pixels."""
    count, size = len(masks), masks.shape[1:]
    if lazy:
        size = (4 * size[0], 4 * size[1])
        masks = LazyMasks(masks.astype(np.float32), Geometry(size, size, size))
    return Instances(
        np.ones(count), np.zeros(count, int), masks, class_names=("thing",), image_size=size
    )


def blobs(seed: int, count: int = 6, size: tuple[int, int] = (30, 41)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks:
        top, left = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
        mask[top : top + rng.integers(1, 15), left : left + rng.integers(1, 15)] = True
        mask &= rng.random(size) < 0.8
    return masks


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / max(np.count_nonzero(one | other), 1)


@pytest.mark.parametrize("seed", range(10))
def test_overlaps_are_those_of_the_moved_masks(seed):
    masks = blobs(seed)
    silhouettes = silhouettes_of(instances_of(masks, lazy=True))
    rng = np.random.default_rng(seed)
    moves = (
        rng.integers(-35, 36, (len(masks), 2)) if seed % 2 else rng.integers(-3, 4, (len(masks), 2))
    )
    cutouts, moved = [], []
    for k, (down, right) in enumerate(moves.tolist()):
        top, left, mask = silhouettes.cutout(k)
        cutouts.append(Cutout(top + down, left + right, mask))
        plane = np.zeros((130, 141), dtype=bool)
        plane[50 + down : 80 + down, 50 + right : 91 + right] = masks[k]
        moved.append(plane[50:80, 50:91])
    expected = [[iou(a, b) for b in masks] for a in (*moved, *masks)]
    np.testing.assert_allclose(mask_overlaps(cutouts, silhouettes), expected, atol=1e-6)


def test_places_and_boxes():
    masks = np.zeros((3, 20, 30), dtype=bool)
    masks[0, 4:10, 6:20] = True
    masks[1, 0, 0] = masks[1, 19, 29] = True
    found = silhouettes_of(instances_of(masks, lazy=True))
    assert found.boxes.tolist() == [[4, 6, 10, 20], [0, 0, 20, 30], [0, 0, 0, 0]]
    assert found.centroids.tolist() == [[7.0, 13.0], [10.0, 15.0], [0.0, 0.0]]
    assert found.occupied.tolist() == [True, True, False]
    assert found.extent == (20.0, 30.0)


def test_pixels_are_reduced_so_that_nothing_is_lost():
    masks = np.zeros((2, 18, 23), dtype=bool)
    masks[0, 17, 22] = True  # in a corner that 4 does not divide
    found = silhouettes_of(instances_of(masks))
    assert found.inside.shape == (2, 5, 6)
    assert np.argwhere(found.inside).tolist() == [[0, 4, 5]]
    assert found.extent == (4.5, 5.75)


def test_box_overlaps():
    masks = np.zeros((2, 20, 20), dtype=bool)
    masks[0, 0:10, 0:10] = masks[1, 0:10, 5:15] = True
    boxes = np.array([[0.0, 0.0, 10.0, 20.0]])
    found = box_overlaps(boxes, silhouettes_of(instances_of(masks, lazy=True)))
    np.testing.assert_allclose(found, [[1 / 2, 1 / 2], [1.0, 1 / 3], [1 / 3, 1.0]])


def test_no_masks_at_all():
    found = silhouettes_of(instances_of(np.zeros((0, 8, 8), dtype=bool), lazy=True))
    cutout = Cutout(0, 0, np.ones((2, 2), dtype=bool))
    assert mask_overlaps([cutout], found).shape == (1, 0)
    assert mask_overlaps([], found).shape == (0, 0)


def test_a_cutout_on_another_grid():
    cutout = Cutout(4, 6, np.array([[True, False], [False, True]]))
    top, left, mask = cutout.scaled((2.0, 1.5))
    assert (top, left, mask.shape) == (8, 9, (4, 3))
    assert mask[:2, 0].all()
    assert mask[2:, 2].all()
    assert cutout.scaled((0.1, 0.1)).mask.shape == (1, 1)
