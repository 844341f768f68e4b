"""Polygons and lines: which points are inside, how far away, and how often a path crosses."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from solo_edge.zones.geometry import crosses_itself, crossings, distance, inside, share_inside

SQUARE = np.array([[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [1.0, 3.0]])
# A line that goes up the picture: its right is the picture's right.
UP = np.array([[5.0, 10.0], [5.0, 0.0]])


@pytest.mark.parametrize("polygon", [SQUARE, SQUARE[::-1]])
def test_a_polygon_is_the_same_clockwise_or_not(polygon):
    points = np.random.default_rng(0).uniform(0, 4, (500, 2))
    expected = ((points > 1) & (points < 3)).all(axis=1)
    np.testing.assert_array_equal(inside(polygon, points), expected)


@pytest.mark.parametrize("seed", range(20))
def test_a_concave_polygon_is_that_of_opencv(seed):
    import cv2

    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radius = rng.uniform(5, 40, 9)
    star = 50 + np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    points = rng.uniform(0, 100, (200, 2))
    contour = star.astype(np.float32)
    signed = [cv2.pointPolygonTest(contour, tuple(map(float, p)), True) for p in points]
    clear = np.abs(signed) > 1e-3
    np.testing.assert_array_equal(inside(star, points)[clear], np.array(signed)[clear] > 0)
    np.testing.assert_allclose(distance(star, points, closed=True), np.abs(signed), atol=1e-3)


def test_a_point_on_a_common_side_belongs_to_one_of_two_zones():
    right = SQUARE + np.array([2.0, 0.0])
    points = np.stack([np.full(9, 3.0), np.linspace(1.1, 2.9, 9)], axis=1)
    assert (inside(SQUARE, points) ^ inside(right, points)).all()


def test_distance_to_a_path_ends_at_its_ends():
    points = np.array([[5.0, 12.0], [8.0, 5.0], [5.0, 3.0]])
    assert distance(UP, points).tolist() == [2.0, 3.0, 0.0]


def test_to_the_right_of_the_line_is_positive():
    assert crossings(UP, np.array([4.0, 5.0]), np.array([6.0, 5.0])) == 1
    assert crossings(UP, np.array([6.0, 5.0]), np.array([4.0, 5.0])) == -1
    assert crossings(UP[::-1], np.array([4.0, 5.0]), np.array([6.0, 5.0])) == -1


def test_who_passes_beyond_the_end_does_not_cross():
    assert crossings(UP, np.array([4.0, 11.0]), np.array([6.0, 11.0])) == 0


@pytest.mark.parametrize("seed", range(50))
def test_a_path_in_small_steps_crosses_as_often_as_its_side_changes(seed):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that many steps begin or end exactly on the line.
    path = np.stack([rng.integers(2, 9, 60), rng.integers(1, 9, 60)], axis=1).astype(float)
    net = sum(crossings(UP, a, b) for a, b in pairwise(path))
    sides = path[:, 0] >= 5
    assert net == int(sides[-1]) - int(sides[0])
    assert net == crossings(UP, path[0], path[-1])


def test_a_joint_of_two_pieces_is_crossed_once():
    bent = np.array([[5.0, 10.0], [5.0, 5.0], [8.0, 0.0]])
    assert crossings(bent, np.array([4.0, 5.0]), np.array([7.0, 5.0])) == 1
    assert crossings(bent, np.array([7.0, 5.0]), np.array([4.0, 5.0])) == -1


def test_crossing_both_arms_of_a_u_is_no_crossing():
    arms = np.array([[2.0, 0.0], [2.0, 8.0], [6.0, 8.0], [6.0, 0.0]])
    assert crossings(arms, np.array([0.0, 4.0]), np.array([9.0, 4.0])) == 0
    assert abs(crossings(arms, np.array([0.0, 4.0]), np.array([4.0, 4.0]))) == 1


def test_sides_that_cross_are_found():
    assert crosses_itself(SQUARE[[0, 2, 1, 3]])
    assert not crosses_itself(SQUARE)


def test_the_share_of_a_mask():
    masks = np.zeros((3, 4, 4), dtype=bool)
    masks[0, :, :2] = True
    masks[1, :, 1:3] = True
    area = np.zeros((4, 4), dtype=bool)
    area[:, :2] = True
    assert share_inside(masks, area).tolist() == [1.0, 0.5, 0.0]
