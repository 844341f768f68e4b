"""Where things will be, at any frame rate."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from solo_edge.tracking.motion import Motion

SIZE = np.array([10.0])


def follow(times_s: list[float], speed: float) -> Motion:
    """Something that is seen at these times."""
    motion = Motion(2)
    motion.add(np.zeros((1, 2)), SIZE)
    for before, now in pairwise(times_s):
        motion.advance(now - before, SIZE, np.array([True]))
        motion.correct(np.array([0]), np.array([[speed * now, 0.0]]), SIZE)
    return motion


@pytest.mark.parametrize("fps", [5, 10, 30, 60])
def test_a_constant_speed_is_found_whatever_the_frame_rate(fps):
    motion = follow([k / fps for k in range(3 * fps)], 20.0)
    np.testing.assert_allclose(motion.speed, [[20.0, 0.0]], atol=0.5)


def test_dropped_frames_do_not_change_the_speed():
    times = np.sort(np.random.default_rng(0).choice(np.arange(90), 40, replace=False)) / 30
    motion = follow([0.0, *times.tolist()], 20.0)
    np.testing.assert_allclose(motion.speed, [[20.0, 0.0]], atol=0.5)


def test_what_is_not_seen_slows_down_and_gets_less_sure():
    motion = follow([k / 30 for k in range(60)], 20.0)
    place = motion.place.copy()
    motion.advance(100.0, SIZE, np.array([False]))
    # The whole way that is left of a speed that fades within about a second.
    assert 15.0 < motion.place[0, 0] - place[0, 0] < 25.0
    assert abs(motion.speed[0, 0]) < 1e-3


def test_one_long_step_is_like_many_short_ones():
    motions = [follow([0.0, 0.1, 0.2, 0.3], 20.0) for _ in range(2)]
    motions[0].advance(1.0, SIZE, np.array([False]))
    for _ in range(100):
        motions[1].advance(0.01, SIZE, np.array([False]))
    np.testing.assert_allclose(motions[0].place, motions[1].place, rtol=1e-6)
    np.testing.assert_allclose(motions[0].speed, motions[1].speed, rtol=1e-6)


def test_the_unit_does_not_matter():
    one, other = follow([0.0, 0.1, 0.2], 20.0), follow([0.0, 0.1, 0.2], 20.0)
    other.scale(np.array([3.0, 3.0]))
    for motion, factor in ((one, 1.0), (other, 3.0)):
        motion.advance(0.1, factor * SIZE, np.array([True]))
        motion.correct(np.array([0]), factor * np.array([[7.0, 1.0]]), factor * SIZE)
    np.testing.assert_allclose(3 * one.place, other.place)
    np.testing.assert_allclose(3 * one.speed, other.speed)


def test_things_come_and_go():
    motion = Motion(4)
    motion.add(np.arange(12.0).reshape(3, 4), np.ones(3))
    motion.keep(np.array([True, False, True]))
    motion.add(np.zeros((1, 4)), np.ones(1))
    assert motion.place[:, 0].tolist() == [0.0, 8.0, 0.0]
    motion.advance(0.0, np.ones(3), np.ones(3, dtype=bool))
    assert motion.place[:, 0].tolist() == [0.0, 8.0, 0.0]
