from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_edge.video.clock import Durations, FpsMeter, StageClock, frames_per_second


def test_frames_per_second_counts_intervals():
    # 31 frames at exactly 30 per second take one second.
    assert frames_per_second(31, 5.0, 6.0) == 30.0
    assert frames_per_second(2, 0.0, 0.25) == 4.0


@pytest.mark.parametrize(("count", "last"), [(0, 1.0), (1, 1.0), (2, 0.0), (2, -1.0)])
def test_no_rate_without_an_interval(count, last):
    assert frames_per_second(count, 0.0, last) is None


def test_meter_is_exact_over_all_and_over_the_window():
    meter = FpsMeter(window=5)
    assert meter.overall is None
    assert meter.recent is None
    for i in range(11):
        meter.tick(100.0 + 0.1 * i)
    for i in range(1, 6):  # the last frames come slower
        meter.tick(101.0 + 0.5 * i)
    assert meter.count == 16
    assert meter.overall == pytest.approx(15 / 3.5)
    assert meter.recent == pytest.approx(2.0)


def test_meter_without_time_looks_at_the_clock():
    meter = FpsMeter()
    meter.tick()
    assert meter.overall is None
    meter.tick()
    assert meter.overall > 0


def test_meter_needs_an_interval():
    with pytest.raises(ValueError, match="window"):
        FpsMeter(1)


def test_summary_of_one_to_hundred():
    summary = Durations(range(100, 0, -1)).summary()
    assert summary.count == 100
    assert summary.mean_ms == 50.5
    assert summary.p50_ms == pytest.approx(50, rel=0.006)
    assert summary.p90_ms == pytest.approx(90, rel=0.006)
    assert summary.p99_ms == pytest.approx(99, rel=0.006)
    assert summary.max_ms == 100.0


def test_equal_durations_have_exact_percentiles():
    summary = Durations([12.34] * 7).summary()
    assert summary.p50_ms == summary.p90_ms == summary.p99_ms == summary.max_ms == 12.34


@given(st.lists(st.floats(0.001, 9e5), min_size=1, max_size=200), st.floats(0.1, 100))
def test_percentiles_are_nearest_rank_within_half_a_percent(values, percent):
    expected = sorted(values)[math.ceil(len(values) * percent / 100) - 1]
    assert Durations(values).percentile(percent) == pytest.approx(expected, rel=0.006)


def test_extremes_outside_the_bins_are_kept():
    durations = Durations([0.0, 1e9])
    assert durations.percentile(50) <= 0.002
    assert durations.percentile(100) == 1e9


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_impossible_durations_are_refused(value):
    with pytest.raises(ValueError, match="duration"):
        Durations().add(value)


def test_percentile_checks_its_argument():
    with pytest.raises(ValueError, match="no durations"):
        Durations().percentile(50)
    for percent in (0, 101):
        with pytest.raises(ValueError, match="percent"):
            Durations([1.0]).percentile(percent)


def test_memory_does_not_grow():
    durations = Durations()
    size = durations._bins.nbytes
    for value in np.random.default_rng(0).uniform(0, 100, 5000):
        durations.add(value)
    assert durations._bins.nbytes == size < 20_000


def test_stage_clock_keeps_order_and_leaves_out_failures():
    clock = StageClock()
    clock.add("draw", 3.0)
    with clock.measure("write"):
        pass

    def fail():
        with clock.measure("network"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(clock.summary()) == ["draw", "write"]
    assert clock.summary()["draw"].p50_ms == 3.0
