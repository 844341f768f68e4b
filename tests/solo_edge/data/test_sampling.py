"""Repeat-factor sampling and the batches of an epoch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from solo_edge.data.sampling import EpochBatches, labels_of_images, repeat_factors


def test_factors_by_hand():
    """Class 0 is in 4 of 4 images, class 1 in one: sqrt(0.5 / 0.25), and never below 1."""
    factors = repeat_factors([{0}, {0, 1}, {0}, {0}], threshold=0.5)
    np.testing.assert_allclose(factors, [1, 2**0.5, 1, 1])
    np.testing.assert_allclose(repeat_factors([set(), {3}], 0.001), [1, 1])


def test_labels_are_those_of_single_objects():
    annotations = [
        {"image_id": 7, "category_id": 2, "iscrowd": 0},
        {"image_id": 7, "category_id": 5, "iscrowd": 1},
        {"image_id": 7, "category_id": 2, "iscrowd": 0},
    ]
    images = [{"id": 9}, {"id": 7}]
    assert labels_of_images({"images": images, "annotations": annotations}) == [set(), {2}]


def test_images_come_as_often_as_their_factors_say():
    factors = np.array([1.0, 2.6, 1.0, 1.4, 3.0])
    batches = EpochBatches(5, 2, seed=1, factors=factors)
    assert batches.samples == 9
    total: Counter[int] = Counter()
    for epoch in range(400):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert len(keys) == len(set(keys)) == 9
        counts = Counter(key.image for key in keys)
        assert all(np.floor(f) <= counts[i] <= np.ceil(f) for i, f in enumerate(factors))
        total += counts
    np.testing.assert_allclose([total[i] / 400 for i in range(5)], factors, atol=0.1)


def test_without_factors_each_image_comes_once():
    batches = EpochBatches(7, 3, seed=2)
    assert sorted(key.image for batch in batches for key in batch) == list(range(7))
    assert batches.order(0) != batches.order(1)
    assert batches.order(0) == EpochBatches(7, 3, seed=2).order(0)
    assert len(batches) == 3


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_together_are_the_batches(world_size):
    whole = list(EpochBatches(8, 6, seed=0))
    parts = [EpochBatches(8, 6, seed=0, rank=r, world_size=world_size) for r in range(world_size)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert sorted(key for share in shares for key in share) == sorted(batch)
