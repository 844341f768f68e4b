from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from solo_edge.video.timeline import Timeline, plausible_fps


def test_a_stream_tells_the_time():
    timeline = Timeline()
    stream = [1000.0 + at_s for at_s in (0.0, 0.033, 0.066, 0.5, 2.0)]
    told = [timeline.at(at_s, 7.0 + 0.1 * i) for i, at_s in enumerate(stream)]
    assert told == pytest.approx([0.0, 0.033, 0.066, 0.5, 2.0])


def test_without_a_clock_arrival_counts():
    timeline = Timeline()
    assert [timeline.at(None, at_s) for at_s in (5.0, 5.1, 5.3)] == pytest.approx([0.0, 0.1, 0.3])
    assert timeline.at(math.nan, 6.0) == pytest.approx(1.0)


def test_of_a_file_without_times_the_rate_counts():
    timeline = Timeline(10.0)
    assert [timeline.at(None, 0.0) for _ in range(3)] == pytest.approx([0.0, 0.1, 0.2])


def test_pauses_in_a_file_stay():
    timeline = Timeline(10.0)
    assert [timeline.at(at_s, 0.0) for at_s in (0.0, 0.1, 3600.0)] == [0.0, 0.1, 3600.0]


@pytest.mark.parametrize("leap_s", [-1000.0, 1e6])
def test_a_camera_that_sets_its_clock(leap_s):
    timeline = Timeline()
    told = [timeline.at(at_s, at_s) for at_s in (0.0, 0.04)]
    told += [timeline.at(at_s + leap_s, at_s) for at_s in (0.08, 0.12)]
    assert told == pytest.approx([0.0, 0.04, 0.08, 0.12])


def test_after_a_gap_time_goes_on_and_errors_do_not_add_up():
    timeline, at_s = Timeline(), 0.0
    for connection in range(100):
        begin_s = 50.0 * connection
        # A quarter of a second comes at once, as it was kept while the connection was made.
        for frame in range(30):
            arrived_s = begin_s + max(0.25, frame / 25)
            before_s, at_s = at_s, timeline.at(3.0 + frame / 25, arrived_s)
            assert at_s > before_s or frame == connection == 0
            assert abs(at_s - (arrived_s - 0.25)) < 0.3
        timeline.restart()


times = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@example([(at_s, 0.0, False) for at_s in (0.0, 8.9e307, 0.0, 8.8e307)], 25.0)
@given(st.lists(st.tuples(times, st.floats(0, 1e6), st.booleans())), st.sampled_from([None, 25.0]))
def test_timestamps_never_go_back(frames, fps):
    timeline, last_s = Timeline(fps), 0.0
    for stream_s, arrived_s, restarted in frames:
        if restarted:
            timeline.restart()
        at_s = timeline.at(stream_s, arrived_s)
        assert math.isfinite(at_s)
        assert at_s >= last_s
        last_s = at_s


@pytest.mark.parametrize(
    ("rate", "fps"),
    [
        (Fraction(30000, 1001), 30000 / 1001),
        (1000, 1000.0),
        *((nonsense, None) for nonsense in (90000, 0, None, "x", math.nan, math.inf, -5)),
    ],
)
def test_declared_rates(rate, fps):
    assert plausible_fps(rate) == fps
