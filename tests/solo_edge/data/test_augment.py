"""Augmentation: masks follow the picture exactly, boxes fit, nothing is left to chance but the seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from solo_edge.config import TrainConfig
from solo_edge.data.augment import Sample, plain_sample, training_sample
from solo_edge.data.coco import open_dataset
from solo_edge.data.masks import GroundTruth
from solo_edge.preprocess import Preprocess

PREPROCESS = Preprocess((96, 160), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NO_COLOURS = TrainConfig(brightness=0, contrast=0, saturation=0, hue=0)
STILL = dataclasses.replace(NO_COLOURS, flip=0.0, jitter=(1.0, 1.0))
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def scene(size: tuple[int, int] = (120, 200)) -> tuple[np.ndarray, GroundTruth]:
    """Black with four objects in pure colours: what the picture shows can be read back from it."""
    height, width = size
    image = np.zeros((height, width, 3), dtype=np.uint8)
    masks = np.zeros((4, height, width), dtype=np.uint8)
    unit = min(size) // 12
    cv2.ellipse(masks[0], (3 * unit, 3 * unit), (2 * unit, unit), 30, 0, 360, 1, -1)
    cv2.fillPoly(masks[1], [np.array([[9, 1], [11, 9], [7, 7]]) * unit], 1)
    cv2.circle(masks[2], (width - 3 * unit, 4 * unit), 2 * unit, 1, -1)
    # Two parts, as a polygon annotation may have.
    cv2.rectangle(masks[3], (unit, 9 * unit), (3 * unit, 11 * unit), 1, -1)
    cv2.rectangle(masks[3], (5 * unit, 9 * unit), (6 * unit, 11 * unit), 1, -1)
    for i, (mask, colour) in enumerate(zip(masks, COLOURS, strict=True)):
        image[mask == 1] = colour
        masks[:i][:, mask == 1] = 0  # what is covered is not seen
    return image, GroundTruth.from_masks(masks, [0, 1, 2, 3])


def seen(sample: Sample) -> np.ndarray:
    """[3, H, W] the colours that the network sees, 0..255; the padding is the mean colour."""
    mean, std = (
        np.array(values)[:, None, None] for values in (PREPROCESS.pixel_mean, PREPROCESS.pixel_std)
    )
    return sample.image * std + mean


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def tight(mask: np.ndarray) -> list[float]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def make(seed: int, config: TrainConfig = NO_COLOURS, size: tuple[int, int] = (120, 200)) -> Sample:
    return training_sample(*scene(size), PREPROCESS, config, np.random.default_rng(seed), 5)


@pytest.mark.parametrize("size", [(480, 800), (960, 800), (300, 1000)])
def test_masks_follow_the_picture(size: tuple[int, int]) -> None:
    config = dataclasses.replace(NO_COLOURS, jitter=(0.5, 2.0))
    preprocess = dataclasses.replace(PREPROCESS, input_size=(384, 640))
    image, truth = scene(size)
    lowest, doubts = 1.0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        sample = training_sample(image, truth, preprocess, config, rng, 5)
        shown = seen(sample)
        for mask, label in zip(sample.masks, sample.labels, strict=True):
            # A pixel belongs to the object if it is nearer to its colour than to black; where it is
            # half of each, at the edges, both answers are right. Padding belongs to nothing.
            wanted = np.array(COLOURS[label])[:, None, None] > 127
            drawn = ((shown > 127.5) == wanted).all(axis=0)
            doubtful = ((np.abs(shown - 127.5) < 20) & (sample.image != 0)).any(axis=0)
            lowest = min(lowest, iou((mask == 1)[~doubtful], drawn[~doubtful]))
            doubts.append(np.mean(doubtful[mask == 1]))
    assert len(doubts) > 100
    assert np.median(doubts) < 0.05
    assert lowest > 0.985


def test_sample_is_consistent() -> None:
    for seed in range(60):
        sample = make(seed, TrainConfig(jitter=(0.3, 3.0)))
        assert sample.image.shape == (3, 96, 160)
        assert sample.image.dtype == np.float32
        assert sample.masks.dtype == np.uint8
        assert sample.boxes.dtype == np.float32
        assert sample.labels.dtype == np.int64
        assert sample.image_id == 5
        assert sample.masks.shape == (len(sample.labels), 96, 160)
        assert sample.boxes.shape == (len(sample.labels), 4)
        assert set(np.unique(sample.masks)) <= {0, 1}
        for mask, box in zip(sample.masks, sample.boxes, strict=True):
            assert mask.sum() >= 4
            assert box.tolist() == tight(mask)


def test_flip_is_exact() -> None:
    plain = make(0, STILL)
    flipped = make(0, dataclasses.replace(STILL, flip=1.0))
    np.testing.assert_array_equal(plain.labels, flipped.labels)
    width = 160  # the scene fills the input
    np.testing.assert_array_equal(flipped.masks, plain.masks[:, :, ::-1])
    np.testing.assert_array_equal(flipped.boxes[:, 0], width - plain.boxes[:, 2])
    difference = np.abs(seen(flipped) - seen(plain)[:, :, ::-1])
    assert difference.max() <= 1.01


def test_nothing_switched_on_is_the_device_sample() -> None:
    for size in ((96, 160), (120, 200), (50, 50), (97, 300), (11, 7)):
        image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = np.zeros((1, *size), dtype=np.uint8)
        mask[0, 2:-2, 1:-1] = 1
        truth = GroundTruth.from_masks(mask, [0])
        still = training_sample(image, truth, PREPROCESS, STILL, np.random.default_rng(0), 1)
        plain = plain_sample(image, truth, PREPROCESS, 1)
        for field in ("image", "masks", "boxes", "labels"):
            np.testing.assert_array_equal(getattr(still, field), getattr(plain, field))


def test_plain_sample_is_what_the_device_sees() -> None:
    for size in ((96, 160), (480, 640), (30, 40), (1000, 90)):
        image, truth = scene(size)
        sample = plain_sample(image, truth, PREPROCESS, 8)
        tensor, geometry = PREPROCESS(image)
        np.testing.assert_array_equal(sample.image, tensor)
        height, width = geometry.resized_size
        assert sample.image_id == 8
        assert not sample.masks[:, height:].any()
        assert not sample.masks[:, :, width:].any()
        for mask, label in zip(sample.masks, sample.labels, strict=True):
            full = truth.masks[label]
            resized = cv2.resize(full, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            np.testing.assert_array_equal(mask[:height, :width], resized)


def test_same_seed_same_sample() -> None:
    config = TrainConfig()
    for seed in range(5):
        first, again, other = make(seed, config), make(seed, config), make(seed + 100, config)
        for field in ("image", "masks", "boxes", "labels"):
            np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
        assert not np.array_equal(first.image, other.image)


def test_geometry_does_not_depend_on_the_colours() -> None:
    for seed in range(5):
        np.testing.assert_array_equal(make(seed).masks, make(seed, TrainConfig()).masks)


def test_inputs_are_left_alone() -> None:
    image, truth = scene()
    copies = image.copy(), truth.masks, truth.boxes.copy()
    image.setflags(write=False)
    for seed in range(5):
        training_sample(image, truth, PREPROCESS, TrainConfig(), np.random.default_rng(seed), 0)
    plain_sample(image, truth, PREPROCESS, 0)
    for before, after in zip(copies, (image, truth.masks, truth.boxes), strict=True):
        np.testing.assert_array_equal(before, after)


def test_smaller_image_lies_top_left() -> None:
    sample = make(3, dataclasses.replace(STILL, jitter=(0.5, 0.5)))
    assert (sample.image[:, 48:] == 0).all()
    assert (sample.image[:, :, 80:] == 0).all()
    assert not sample.masks[:, 48:].any()
    assert sample.masks[:, :48, :80].any()


def test_jitter_covers_its_range() -> None:
    """Object 2 (a circle) shows the scale wherever it is whole: its width is that of the circle."""
    original = make(0, STILL).boxes[2]
    whole = original[2] - original[0]
    config = dataclasses.replace(STILL, jitter=(0.5, 1.0))
    factors = []
    for seed in range(200):
        box = make(seed, config).boxes[2]
        factors.append((box[2] - box[0]) / whole)
    assert 0.48 < min(factors) < 0.56
    assert 0.95 < max(factors) < 1.03
    # Uniform in the logarithm: half of them below the geometric mean.
    assert 0.35 < np.mean(np.array(factors) < np.sqrt(0.5)) < 0.65


def test_crops_reach_every_corner() -> None:
    config = dataclasses.replace(STILL, jitter=(2.0, 2.0))
    tops, lefts = set(), set()
    for seed in range(200):
        sample = make(seed, config)
        shown = dict(zip(sample.labels.tolist(), sample.boxes.tolist(), strict=True))
        tops |= {round(shown[0][1])} if 0 in shown else set()
        lefts |= {round(shown[0][0])} if 0 in shown else set()
    assert min(tops) == 0
    assert min(lefts) == 0
    assert len(tops) > 20


def test_barely_visible_instances_are_dropped() -> None:
    """A tall bar at the left edge: the window shows all, some or none of it."""
    image = np.zeros((96, 160, 3), dtype=np.uint8)
    mask = np.zeros((1, 96, 160), dtype=np.uint8)
    mask[0, :, :40] = 1
    image[mask[0] == 1] = (0, 255, 0)
    truth = GroundTruth.from_masks(mask, [0])
    config = dataclasses.replace(STILL, jitter=(2.0, 2.0))
    outcomes = {True: 0, False: 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sample = training_sample(image, truth, PREPROCESS, config, rng, 0)
        visible = ((seen(sample)[1] > 127.5) & (seen(sample)[0] < 1)).sum()
        share = visible / (mask.sum() * 4)
        if abs(share - 0.1) > 0.01:
            assert (len(sample.labels) == 1) == (share > 0.1)
            outcomes[share > 0.1] += 1
    assert min(outcomes.values()) > 10


def test_vanishing_instances_are_dropped() -> None:
    masks = np.zeros((3, 960, 1600), dtype=np.uint8)
    masks[0, 400:500, 400:500] = 1
    masks[1, 401, 401] = 1  # a tenth of a pixel
    masks[2, 7:27, 7:17] = 1  # one or two pixels
    truth = GroundTruth.from_masks(masks, [4, 5, 6])
    image = np.zeros((960, 1600, 3), dtype=np.uint8)
    assert plain_sample(image, truth, PREPROCESS, 0).labels.tolist() == [4, 6]
    trained = training_sample(image, truth, PREPROCESS, STILL, np.random.default_rng(0), 0)
    assert trained.labels.tolist() == [4]


def test_no_instances() -> None:
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    truth = GroundTruth.from_masks(np.zeros((0, 50, 60), dtype=np.uint8), [])
    for sample in (
        plain_sample(image, truth, PREPROCESS, 0),
        training_sample(image, truth, PREPROCESS, TrainConfig(), np.random.default_rng(0), 0),
    ):
        assert sample.masks.shape == (0, 96, 160)
        assert sample.boxes.shape == (0, 4)
        assert sample.labels.shape == (0,)


def test_colours_change_as_configured() -> None:
    """On one colour each: brightness multiplies, saturation keeps the strongest channel, hue turns."""
    colour = np.array([200, 100, 60], dtype=np.uint8)
    image = np.broadcast_to(colour, (96, 160, 3)).copy()
    truth = GroundTruth.from_masks(np.zeros((0, 96, 160), dtype=np.uint8), [])

    def shown(**options: float) -> np.ndarray:
        config = dataclasses.replace(STILL, **options)
        found = []
        for seed in range(40):
            sample = training_sample(
                image, truth, PREPROCESS, config, np.random.default_rng(seed), 0
            )
            found.append(seen(sample)[:, 0, 0])
        return np.array(found)

    factors = shown(brightness=0.25) / colour
    assert np.ptp(factors, axis=1).max() < 0.02
    assert 0.74 < factors.min() < 0.85
    assert 1.15 < factors.max() < 1.26

    saturated = shown(saturation=0.5)
    assert np.abs(saturated[:, 0] - 200).max() < 1.1  # the value of HSV stays
    assert np.ptp(saturated[:, 2]) > 40

    turned = shown(hue=0.1)
    assert np.abs(turned.max(axis=1) - 200).max() < 2.1
    assert np.ptp(turned[:, 1]) > 40

    contrasted = shown(contrast=0.5)  # of one colour only the distance to its own gray changes
    gray = colour @ np.array([0.299, 0.587, 0.114])
    spread = (contrasted[:, 0] - gray) / (200 - gray)
    assert 0.45 < spread.min() < 0.7
    assert np.abs((contrasted[:, 2] - gray) / (60 - gray) - spread).max() < 0.03


def test_wrong_sizes_are_refused() -> None:
    image, truth = scene()
    with pytest.raises(ValueError, match="ground truth"):
        plain_sample(image[1:], truth, PREPROCESS, 0)
    with pytest.raises(ValueError, match="uint8"):
        plain_sample(image.astype(np.float32), truth, PREPROCESS, 0)


def test_real_images(shared: Path) -> None:
    dataset = open_dataset(shared / "data/nuclei_dsb2018", "val")
    kept = total = 0
    for index in range(0, len(dataset), 6):
        image, truth = dataset.image(index), dataset.ground_truth(index)
        rng = np.random.default_rng(index)
        sample = training_sample(image, truth, PREPROCESS, TrainConfig(), rng, 0)
        kept, total = kept + len(sample.labels), total + len(truth)
        assert np.isfinite(sample.image).all()
        for mask, box in zip(sample.masks, sample.boxes, strict=True):
            assert box.tolist() == tight(mask)
    assert kept > 0.4 * total
