"""Tracks, zones and events of a stream."""

from __future__ import annotations

import dataclasses
import json

import pytest

from solo_edge.errors import DataError, UsageError
from solo_edge.video.pipeline import stream
from solo_edge.video.stages import _with_events_of

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

# The engine of these tests finds "b" in the upper left quarter, "a" in the lower right one.
ZONES = """
zones:
  - name: top
    points: [[0, 0], [1, 0], [1, 0.6], [0, 0.6]]
  - name: only right
    points: [[0.5, 0], [1, 0], [1, 1], [0.5, 1]]
    source: right
    anchor: center
"""


@pytest.fixture
def zones(tmp_path):
    path = tmp_path / "zones.yaml"
    path.write_text(ZONES)
    return path


def test_objects_keep_their_number(fixed_engine, camera, collector):
    sink = collector()
    sources = [camera(frames=12, live=False, ends=True, name=name) for name in ("left", "right")]
    report = stream(fixed_engine(), sources, track=True, sinks=[sink])
    assert report.stages["track"].count == 24
    for index in (0, 1):
        ids = [r.instances.track_ids.tolist() for r in sink.results if r.source_index == index]
        assert len(set(map(tuple, ids[4:]))) == 1  # the same two all the time
        assert all(number > 0 for number in ids[-1])
        assert len(set(ids[-1])) == 2


def test_without_tracking_there_are_no_numbers(fixed_engine, camera, collector):
    sink = collector()
    stream(fixed_engine(), camera(frames=3, live=False, ends=True), sinks=[sink])
    assert all(result.instances.track_ids is None for result in sink.results)


def test_unsure_instances_keep_tracks_alive(fixed_engine, camera, collector):
    """What the tracker sees is more than what is shown."""
    sink = collector()
    source = camera(frames=8, live=False, ends=True)
    stream(fixed_engine(), source, track=True, min_score=0.7, sinks=[sink])
    assert sink.results[-1].instances.names == ["b"]
    assert sink.results[-1].instances.track_ids.tolist() in ([1], [2])


def test_zones_of_each_source(zones, tmp_path, fixed_engine, camera, collector):
    sink, lines = collector(overlay=True), tmp_path / "out.jsonl"
    sources = [camera(frames=12, live=False, ends=True, name=name) for name in ("left", "right")]
    report = stream(fixed_engine(), sources, track=True, zones=zones, sinks=[sink], json_path=lines)
    assert report.stages["zones"].count == 24
    shown = {
        name: [shape.name for shape in result.shapes]
        for result in sink.results
        for name in [result.source]
    }
    assert shown == {"left": ["top"], "right": ["top", "only right"]}
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    entered = {(line["source"], e["zone"]) for line in written for e in line["events"]}
    assert entered == {("left", "top"), ("right", "top"), ("right", "only right")}


def test_zones_that_do_not_fit(zones, tmp_path, fixed_engine, camera):
    with pytest.raises(DataError, match="right"):
        stream(fixed_engine(), camera(frames=1, name="left"), track=True, zones=zones)
    zones.write_text("lines:\n  - name: door\n    points: [[0, 0], [1, 1]]\n")
    with pytest.raises(UsageError, match="--track"):
        stream(fixed_engine(), camera(frames=1), zones=zones)
    with pytest.raises(UsageError, match=r"none\.yaml"):
        stream(fixed_engine(), camera(frames=1), zones=tmp_path / "none.yaml")


def test_events_of_a_frame_that_is_not_shown_come_with_the_next(fixed_engine, camera, collector):
    sink = collector()
    stream(fixed_engine(), camera(frames=2, live=False, ends=True), sinks=[sink])
    old, new = (
        dataclasses.replace(result, events=({"type": name},))
        for result, name in zip(sink.results, ("enter", "leave"), strict=True)
    )
    both = _with_events_of(old, new)
    assert both.frame is new.frame
    assert [event["type"] for event in both.events] == ["enter", "leave"]
    assert _with_events_of(dataclasses.replace(old, events=()), new) is new
