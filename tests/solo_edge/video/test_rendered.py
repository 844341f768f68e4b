from __future__ import annotations

import threading

import numpy as np
import pytest

from solo_edge.errors import SourceError
from solo_edge.video.addresses import TestScene
from solo_edge.video.clock import now
from solo_edge.video.connection import DamagedError
from solo_edge.video.rendered import _Camera, _CameraConnection, _is_out, _to_and_fro
from solo_edge.video.source import open_source
from solo_edge.video.states import Failure, SourceState

SMALL = "size=96x64"


def test_the_rendered_scene_is_reproducible():
    uri = f"test://?frames=3&{SMALL}&fps=20&seed=5"
    first, second = list(open_source(uri)), list(open_source(uri))
    assert [frame.timestamp_s for frame in first] == [0.0, 0.05, 0.1]
    for a, b in zip(first, second, strict=True):
        assert a.image.shape == (64, 96, 3)
        np.testing.assert_array_equal(a.image, b.image)
    assert (first[0].image != first[2].image).any()
    other = next(iter(open_source(f"test://?frames=1&{SMALL}&seed=6")))
    assert (other.image != first[0].image).any()


def test_the_live_scene_keeps_its_pace():
    with open_source(f"test://?frames=31&{SMALL}&fps=30&live=1") as source:
        assert source.live
        assert (source.fps, source.size, source.frame_count) == (30.0, (64, 96), 31)
        source.keep_all = True
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(31))
    assert frames[-1].captured_s - frames[0].captured_s >= 0.95
    assert frames[-1].timestamp_s == pytest.approx(1.0)
    assert source.state is SourceState.ENDED
    assert (frames[0].image != frames[3].image).any()


def test_a_live_scene_without_end():
    with open_source(f"test://?frames=0&{SMALL}&fps=200&live=1") as source:
        assert source.frame_count is None
        for frame in source:
            if frame.index == 100:
                break


def test_frames_that_the_camera_leaves_out():
    with open_source(f"test://?frames=200&{SMALL}&fps=10&drop=0.25") as source:
        announced = source.frame_count
        frames = list(source)
    assert announced == len(frames)
    assert 120 < len(frames) < 180
    assert [frame.index for frame in frames] == list(range(len(frames)))
    steps = np.diff([frame.timestamp_s for frame in frames])
    assert steps.min() == pytest.approx(0.1)
    assert steps.max() >= 0.2 - 1e-9


@pytest.mark.parametrize("live", [0, 1])
def test_damaged_frames(live):
    with open_source(f"test://?frames=100&{SMALL}&fps=100&corrupt=0.3&live={live}") as source:
        source.keep_all = True
        frames = list(source)
    assert source.damaged > 5
    assert len(frames) + source.damaged == 100
    assert [frame.index for frame in frames] == list(range(len(frames)))


def test_damaged_bytes_are_really_damaged():
    camera, healthy = _Camera(TestScene(size=(64, 96), corrupt=0.5)), 0
    whole = _Camera(TestScene(size=(64, 96)))
    for number in range(50):
        if camera.jpeg(number) == whole.jpeg(number):
            healthy += 1
            continue
        try:
            image = camera.decode(number, camera.jpeg(number))
        except DamagedError:
            continue
        assert image.shape == (64, 96, 3)
    assert 10 < healthy < 40


def test_another_size_and_gray():
    uri = "test://?frames=40&size=160x96&fps=10&resize=1&gray=2"
    with open_source(uri) as source:
        frames = list(source)
    small, gray = [], []
    for frame in frames:
        image = frame.image.astype(int)
        small.append(image.shape == (72, 120, 3))
        gray.append(bool((image == image[..., :1]).all()))
        assert small[-1] or image.shape == (96, 160, 3)
    assert small == [i // 10 % 2 == 1 for i in range(40)]
    assert gray == [i // 20 % 2 == 1 for i in range(40)]


def test_a_camera_that_comes_and_goes():
    changes = []
    uri = f"test://?frames=60&{SMALL}&fps=30&live=1&gone=0.6/1"
    with open_source(uri, changes.append) as source:
        source.keep_all = True
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    in_outage = [frame for frame in frames if frame.timestamp_s % 1.6 > 1.1]
    assert not in_outage
    assert 28 <= len(frames) <= 45
    told = [(change.state.value, change.code) for change in changes]
    assert told[:3] == [("playing", None), ("waiting", Failure.GONE), ("playing", None)]
    assert told[-1] == ("ended", None)
    waiting, playing = changes[1], changes[2]
    assert playing.at_s - waiting.at_s < 0.6 + 2.0


def test_a_camera_that_is_silent_for_a_moment():
    changes = []
    uri = f"test://?frames=60&{SMALL}&fps=30&live=1&stall=0.5/0.5"
    begin_s = now()
    with open_source(uri, changes.append) as source:
        source.keep_all = True
        frames = list(source)
    assert now() - begin_s >= 1.4
    assert len(frames) == 30
    assert [change.state.value for change in changes] == ["playing", "ended"]


def test_a_camera_that_is_silent_for_longer_is_stalled():
    changes = []
    uri = f"test://?frames=0&{SMALL}&fps=30&live=1&stall=3/0.5"
    with open_source(uri, changes.append) as source:
        for frame in source:
            if frame.timestamp_s > 1.0:
                break
    assert [change.code for change in changes] == [None, Failure.STALLED, None, None]


def test_outages():
    assert [_is_out((2, 3), at_s) for at_s in range(11)] == [False] * 3 + [True] * 2 + [
        False
    ] * 3 + [True] * 2 + [False]
    assert not _is_out(None, 5.0)
    assert [_to_and_fro(number, 4) for number in range(10)] == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]


def test_the_first_opening_is_no_outage():
    camera = _Camera(TestScene(size=(64, 96), live=True, gone=(5.0, 0.1)))
    assert camera.knock() is None
    _CameraConnection(camera, threading.Event())
    camera._started_s = now() - 1.0
    with pytest.raises(SourceError, match=r"\(gone\)"):
        _CameraConnection(camera, threading.Event())
    assert camera.knock().code is Failure.GONE
