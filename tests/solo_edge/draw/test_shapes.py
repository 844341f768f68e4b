from __future__ import annotations

import itertools

import numpy as np
import pytest

from solo_edge.draw import Shape, draw_shapes

SQUARE = np.array([(100, 60), (200, 60), (200, 160), (100, 160)], dtype=np.float32)


def test_a_zone_is_lighter_inside_and_has_a_white_line_between_dark_ones(gray):
    image = gray((240, 320))
    drawn = draw_shapes(image, [Shape("", SQUARE, closed=True)])
    np.testing.assert_allclose(drawn[110, 150], 100 + 0.12 * 155, atol=1)
    assert (drawn[110, 20] == 100).all()
    row = drawn[110, 95:106].max(axis=-1)
    assert row[5] > 220
    assert row.min() < 60
    assert (image == 100).all()


def test_a_line_is_open_and_fills_nothing(gray):
    drawn = draw_shapes(gray((240, 320)), [Shape("", SQUARE, closed=False)])
    assert (drawn[110, 150] == 100).all()
    assert (drawn[110, 95:106] == 100).all()  # between the last point and the first
    assert drawn[110, 200].max() > 220


def test_name_and_text_are_written(gray):
    image = gray((240, 320))
    pictures = [
        draw_shapes(image, [Shape(name, SQUARE, closed, text)])
        for closed in (True, False)
        for name, text in (("", ""), ("door", ""), ("door", "in 3"), ("door", "in 4"))
    ]
    for four in (pictures[:4], pictures[4:]):
        assert all((a != b).any() for a, b in itertools.pairwise(four))


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    "points",
    [
        np.zeros((0, 2), dtype=np.float32),
        np.array([(5, 5)], dtype=np.float32),
        np.array([(-1e9, -1e9), (1e9, 1e9), (1e9, -5)], dtype=np.float32),
        np.array([(-90, -80), (-20, -70), (-30, -5)], dtype=np.float32),
        np.array([(900, 10), (950, 10), (930, 70)], dtype=np.float32),
    ],
)
def test_any_points_are_fine(points, closed, gray):
    for size in ((1, 1), (30, 900), (240, 320)):
        drawn = draw_shapes(gray(size), [Shape("a long name for a zone", points, closed, "in 3")])
        assert drawn.shape == (*size, 3)


def test_what_lies_outside_changes_only_the_place_of_its_name(gray):
    far = np.array([(900, 10), (950, 10), (930, 70)], dtype=np.float32)
    image = gray((240, 320))
    np.testing.assert_array_equal(draw_shapes(image, [Shape("", far, closed=True)]), image)


def test_in_place_gives_the_same(gray):
    image, shapes = gray((240, 320)), [Shape("door", SQUARE, True, "in 3")]
    want = draw_shapes(image, shapes)
    assert draw_shapes(image, shapes, out=image) is image
    np.testing.assert_array_equal(image, want)
