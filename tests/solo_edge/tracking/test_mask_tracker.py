"""Ids stay with things: through misses, low scores, other classes, dropped frames and other sizes."""

from __future__ import annotations

import numpy as np
import pytest

from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry
from solo_edge.tracking import PATIENCE_S, MaskTracker

GRID = (48, 64)
NAMES = ("cup", "plate", "spoon")


def frame(
    *things: tuple[float, float],
    scores: list[float] | None = None,
    labels: list[int] | None = None,
    grid: tuple[int, int] = GRID,
    size: float = 10.0,
) -> Instances:
    """Discs at these places (row, column) of the grid."""
    rows, columns = np.mgrid[: grid[0], : grid[1]] + 0.5
    masks = np.zeros((len(things), *grid), dtype=np.float32)
    for mask, (row, column) in zip(masks, things, strict=True):
        mask[(rows - row) ** 2 + (columns - column) ** 2 <= (size / 2) ** 2] = 0.9
    image = (4 * grid[0], 4 * grid[1])
    return Instances(
        np.array(scores or [0.8] * len(things)),
        np.array(labels or [0] * len(things)),
        LazyMasks(masks, Geometry(image, image, image)),
        class_names=NAMES,
        image_size=image,
    )


def ids(tracker: MaskTracker, instances: Instances, now_s: float) -> list[int]:
    found = tracker.update(instances, now_s).track_ids
    assert found is not None
    return found.tolist()


@pytest.fixture(params=["mask", "box"])
def tracker(request) -> MaskTracker:
    """One that knows two things: 1 at (15, 15) and 2 at (30, 45), at 0.0 and 0.1 s."""
    tracker = MaskTracker(overlap=request.param)
    assert ids(tracker, frame((15, 15), (30, 45)), 0.0) == [0, 0]
    assert ids(tracker, frame((15, 15), (30, 45)), 0.1) == [1, 2]
    return tracker


def test_ids_follow_the_things_in_any_order(tracker):
    assert ids(tracker, frame((30, 44), (15, 16)), 0.2) == [2, 1]
    assert ids(tracker, frame((15, 17), (40, 10), (30, 43)), 0.3) == [1, 0, 2]
    assert ids(tracker, frame((15, 18), (40, 10), (30, 42)), 0.4) == [1, 3, 2]


def test_nothing_else_of_the_instances_changes(tracker):
    given = frame((15, 15), (30, 45))
    found = tracker.update(given, 0.2)
    assert found.masks.tobytes() == given.masks.tobytes()
    assert found.scores.tolist() == given.scores.tolist()
    assert given.track_ids is None


def test_a_low_score_continues_a_track_and_begins_none(tracker):
    found = frame((15, 15), (30, 45), (40, 10), scores=[0.8, 0.15, 0.15])
    assert ids(tracker, found, 0.2) == [1, 2, 0]
    assert ids(tracker, found, 0.3) == [1, 2, 0]
    assert ids(tracker, frame((15, 15), (30, 45), scores=[0.8, 0.05]), 0.4) == [1, 0]


def test_empty_frames_and_gaps_shorter_than_the_patience(tracker):
    assert ids(tracker, frame(), 0.2) == []
    assert ids(tracker, frame((15, 15)), 0.1 + PATIENCE_S) == [1]
    assert ids(tracker, frame((15, 15), (30, 45)), 0.2 + PATIENCE_S) == [1, 0]


def test_after_a_long_dropout_all_ids_are_new(tracker):
    assert ids(tracker, frame((15, 15), (30, 45)), 60.0) == [0, 0]
    assert ids(tracker, frame((15, 15), (30, 45)), 60.1) == [3, 4]


def test_patience_is_in_seconds_not_in_frames():
    for fps in (5, 60):
        tracker = MaskTracker()
        for k in range(2):
            ids(tracker, frame((15, 15)), k / fps)
        for k in range(2, int(1.5 * fps)):
            ids(tracker, frame(), k / fps)
        assert ids(tracker, frame((15, 15)), 1.5) == [1]


def test_a_source_that_begins_anew_gets_new_ids(tracker):
    ids(tracker, frame((15, 15)), 50.0)
    assert ids(tracker, frame((15, 15)), 0.0) == [0]
    assert ids(tracker, frame((15, 15)), 0.1) == [3]


def test_the_same_timestamp_twice_is_no_error(tracker):
    assert ids(tracker, frame((15, 15), (30, 45)), 0.1) == [1, 2]


def test_fast_things_are_found_where_they_should_be(tracker):
    """At last half as far again as they are long in each frame: without motion nothing overlaps."""
    column, step = 15.0, 0.0
    for k in range(6):
        step = min(step + 3.0, 15.0)
        column += step
        if column > 60:
            break
        assert ids(tracker, frame((15, column)), 0.2 + 0.1 * k) == [1]


def test_two_that_pass_each_other_keep_their_ids():
    tracker = MaskTracker()
    for k in range(30):
        left, right = (22.0, 10.0 + 1.5 * k), (26.0, 54.0 - 1.5 * k)
        found = ids(tracker, frame(left, right, labels=[0, 1]), k / 30)
    assert found == [1, 2]


def test_an_occluded_thing_comes_back_under_its_id(tracker):
    for k in range(10):
        ids(tracker, frame((15, 15 + k)), 0.2 + 0.1 * k)
    for k in range(10, 15):
        ids(tracker, frame(), 0.2 + 0.1 * k)
    assert ids(tracker, frame((15, 29)), 1.7) == [1]


def test_one_thing_under_two_classes_has_one_id(tracker):
    twice = frame((15, 15), (15, 15), (30, 45), labels=[1, 0, 0], scores=[0.7, 0.6, 0.8])
    for k in range(5):
        # The track was a cup. So it stays one, though a plate is more likely for the moment.
        assert ids(tracker, twice, 0.2 + 0.1 * k) == [0, 1, 2]
    for k in range(5, 40):
        found = ids(tracker, twice, 0.2 + 0.1 * k)
    assert found == [1, 0, 2]  # it was never just a moment


def test_a_class_that_is_wrong_for_a_frame_changes_nothing(tracker):
    assert ids(tracker, frame((15, 15), (30, 45), labels=[2, 0]), 0.2) == [1, 2]
    assert ids(tracker, frame((15, 15), (30, 45)), 0.3) == [1, 2]


def test_classes_matter_only_if_they_should():
    for per_class, expected in ((True, [0]), (False, [1])):
        tracker = MaskTracker(per_class=per_class)
        for now_s in (0.0, 0.1):
            ids(tracker, frame((15, 15)), now_s)
        # It overlaps by a third: enough for the same class, too little for another.
        assert ids(tracker, frame((15, 20), labels=[2]), 0.2) == expected


@pytest.mark.parametrize("grid", [(96, 128), (24, 32)])
def test_the_size_of_the_frames_may_change(tracker, grid):
    factor = grid[0] / GRID[0]
    places = [(15 * factor, 15 * factor), (30 * factor, 45 * factor)]
    assert ids(tracker, frame(*places, grid=grid, size=10 * factor), 0.2) == [1, 2]
    assert ids(tracker, frame(*places, grid=grid, size=10 * factor), 0.3) == [1, 2]


def test_pixels_are_as_good_as_stride_4():
    trackers = MaskTracker(), MaskTracker()
    for k in range(5):
        lazy = frame((15, 15 + k), (30, 45 - k))
        pixels = Instances(
            lazy.scores, lazy.labels, lazy.masks, class_names=NAMES, image_size=lazy.image_size
        )
        assert ids(trackers[0], lazy, 0.1 * k) == ids(trackers[1], pixels, 0.1 * k)


def test_empty_masks_are_nobody(tracker):
    nowhere = frame((15, 15), (-90, -90))
    for k in range(3):
        assert ids(tracker, nowhere, 0.2 + 0.1 * k) == [1, 0]


def test_no_id_is_used_twice():
    rng = np.random.default_rng(0)
    tracker, last = MaskTracker(patience_s=0.3), {}
    gone, now_s = set(), 0.0
    for _ in range(900):
        now_s += float(rng.choice([0.0, 0.03, 0.1, 0.5]))
        count = int(rng.integers(0, 7))
        things = [tuple(rng.uniform(5, 43, 2)) for _ in range(count)]
        found = frame(
            *things,
            scores=rng.uniform(0, 1, count).tolist(),
            labels=rng.integers(0, 3, count).tolist(),
        )
        seen = [i for i in ids(tracker, found, now_s) if i]
        assert len(set(seen)) == len(seen)
        assert not gone & set(seen)
        last |= dict.fromkeys(seen, now_s)
        gone |= {i for i, then_s in last.items() if now_s - then_s > 0.3}
    assert len(last) > 50
    assert max(last) == len(last)  # and none is left out


def test_an_id_at_once_if_that_is_asked_for():
    tracker = MaskTracker(confirm_hits=1)
    assert ids(tracker, frame((15, 15), (30, 45)), 0.0) == [1, 2]


@pytest.mark.parametrize(
    "arguments", [{"overlap": "masks"}, {"patience_s": -1}, {"confirm_hits": 0}]
)
def test_arguments_that_make_no_sense(arguments):
    with pytest.raises(ValueError, match=r"mask|patience_s|confirm_hits"):
        MaskTracker(**arguments)
