"""Distances are Euclidean in OKLab (bottosson.github.io/posts/oklab) x 100: about 2 can just be seen."""

from __future__ import annotations

import numpy as np
import pytest

from solo_edge.draw import instance_colors
from solo_edge.draw.palette import PALETTE, TRACK_COLORS, UNSURE, ink_on

# Machado, Oliveira, Fernandes 2009, severity 1.0; of linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# The palette's first seven colours are given; the least difference that normal vision has to see is
# counted half.
OKABE_ITO, NORMAL_SHARE = 7, 0.5


def linear(rgb):
    values = np.asarray(rgb, dtype=float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def oklab(linear_rgb):
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear_rgb @ np.transpose(to_cones)) @ np.transpose(to_lab)


def seen(rgb):
    """[visions, N, 3]: what each kind of eye sees."""
    return np.stack([oklab(np.clip(linear(rgb) @ m.T, 0, 1)) for m in VISIONS.values()])


def distances(one, other):
    """[visions, N, M]."""
    return 100 * np.linalg.norm(seen(one)[:, :, None] - seen(other)[:, None], axis=-1)


def closest(rgb):
    """For each kind of eye the distance of the two colours that it confuses most easily."""
    apart = distances(rgb, rgb)
    apart[:, np.arange(len(rgb)), np.arange(len(rgb))] = np.inf
    return dict(zip(VISIONS, apart.min(axis=(1, 2)), strict=True))


@pytest.mark.parametrize(
    ("count", "normal", "impaired"),
    [
        (7, 15.5, 7.6),
        (12, 15.5, 7.5),
        (16, 14.5, 7.4),
        (TRACK_COLORS, 10.8, 5.6),
        (40, 8.4, 4.4),
        (80, 5.7, 2.8),
    ],
)
def test_every_eye_tells_the_colors_apart(count, normal, impaired):
    found = closest(PALETTE[:count])
    assert found.pop("normal") >= normal
    assert min(found.values()) >= impaired


def test_the_table_is_what_its_documentation_says():
    grid = np.arange(0, 256, 17)
    candidates = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, a, b = oklab(linear(candidates)).T
    vivid = (lightness >= 0.42) & (lightness <= 0.93) & (np.hypot(a, b) >= 0.05)
    candidates = candidates[vivid]
    weights = np.array([NORMAL_SHARE, 1, 1, 1])[:, None, None]
    taken = [UNSURE, *PALETTE[:OKABE_ITO].tolist()]
    nearest = (weights * distances(candidates, taken)).min(axis=(0, 2))
    for color in PALETTE[OKABE_ITO:]:
        farthest = candidates[nearest.argmax()]
        np.testing.assert_array_equal(color, farthest)
        nearest = np.minimum(
            nearest, (weights * distances(candidates, farthest[None])).min(axis=(0, 2))
        )


def test_no_color_is_that_of_the_unsure():
    assert distances(PALETTE, [UNSURE]).min() > 2.8


def test_letters_can_be_read_on_every_plate():
    for color in (*map(tuple, PALETTE.tolist()), UNSURE):
        plate, ink = (linear(c) @ [0.2126, 0.7152, 0.0722] + 0.05 for c in (color, ink_on(color)))
        assert max(plate, ink) / min(plate, ink) >= 4.5  # WCAG 2, level AA


def test_a_color_depends_on_the_class_alone(make):
    boxes = [(0, 0, 5, 5), (6, 6, 9, 9), (20, 0, 30, 9)]
    several = instance_colors(make((10, 40), boxes, [1, 0, 1]))
    np.testing.assert_array_equal(several, PALETTE[[1, 0, 1]])
    np.testing.assert_array_equal(instance_colors(make((10, 40), boxes[2:], [1])), PALETTE[[1]])


def test_a_track_keeps_its_color_and_others_have_another(make):
    boxes = [(i, 0, i + 1, 5) for i in range(TRACK_COLORS)]
    ids = np.arange(101, 101 + TRACK_COLORS)
    first = make((10, 40), boxes, np.arange(TRACK_COLORS) % 5, track_ids=ids)
    colors = instance_colors(first)
    assert len({tuple(color) for color in colors}) == TRACK_COLORS
    # Another place, order and class, and others gone.
    later = make((10, 40), boxes[:3], [4, 4, 4], track_ids=ids[[7, 2, 5]])
    np.testing.assert_array_equal(instance_colors(later), colors[[7, 2, 5]])


def test_what_is_not_tracked_surely_is_gray(make):
    found = make((10, 40), [(0, 0, 5, 5), (6, 6, 9, 9)], [1, 1], track_ids=[0, 1])
    np.testing.assert_array_equal(instance_colors(found), [UNSURE, PALETTE[0]])
    assert instance_colors(make((10, 40), [], track_ids=[])).shape == (0, 3)
