from __future__ import annotations

import threading
import time

import pytest

from solo_edge.video.buffer import Counts, FrameBuffer


def test_newest_only_keeps_the_newest():
    buffer = FrameBuffer(1, newest_only=True)
    assert all(buffer.put(i) for i in range(5))
    assert buffer.get(0) == 4
    assert buffer.get(0) is None
    assert not buffer.ended
    assert buffer.counts() == Counts(put=5, got=1, dropped=4)


def test_a_full_buffer_makes_the_producer_wait():
    buffer = FrameBuffer(2, newest_only=False)
    thread = threading.Thread(target=lambda: [buffer.put(i) for i in range(10)] and buffer.end())
    thread.start()
    time.sleep(0.05)
    assert buffer.counts().put == 3  # two inside, one waiting
    taken = []
    while not buffer.ended:
        item = buffer.get(5)
        taken += [] if item is None else [item]
    thread.join(5)
    assert taken == list(range(10))
    assert buffer.counts() == Counts(put=10, got=10, dropped=0)


def test_discard_frees_the_producer_and_counts_what_is_left():
    buffer = FrameBuffer(2, newest_only=False)
    results = []
    thread = threading.Thread(target=lambda: results.extend(buffer.put(i) for i in range(3)))
    thread.start()
    time.sleep(0.05)
    assert buffer.get(5) == 0
    buffer.discard()
    thread.join(5)
    assert not thread.is_alive()
    assert not buffer.put(3)
    counts = buffer.counts()
    assert counts.put == counts.got + counts.dropped == 4
    assert buffer.ended


def test_an_error_comes_after_the_items_before_it_and_once():
    buffer = FrameBuffer(4, newest_only=False)
    buffer.put("a")
    buffer.end(OSError("gone"))
    assert not buffer.ended
    assert buffer.get(0) == "a"
    assert not buffer.ended
    with pytest.raises(OSError, match="gone"):
        buffer.get(0)
    assert buffer.ended
    assert buffer.get(0) is None


def test_get_wakes_up_when_the_end_comes():
    buffer = FrameBuffer(1, newest_only=True)
    threading.Timer(0.05, buffer.end).start()
    start = time.perf_counter()
    assert buffer.get(10) is None
    assert time.perf_counter() - start < 5


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth"):
        FrameBuffer(0, newest_only=True)
