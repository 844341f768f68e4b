from __future__ import annotations

import itertools

import numpy as np
import pytest

from solo_edge.draw import (
    PALETTE,
    _fitting_text,
    _place,
    _Rectangle,
    draw_instances,
    draw_status,
    instance_colors,
)
from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry

GRAY = 100
NAMES = ("cat", "traffic light", "Äpfel", "a\nb", "")


def make(size, boxes, labels=None, masks=None):
    """Instances with rectangular masks (left, top, right, bottom), best first."""
    if masks is None:
        masks = np.zeros((len(boxes), *size), dtype=bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[top:bottom, left:right] = True
    count = len(boxes)
    labels = np.zeros(count, dtype=int) if labels is None else np.array(labels)
    scores = np.linspace(0.9, 0.3, count)
    return Instances(scores, labels, masks, class_names=NAMES, image_size=size)


def gray(size):
    return np.full((*size, 3), GRAY, dtype=np.uint8)


def test_tint_and_outline_are_where_the_mask_is():
    image = gray((60, 80))
    found = make((60, 80), [(10, 20, 50, 40)])
    drawn = draw_instances(image, found, labels=False)
    color = PALETTE[0]
    assert drawn.dtype == np.uint8
    assert (drawn[~found.masks[0]] == GRAY).all()
    np.testing.assert_allclose(drawn[30, 30], (GRAY + color) / 2, atol=1)
    for y, x in ((20, 30), (39, 30), (30, 10), (30, 49)):  # just inside each border
        np.testing.assert_allclose(drawn[y, x], color, atol=1)
    assert (image == GRAY).all()


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_alpha(alpha):
    drawn = draw_instances(
        gray((60, 80)), make((60, 80), [(10, 20, 50, 40)]), alpha=alpha, labels=False
    )
    np.testing.assert_allclose(drawn[30, 30], (1 - alpha) * GRAY + alpha * PALETTE[0], atol=1)


def test_the_better_of_two_is_in_front():
    found = make((60, 80), [(0, 0, 40, 40), (20, 20, 70, 60)], [0, 1])
    drawn = draw_instances(gray((60, 80)), found, labels=False)
    np.testing.assert_allclose(drawn[30, 30], (GRAY + PALETTE[0]) / 2, atol=1)
    np.testing.assert_allclose(drawn[50, 50], (GRAY + PALETTE[1]) / 2, atol=1)


def test_nothing_found_gives_a_copy():
    image = gray((20, 30))
    drawn = draw_instances(image, make((20, 30), []))
    assert (drawn == image).all()
    assert drawn is not image


def test_an_empty_mask_draws_nothing():
    found = make((60, 80), [(5, 5, 5, 5)])
    assert (draw_instances(gray((60, 80)), found) == GRAY).all()


def test_lazy_masks_look_like_ready_ones():
    y, x = np.mgrid[:16, :20]
    centres = [(4, 5), (9, 12), (14, 3)]
    blobs = [np.exp(-np.hypot(y - a, x - b) / 3) for a, b in centres]
    probabilities = np.array(blobs, dtype=np.float32)
    lazy = LazyMasks(probabilities, Geometry((90, 131), (55, 80), (64, 80)), 0.4)
    first = make((90, 131), centres, [0, 1, 0], masks=lazy)
    second = make((90, 131), centres, [0, 1, 0], masks=lazy.render())
    image = gray((90, 131))
    np.testing.assert_array_equal(draw_instances(image, first), draw_instances(image, second))


def test_more_instances_than_a_byte_counts():
    boxes = [(x, y, x + 3, y + 3) for y in range(0, 80, 4) for x in range(0, 80, 4)]
    assert len(boxes) > 255
    labels = np.arange(len(boxes)) % 2
    found = make((80, 80), boxes, labels)
    drawn = draw_instances(gray((80, 80)), found, labels=False)
    positions = [left + right for left, _, right, _ in boxes]
    colors = instance_colors(labels, np.array(positions))
    for (x, y, _, _), color in zip(boxes, colors, strict=True):
        np.testing.assert_allclose(drawn[y + 1, x + 1], (GRAY + color.astype(float)) / 2, atol=1)


@pytest.mark.parametrize(
    "size", [(1, 1), (8, 8), (20, 30), (64, 64), (5, 900), (900, 5), (720, 1280)]
)
def test_any_size_is_fine(size):
    height, width = size
    boxes = [(0, 0, width, height), (width // 2, height // 2, width, height), (0, 0, 1, 1)]
    found = make(size, boxes, [1, 2, 3])
    assert draw_instances(gray(size), found).shape == (*size, 3)
    assert draw_status(gray(size), "31.0 FPS").shape == (*size, 3)


def test_names_are_written_above_their_box():
    size, box = (200, 300), (100, 80, 200, 160)
    found = make(size, [box])
    plain = draw_instances(gray(size), found, labels=False)
    drawn = draw_instances(gray(size), found)
    rows, columns = np.nonzero((plain != drawn).any(axis=-1))
    assert 60 < rows.min() < rows.max() < 80
    assert columns.min() == 100
    assert 140 < columns.max() < 180
    plate = drawn[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    dark = (plate.max(axis=-1) < 60).mean()
    assert 0.05 < dark < 0.5  # black letters on the plate


def test_names_stay_inside_and_apart():
    size = (120, 160)
    patch = (16, 50)
    boxes = [
        (0, 0, 160, 120),
        (150, 0, 160, 10),
        (0, 110, 10, 120),
        (5, 1, 9, 119),
        (60, 50, 70, 60),
    ]
    taken = []
    for box in boxes:
        spot = _place(np.array(box), patch, size, taken)
        assert 0 <= spot.left < spot.right <= 160
        assert 0 <= spot.top < spot.bottom <= 120
        taken.append(spot)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(taken, 2))


def test_a_name_without_room_is_left_out():
    everywhere = [_Rectangle(0, 0, 80, 60)]
    assert _place(np.array([10, 20, 50, 40]), (12, 30), (60, 80), everywhere) is None


def test_a_crowd_of_small_objects_has_no_names():
    size = (200, 200)
    boxes = [(x, y, x + 12, y + 12) for x in range(4, 190, 36) for y in range(4, 190, 36)]
    crowd, few = make(size, boxes), make(size, boxes[:3])
    for found, named in ((crowd, False), (few, True)):
        plain = draw_instances(gray(size), found, labels=False)
        assert np.array_equal(draw_instances(gray(size), found), plain) is not named
    large = make(size, [*boxes, (0, 0, 200, 200)])  # a name fits on this one
    assert not np.array_equal(
        draw_instances(gray(size), large), draw_instances(gray(size), large, labels=False)
    )


def test_rectangles_that_touch_do_not_overlap():
    a = _Rectangle(0, 0, 10, 10)
    assert not a.overlaps(_Rectangle(10, 0, 20, 10))
    assert not a.overlaps(_Rectangle(0, 10, 10, 20))
    assert a.overlaps(_Rectangle(9, 9, 20, 20))


def test_long_names_are_cut_but_their_score_is_kept():
    whole = _fitting_text("motorcycle", " 0.87", 14, 100, 1000)
    cut = _fitting_text("motorcycle", " 0.87", 14, 100, 70)
    assert cut.shape[1] <= 70 < whole.shape[1]
    tail = _fitting_text("", " 0.87", 14, 100, 1000)
    np.testing.assert_array_equal(cut[:, -20:], tail[:, -20:])
    assert _fitting_text("motorcycle", " 0.87", 14, 100, 10) is None
    assert _fitting_text("motorcycle", " 0.87", 14, 10, 1000) is None


def test_names_in_other_alphabets_and_with_control_characters():
    for name in ("Äpfel", "苹果", "a\nb\x00", "", "…"):
        patch = _fitting_text(name, " 0.87", 14, 100, 1000)
        assert patch.shape[0] < 40
        assert patch.max() > 200


def test_colors_tell_classes_and_neighbours_apart():
    colors = instance_colors(np.arange(7), np.zeros(7))
    assert len({tuple(color) for color in colors}) == 7
    # Five of one class, given in any order, get five shades by their place.
    positions = np.array([30.0, 10.0, 50.0, 20.0, 40.0])
    shades = instance_colors(np.zeros(5, dtype=int), positions)
    assert len({tuple(shade) for shade in shades}) == 5
    order = np.argsort(positions)
    np.testing.assert_array_equal(
        shades[order], instance_colors(np.zeros(5, dtype=int), np.arange(5))
    )
    # The first class that shares a hue looks different.
    assert (instance_colors(np.array([0]), np.zeros(1)) != instance_colors([7], np.zeros(1))).any()


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="image must be"):
        draw_instances(gray((10, 10)), make((20, 10), [(0, 0, 5, 5)]))
    with pytest.raises(ValueError, match="image must be"):
        draw_instances(gray((20, 10)).astype(float), make((20, 10), [(0, 0, 5, 5)]))


def test_status_is_in_the_corner():
    image = gray((200, 300))
    drawn = draw_status(image, "31.0 FPS")
    changed = (drawn != image).any(axis=-1)
    assert changed[0, 0]
    assert not changed[30:].any()
    assert not changed[:, 100:].any()
    assert drawn[:25, :90].max() > 240
    assert (image == GRAY).all()
