"""Mosaics and pasted instances: what the picture shows is what the masks say."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.augment import plain_sample
from solo_edge.data.masks import GroundTruth
from solo_edge.data.mixing import copy_paste, mosaic, mosaic_tiles
from solo_edge.data.samples import SampleMaker
from solo_edge.data.sampling import SampleKey
from solo_edge.preprocess import Preprocess

SIZE = (96, 160)
PREPROCESS = Preprocess(SIZE, (128.0,) * 3, (128.0,) * 3)
COLOURS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])
STILL = TrainConfig(
    brightness=0, contrast=0, saturation=0, hue=0, flip=0, jitter=(1, 1), epochs=10, close_mosaic=0
)
MODEL = ModelConfig(input_size=SIZE, pixel_mean=(128.0,) * 3, pixel_std=(128.0,) * 3)


class Scenes:
    """Five black pictures with shapes, those of one class in one pure colour."""

    image_ids = (10, 11, 12, 13, 14)

    def __len__(self):
        return 5

    def scene(self, index):
        rng = np.random.default_rng(index)
        height, width = SIZE if index % 2 else (120, 100)
        image, masks = np.zeros((height, width, 3), np.uint8), []
        labels = [0, 1, 2, 3] if index else []  # the first picture is empty
        for label in labels:
            x, y = rng.integers(15, (width - 15, height - 15)).tolist()
            mask = np.zeros((height, width), np.uint8)
            cv2.ellipse(mask, (x, y), (14, 8 + label), int(rng.integers(180)), 0, 360, 1, -1)
            image[mask == 1] = COLOURS[label]
            masks = [other * (1 - mask) for other in masks] + [mask]
        kept = [(mask, label) for mask, label in zip(masks, labels, strict=True) if mask.any()]
        stack = (
            np.stack([mask for mask, _ in kept]) if kept else np.zeros((0, height, width), np.uint8)
        )
        return image, GroundTruth.from_masks(stack, [label for _, label in kept])

    def image(self, index):
        return self.scene(index)[0]

    def ground_truth(self, index):
        return self.scene(index)[1]


def plain(index):
    return plain_sample(*Scenes().scene(index), PREPROCESS, Scenes.image_ids[index])


def require_consistent(sample, *, doubtful_share=0.2, some_are_dropped=False):
    """Each class's colour is seen where its masks are and nowhere else, edges apart; boxes are tight."""
    shown = sample.image.transpose(1, 2, 0) * 128 + 128
    padding = (sample.image == 0).all(axis=0)
    for label, colour in enumerate(COLOURS):
        drawn = ((shown > 127.5) == (colour > 127)).all(axis=2) & ~padding
        doubtful = (np.abs(shown - 127.5) < 100).any(axis=2)
        masks = sample.masks[sample.labels == label].any(axis=0)
        wrong = masks & ~drawn if some_are_dropped else masks != drawn
        assert not wrong[~doubtful].any()
        assert doubtful[masks].mean() < doubtful_share if masks.any() else True
    assert (sample.masks.sum(axis=0) <= 1).all()  # who is hidden is not seen
    for mask, box in zip(sample.masks, sample.boxes, strict=True):
        rows, columns = np.nonzero(mask)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert box.tolist() == tight


@pytest.mark.parametrize("seed", range(8))
def test_pasted_instances_hide_what_is_below(seed):
    below, above = plain(1), plain(3)
    sample = copy_paste(below, above, np.random.default_rng(seed))
    require_consistent(sample)
    pasted = len(sample.labels) - len(below.labels)
    assert -3 < pasted <= 4
    assert sample.image_id == below.image_id
    changed = (sample.image != below.image).any(axis=0)
    last = sample.masks[len(sample.labels) - max(pasted, 1) :].any(axis=0)
    assert last.any()
    assert not (changed & ~above.masks.any(axis=0)).any()


def test_at_least_one_is_pasted_and_never_on_the_padding():
    narrow, wide = plain(2), plain(1)  # the narrow picture ends at column 80
    assert narrow.extent == (96, 80)
    for seed in range(20):
        sample = copy_paste(narrow, wide, np.random.default_rng(seed))
        assert (sample.image[:, :, 80:] == 0).all()
        assert not sample.masks[:, :, 80:].any()
        require_consistent(sample)
    for seed in range(20):
        sample = copy_paste(wide, plain(3), np.random.default_rng(seed))
        assert not np.array_equal(sample.image, wide.image)


def test_instances_that_are_covered_are_dropped():
    """A bar of which the pasted square leaves 9 or 11 percent."""
    for left_over, kept in ((9, 1), (11, 2)):
        masks = np.zeros((1, *SIZE), np.uint8)
        masks[0, :2, :100] = 1
        square = np.zeros((1, *SIZE), np.uint8)
        square[0, :50, : 100 - left_over] = 1
        image = np.zeros((*SIZE, 3), np.uint8)
        below = plain_sample(image, GroundTruth.from_masks(masks, [3]), PREPROCESS, 0)
        above = plain_sample(image, GroundTruth.from_masks(square, [1]), PREPROCESS, 0)
        sample = copy_paste(below, above, np.random.default_rng(0))
        assert sample.labels.tolist() == [3, 1][-kept:]
        assert sample.masks.sum(axis=(1, 2)).tolist() == [2 * left_over, square.sum()][-kept:]


def test_nothing_to_paste():
    sample = plain(1)
    assert copy_paste(sample, plain(0), np.random.default_rng(0)) is sample
    onto_nothing = copy_paste(plain(0), plain(1), np.random.default_rng(0))
    require_consistent(onto_nothing)
    assert len(onto_nothing.labels) > 0


def test_tiles_cover_the_input():
    corners = set()
    for seed in range(50):
        tiles = mosaic_tiles(SIZE, np.random.default_rng(seed))
        covered = np.zeros(SIZE, int)
        for top, left, height, width in tiles:
            covered[top : top + height, left : left + width] += 1
        assert (covered == 1).all()
        corners.add(tiles[3][:2])
    assert len(corners) > 40
    with pytest.raises(ValueError, match="does not fit"):
        mosaic([plain(1)] * 4, tiles)


@pytest.mark.parametrize("jitter", [(1.0, 1.0), (0.4, 2.0)])
def test_mosaics_and_pastes_of_varied_pictures(jitter):
    config = dataclasses.replace(STILL, jitter=jitter, flip=0.5, mosaic=0.5, copy_paste=0.5)
    maker = SampleMaker(Scenes(), MODEL, config)
    counts = []
    for epoch in range(5):
        for i in range(5):
            sample = maker(SampleKey(epoch % 2, i, epoch))
            require_consistent(sample, doubtful_share=0.6, some_are_dropped=True)
            assert sample.image_id == Scenes.image_ids[i]
            counts.append(len(sample.labels))
    assert max(counts) > 4


def test_a_sample_depends_on_its_key_alone():
    config = dataclasses.replace(TrainConfig(epochs=10, close_mosaic=0), mosaic=0.5, copy_paste=0.5)
    keys = [SampleKey(e, i, r) for e in range(2) for i in range(5) for r in range(2)]
    one, two = (SampleMaker(Scenes(), MODEL, config) for _ in range(2))
    first = {key: one(key).image for key in keys}
    for key in reversed(keys):
        np.testing.assert_array_equal(first[key], two(key).image)
    assert len({image.tobytes() for image in first.values()}) > len(keys) - 3


def test_mosaics_end_before_the_run_does():
    config = dataclasses.replace(STILL, mosaic=1.0, close_mosaic=4)
    reads: list[int] = []
    maker = SampleMaker(Scenes(), MODEL, config, reads.append)
    shown = []
    for epoch in range(10):
        reads.clear()
        maker(SampleKey(epoch, 2, 0))
        shown.append(len(reads))
    assert shown == [4] * 6 + [1] * 4


def test_one_option_does_not_change_another():
    """The picture of a sample that is no mosaic is the same whether mosaics are on or not."""
    off = SampleMaker(Scenes(), MODEL, TrainConfig(epochs=50))
    on = SampleMaker(Scenes(), MODEL, TrainConfig(epochs=50, mosaic=0.5))
    same = [
        np.array_equal(off(SampleKey(e, 1, 0)).image, on(SampleKey(e, 1, 0)).image)
        for e in range(30)
    ]
    assert 5 < sum(same) < 25
