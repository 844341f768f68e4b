from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_edge.video.buffer import FrameBuffer, Lane


@pytest.fixture
def make_buffer():
    """make_buffer(*lanes) -> a buffer, whose `dropped` is a list of (lane, item)."""

    def make(*lanes, **options):
        dropped = []
        buffer = FrameBuffer(
            [Lane(*lane) for lane in lanes],
            lambda lane, item: dropped.append((lane, item)),
            **options,
        )
        buffer.dropped = dropped
        return buffer

    return make


def test_newest_only_keeps_the_newest(make_buffer):
    buffer = make_buffer((1, True))
    assert all(buffer.put(0, i) for i in range(5))
    assert buffer.get(0) == [(0, 4)]
    assert buffer.get(0) == []
    assert not buffer.ended
    assert buffer.dropped == [(0, i) for i in range(4)]


def test_a_full_lane_makes_its_producer_wait_and_no_other(make_buffer):
    buffer = make_buffer((2, False), (2, False))
    thread = threading.Thread(
        target=lambda: [buffer.put(0, i) for i in range(10)] and buffer.end(0)
    )
    thread.start()
    time.sleep(0.05)
    assert thread.is_alive()
    assert buffer.put(1, "x")
    buffer.end(1)
    taken = []
    while not buffer.ended:
        taken += buffer.get(5)
    thread.join(5)
    assert [item for lane, item in taken if lane == 0] == list(range(10))
    assert (1, "x") in taken
    assert buffer.dropped == []


def test_lanes_take_turns(make_buffer):
    buffer = make_buffer((4, False), (4, False), (4, False))
    for item in range(4):
        buffer.put(0, item)
        buffer.put(2, item)
    assert buffer.get(0, limit=3) == [(0, 0), (2, 0), (0, 1)]
    assert buffer.get(0, limit=3) == [(2, 1), (0, 2), (2, 2)]
    assert buffer.get(0, limit=3) == [(0, 3), (2, 3)]


def test_what_is_superseded_can_be_carried_over(make_buffer):
    for depth in (1, 2):
        buffer = make_buffer((depth, True), supersede=lambda old, new: old + new)
        for letter in "abcd":
            buffer.put(0, letter)
        assert "".join(item for _, item in buffer.get(0, limit=9)) == "abcd"
        assert len(buffer.dropped) == 4 - depth


def test_discard_frees_the_producer_and_drops_what_is_left(make_buffer):
    buffer = make_buffer((2, False))
    results = []
    thread = threading.Thread(target=lambda: results.extend(buffer.put(0, i) for i in range(4)))
    thread.start()
    time.sleep(0.05)
    assert buffer.get(5) == [(0, 0)]
    time.sleep(0.05)
    buffer.discard()
    thread.join(5)
    assert results == [True, True, True, False]
    assert not buffer.put(0, 4)
    assert [item for _, item in buffer.dropped] == [1, 2, 3, 4]
    assert buffer.ended


def test_one_lane_is_discarded_alone(make_buffer):
    buffer = make_buffer((2, False), (2, False))
    buffer.put(0, "a")
    buffer.put(1, "b")
    buffer.discard(0)
    assert not buffer.put(0, "c")
    assert buffer.put(1, "d")
    assert [item for _, item in buffer.get(0, limit=9)] == ["b", "d"]
    assert not buffer.ended
    buffer.end(1)
    assert buffer.ended


def test_get_wakes_up_when_the_end_comes(make_buffer):
    buffer = make_buffer((1, True))
    threading.Timer(0.05, buffer.end).start()
    assert buffer.get(None) == []
    assert buffer.ended


def test_a_lane_holds_at_least_one(make_buffer):
    for lanes in ([], [(0, True)]):
        with pytest.raises(ValueError, match="lanes"):
            make_buffer(*lanes)


@given(
    lanes=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=3),
    counts=st.lists(st.integers(0, 30), min_size=3, max_size=3),
    limit=st.integers(1, 4),
    stop_after=st.integers(0, 60),
)
def test_nothing_is_lost_or_counted_twice(lanes, counts, limit, stop_after):
    """Every item that was put is given out or dropped, exactly once, whenever the end comes."""
    dropped: Counter = Counter()
    buffer = FrameBuffer(
        [Lane(*lane) for lane in lanes], lambda lane, item: dropped.update([(lane, item)])
    )

    def produce(lane):
        for item in range(counts[lane]):
            buffer.put(lane, item)
        buffer.end(lane)

    threads = [threading.Thread(target=produce, args=(lane,)) for lane in range(len(lanes))]
    for thread in threads:
        thread.start()
    taken = []
    while not buffer.ended:
        taken += buffer.get(None, limit)
        if len(taken) >= stop_after:
            buffer.discard()
    for thread in threads:
        thread.join(10)
    put = Counter((lane, item) for lane in range(len(lanes)) for item in range(counts[lane]))
    assert Counter(taken) + dropped == put
    for lane in range(len(lanes)):
        items = [item for number, item in taken if number == lane]
        assert items == sorted(items)
