"""Zones and lines count what happens: once each, in the right direction, and nothing that did not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry
from solo_edge.tracking import PATIENCE_S as TRACKER_PATIENCE_S
from solo_edge.zones import ZoneCounter, read_zones
from solo_edge.zones.file import PATIENCE_S

SIZE = (100, 200)
NAMES = ("person", "dog")
# A zone from x 80 to 120 over the whole height, and a line up the picture at x 100.
BAND = "zones: [{name: band, points: [[0.4, 0], [0.6, 0], [0.6, 1], [0.4, 1]], %s}]"
GATE = "lines: [{name: gate, points: [[0.5, 1], [0.5, 0]], anchor: center}]"


def counter(folder: Path, text: str) -> ZoneCounter:
    path = folder / "zones.yaml"
    path.write_text(text, "utf-8")
    return read_zones(path).counter()


def seen(
    *places: tuple[float, float], ids: list[int] | None = None, labels: list[int] | None = None
) -> Instances:
    """Squares of 8 pixels around these places (x, y)."""
    masks = np.zeros((len(places), *SIZE), dtype=bool)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[round(y) - 4 : round(y) + 4, round(x) - 4 : round(x) + 4] = True
    return Instances(
        np.ones(len(places)),
        np.array(labels or [0] * len(places)),
        masks,
        class_names=NAMES,
        image_size=SIZE,
        track_ids=None if ids is None else np.array(ids),
    )


def walk(zones: ZoneCounter, places: list[float], *, start_s: float = 0.0) -> list[dict]:
    """The events of one track that is at these x, ten times a second."""
    return [
        event
        for k, x in enumerate(places)
        for event in zones.update(seen((x, 50), ids=[7]), start_s + 0.1 * k)
    ]


def test_zones_and_tracker_have_the_same_patience():
    assert PATIENCE_S == TRACKER_PATIENCE_S


def test_occupancy_needs_no_tracking(tmp_path):
    zones = counter(tmp_path, BAND % "anchor: center" + "\n" + GATE)
    assert zones.update(seen((100, 50), (90, 20), (20, 50)), 0.0) == ()
    assert zones.counts == {"band": {"inside": 2}, "gate": {"in": 0, "out": 0}}
    assert zones.update(seen(), 0.1) == ()
    assert zones.counts["band"] == {"inside": 0}


def test_somebody_enters_stays_and_leaves(tmp_path):
    zones = counter(tmp_path, BAND % "dwell_s: 0.5")
    events = walk(zones, [60, 70, 90, 95, 100, 105, 105, 105, 110, 115, 130, 140])
    assert [(e["type"], round(e["timestamp_s"], 1)) for e in events] == [
        ("enter", 0.2),
        ("dwell", 0.7),
        ("leave", 1.0),
    ]
    enter, dwell, leave = events
    assert enter == {
        "type": "enter",
        "zone": "band",
        "track_id": 7,
        "class": "person",
        "timestamp_s": pytest.approx(0.2),
        "count": {"inside": 1, "entered": 1, "left": 0},
    }
    assert dwell["seconds"] == pytest.approx(0.5)
    assert (leave["seconds"], leave["count"]) == (0.8, {"inside": 0, "entered": 1, "left": 1})
    assert json.loads(json.dumps(events)) == events


def test_a_trembling_anchor_enters_once(tmp_path):
    rng = np.random.default_rng(0)
    zones = counter(tmp_path, BAND % "anchor: center")
    events = walk(zones, [60, *(80 + rng.uniform(-1, 1, 200)).round(1), 100])
    assert [e["type"] for e in events] == ["enter"]


@pytest.mark.parametrize("times", range(6))
def test_a_path_that_crosses_n_times_counts_n(tmp_path, times):
    zones = counter(tmp_path, GATE)
    path = [100 - 40 * math.cos(math.pi * k / 10) for k in range(10 * times + 1)]
    events = walk(zones, path)
    assert [e["direction"] for e in events] == [("in", "out")[k % 2] for k in range(times)]
    assert zones.counts["gate"] == {"in": (times + 1) // 2, "out": times // 2}
    assert {e["type"] for e in events} <= {"cross"}


def test_a_trembling_anchor_crosses_once(tmp_path):
    rng = np.random.default_rng(1)
    near = (100 + rng.uniform(-1, 1, 300)).round().tolist()
    zones = counter(tmp_path, GATE)
    assert len(walk(zones, [60.0, *near, 140.0])) == 1
    assert len(walk(zones, [*near, 140.0], start_s=100.0)) == 0


def test_a_jump_over_the_line_counts_and_one_past_its_end_does_not(tmp_path):
    short = "lines: [{name: gate, points: [[0.5, 1], [0.5, 0.6]], anchor: center}]"
    assert len(walk(counter(tmp_path, GATE), [20.0, 180.0])) == 1
    assert walk(counter(tmp_path, short), [20.0, 180.0]) == []


def test_who_is_lost_inside_leaves_after_a_while(tmp_path):
    zones = counter(tmp_path, BAND % "")
    walk(zones, [60, 90, 100])
    assert zones.update(seen(ids=[]), 0.2 + PATIENCE_S) == ()
    assert zones.counts["band"]["inside"] == 1
    (leave,) = zones.update(seen(ids=[]), 0.3 + PATIENCE_S)
    assert (leave["type"], leave["track_id"], leave["seconds"]) == ("leave", 7, 0.1)


def test_who_comes_back_in_time_has_not_left(tmp_path):
    zones = counter(tmp_path, BAND % "")
    walk(zones, [60, 90, 100])
    assert walk(zones, [100, 110], start_s=0.2 + PATIENCE_S) == []


def test_unsure_ids_and_other_classes_are_left_out(tmp_path):
    zones = counter(tmp_path, BAND % "classes: [dog]")
    assert zones.update(seen((100, 50), (100, 20), ids=[1, 0], labels=[0, 1]), 0.0) == ()
    (event,) = zones.update(seen((100, 50), (100, 20), ids=[1, 2], labels=[0, 1]), 0.1)
    assert (event["track_id"], event["class"]) == (2, "dog")


def test_a_source_that_begins_anew_empties_its_zones(tmp_path):
    zones = counter(tmp_path, BAND % "" + "\n" + GATE)
    walk(zones, [60, 95], start_s=50.0)
    events = walk(zones, [105, 110])
    assert [e["type"] for e in events] == ["leave", "enter"]  # and nobody crossed


def test_the_image_may_change_its_size(tmp_path):
    zones = counter(tmp_path, GATE)
    walk(zones, [80.0])
    masks = np.zeros((1, 50, 100), dtype=bool)
    masks[0, 20:30, 30:40] = True  # at x 70 of 200: on the same side
    halved = Instances(
        np.ones(1), [0], masks, class_names=NAMES, image_size=(50, 100), track_ids=np.array([7])
    )
    assert zones.update(halved, 0.1) == ()


def test_the_anchors_differ(tmp_path):
    """A zone in the lower half, and somebody who stands in it with the feet alone."""
    low = "zones: [{name: low, points: [[0, 0.6], [1, 0.6], [1, 1], [0, 1]], anchor: %s}]"
    found = {}
    for anchor in ("bottom", "center", "mask"):
        zones = counter(tmp_path, low % anchor)
        zones.update(seen((100, 58)), 0.0)
        found[anchor] = zones.counts["low"]["inside"]
    assert found == {"bottom": 1, "center": 0, "mask": 0}


@pytest.mark.parametrize("lazy", [False, True])
def test_the_share_of_the_mask_decides(tmp_path, lazy):
    zones = counter(tmp_path, BAND % "anchor: mask")
    inside = []
    for left in range(60, 120, 8):  # 40 pixels wide, as the zone
        mask = np.zeros((1, *SIZE), dtype=bool)
        mask[0, 20:60, left : left + 40] = True
        masks = LazyMasks(mask[:, ::4, ::4].astype(np.float32), Geometry(SIZE, SIZE, SIZE))
        zones.update(
            Instances(np.ones(1), [0], masks if lazy else mask, class_names=NAMES, image_size=SIZE),
            0.1 * left,
        )
        inside.append(zones.counts["band"]["inside"])
    # 20 pixels of 40 are reached at 60 and lost after 100.
    assert inside == [1, 1, 1, 1, 1, 1, 0, 0]


def test_the_shapes_to_draw(tmp_path):
    zones = counter(tmp_path, BAND % "" + "\n" + GATE)
    walk(zones, [60, 90])
    band, gate = zones.shapes((50, 80))
    assert (band.name, band.closed, band.text) == ("band", True, "1 inside, 1 in all")
    assert (gate.name, gate.closed, gate.text) == ("gate", False, "0 in, 0 out")
    np.testing.assert_allclose(gate.points, [[40, 50], [40, 0]])
    assert gate.points.dtype == np.float32


def test_nothing_is_remembered_for_ever(tmp_path):
    zones = counter(tmp_path, BAND % "" + "\n" + GATE)
    for k in range(500):
        zones.update(seen((90, 50), ids=[k + 1]), 10.0 * k)
    states = [*zones._zones, *zones._lines]
    assert len(states[0]._stays) == len(states[1]._paths) == 1
    assert zones.counts["band"] == {"inside": 1, "entered": 500, "left": 499}
