from __future__ import annotations

import json

import pytest

from solo_edge.video.pipeline import stream
from solo_edge.video.report import Tally, Totals, make_report
from solo_edge.video.states import Failure, SourceState, StateChange


def change(state, at_s, code=None):
    return StateChange("front door", SourceState(state), code, "", at_s, 0)


def test_an_outage_lasts_until_the_source_plays_again():
    tally = Tally("front door")
    for state, at_s, code in (
        ("opening", 0.0, None), ("playing", 1.0, None),
        ("waiting", 10.0, Failure.STALLED), ("opening", 10.5, None), ("waiting", 11.0, Failure.TIMEOUT),
        ("opening", 12.0, None), ("playing", 12.5, None), ("playing", 13.0, None),
        ("waiting", 20.0, Failure.GONE), ("ended", 21.0, None),
    ):  # fmt: skip
        tally.changed(change(state, at_s, code))
        assert tally.state == state
    report = tally.report(None, whole=True, error=None)
    assert report.outages == {"stalled": 1, "gone": 1}  # what it began with
    assert report.outage_s == pytest.approx(2.5 + 1.0)


def test_nothing_has_come_yet():
    tally = Tally("front door")
    status = tally.status(None)
    assert (status.state, status.captured, status.fps, status.age_ms) == ("opening", 0, None, None)
    report = make_report([tally.report(None, whole=False, error="gone")], Totals(), "SIGINT")
    assert (report.captured, report.fps, report.age, report.latency) == (0, None, None, None)
    assert (report.source, report.live, report.stages) == ("front door", False, {})
    assert json.loads(json.dumps(report.to_dict()))["sources"][0]["error"] == "gone"


def test_rates_and_times_of_one_and_of_all():
    tallies, totals = [Tally("a"), Tally("b")], Totals()
    for tally, age_ms in ((tallies[0], 5.0), (tallies[0], 7.0), (tallies[1], 20.0)):
        tally.captured()
        tally.processed(2, age_ms, 30.0, {"network": 10.0})
        totals.add(age_ms, 30.0, {"network": 10.0})
    tallies[1].captured()
    tallies[1].dropped()
    reports = [tally.report(None, whole=True, error=None) for tally in tallies]
    report = make_report(reports, totals, None)
    assert (report.captured, report.processed, report.dropped, report.instances) == (4, 3, 1, 6)
    assert [source.age.max_ms for source in report.sources] == [7.0, 20.0]
    assert report.age.max_ms == 20.0
    assert report.stages["network"].count == report.latency.count == 3
    status = tallies[0].status(None)
    assert (status.processed, status.age_ms, status.latency_ms) == (2, 7.0, 30.0)


def test_pictures_that_a_source_left_out_are_counted(fixed_engine, camera):
    source = camera(frames=20, ends=True)
    source.skipped = 5
    seen = []
    report = stream(fixed_engine(), source, on_status=seen.extend, status_every_s=0.02)
    assert report.captured == 25 == report.processed + report.dropped
    assert seen[0].captured >= 5
    assert seen[0].dropped >= 5
