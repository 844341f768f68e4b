"""Fingerprints: frames of one video nearly share them, different pictures do not."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from solo_edge.data.fingerprint import NEAR, distance, fingerprint
from solo_edge.images import list_images, read_image


def picture(seed: int) -> np.ndarray:
    """Large soft blobs, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: cv2.resize(image, (640, 480), interpolation=cv2.INTER_LINEAR),
        lambda image: cv2.convertScaleAbs(image, alpha=0.8, beta=10),
        lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [1, 60])[1], cv2.IMREAD_COLOR),
        lambda image: np.roll(image, 1, axis=1),
    ],
    ids=["larger", "darker", "compressed", "moved"],
)
def test_small_changes_keep_an_image_near(change):
    for seed in range(5):
        image = picture(seed)
        assert distance(fingerprint(change(image)), [fingerprint(image)]) <= NEAR


def test_different_images_are_far():
    prints = [fingerprint(picture(seed)) for seed in range(60)]
    pairs = [distance(one, prints[:i]) for i, one in enumerate(prints) if i]
    assert min(pairs) > 2 * NEAR


def test_an_image_of_any_size_has_one():
    for size in ((1, 1), (1, 300), (3, 2)):
        assert fingerprint(np.zeros((*size, 3), np.uint8)) == 0


def test_nothing_is_near_to_nothing():
    assert distance(0, []) == 128
    assert distance(0b1011, [0b1000, 0b0]) == 2


def test_photographs_are_far_and_frames_of_a_video_near(shared):
    files = list_images(shared / "data/coco_train2017_287/train")[:80]
    prints = [fingerprint(read_image(file)) for file in files]
    assert min(distance(one, prints[:i]) for i, one in enumerate(prints) if i) > NEAR
    video = cv2.VideoCapture(str(shared / "data/videos/intel_one-by-one-person-detection.mp4"))
    frames = [fingerprint(video.read()[1]) for _ in range(20)]
    assert all(distance(one, [other]) <= NEAR for one, other in itertools.pairwise(frames))
