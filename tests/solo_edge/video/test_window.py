from __future__ import annotations

import sys
from itertools import chain, repeat

import cv2
import numpy as np
import pytest

from solo_edge.errors import ResourceError
from solo_edge.video import window
from solo_edge.video.pipeline import stream
from solo_edge.video.states import Failure, SourceState, StateChange
from solo_edge.video.window import Window, check_display


def build_information(toolkit):
    return f"General configuration\n  GUI: {toolkit}\n    QT: NO\n\n  Media I/O:\n"


@pytest.fixture
def screen(monkeypatch):
    """A screen: `shown` are the pictures, `keys` what is pressed, one for each look."""

    class Screen:
        shown, keys, visible, destroyed = [], [], 1.0, 0

        def press(self, *keys):
            self.keys = chain(keys, repeat(-1))

    screen = Screen()
    screen.shown, screen.keys = [], repeat(-1)
    monkeypatch.setattr(window, "check_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", lambda name, flags: None)
    monkeypatch.setattr(
        cv2, "imshow", lambda name, image: screen.shown.append(image[..., ::-1].copy())
    )
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(screen.keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda name, number: screen.visible)

    def destroy(name):
        screen.destroyed += 1

    monkeypatch.setattr(cv2, "destroyWindow", destroy)
    return screen


@pytest.fixture
def result(camera, fixed_engine, collector):
    """result(level, source_index) -> a plain picture of that brightness."""

    def make(level, source_index=0, size=(120, 160)):
        import dataclasses

        sink = collector()
        stream(fixed_engine(), camera(frames=1, live=False, ends=True, sizes=(size,)), sinks=[sink])
        picture = np.full((*size, 3), level, dtype=np.uint8)
        return dataclasses.replace(sink.results[0], source_index=source_index, overlay=picture)

    return make


def test_show_needs_a_window_and_a_screen(monkeypatch, tmp_path, fixed_engine):
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: build_information("NONE"))
    with pytest.raises(ResourceError, match=r"--serve.*opencv-python"):
        stream(fixed_engine(), str(tmp_path / "not even looked for"), show=True)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: build_information("GTK3"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ResourceError, match=r"no screen.*--serve"):
        check_display()
    monkeypatch.setenv("DISPLAY", ":0")
    check_display()


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("key", [ord("q"), 27])
def test_a_stream_until_the_window_is_left(key, screen, fixed_engine, camera):
    screen.press(-1, -1, ord("x"), key)
    report = stream(fixed_engine(), camera(sizes=((120, 160),)), show=True)
    assert report.stopped_by == "window"
    assert report.captured == report.processed + report.dropped
    assert screen.shown[0].shape == (120, 160, 3)
    assert screen.destroyed == 1


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_window_that_was_closed_with_the_mouse(screen, fixed_engine, camera):
    screen.visible = 0.0
    assert stream(fixed_engine(), camera(), show=True).stopped_by == "window"


def test_space_holds_the_picture(screen, tmp_path, result):
    with Window(["a"], tmp_path) as shown:
        assert shown.wants_overlay
        for level, key in ((50, -1), (100, ord(" ")), (150, -1), (200, ord(" ")), (250, -1)):
            screen.press(key)
            shown.write(result(level))
            shown.refresh()
            assert shown.wants_overlay == (level not in (100, 150))
    levels = [int(np.median(picture[60:])) for picture in screen.shown]
    assert levels == [50, 100, 250]


def test_s_saves_what_is_seen_and_nothing_is_overwritten(screen, tmp_path, result):
    from PIL import Image

    with Window(["a"], tmp_path) as shown:
        shown.write(result(90))
        screen.press(ord("s"), ord("s"), ord("s"))
        for _ in range(3):
            shown.refresh()
    files = list(tmp_path.glob("snapshot-*.png"))
    assert len(files) == 3
    np.testing.assert_array_equal(np.asarray(Image.open(files[0])), screen.shown[-1])


def test_several_sources_share_the_window(screen, tmp_path, result):
    with Window(["a", "b", "c"], tmp_path) as shown:
        shown.refresh()
        assert screen.shown == []
        shown.write(result(80, 0, (90, 160)))
        shown.write(result(160, 2, (160, 90)))
        shown.refresh()
    (grid,) = screen.shown
    assert grid.shape == (1080, 1920, 3)
    assert np.median(grid[400:540, 400:900]) == 80
    assert np.median(grid[100:400, 1400:1900]) == 0  # has sent nothing yet
    assert np.median(grid[900:1070, 400:550]) == 160
    assert np.median(grid[600:, 1000:]) == 0  # no source


def test_a_lost_source_says_so(screen, tmp_path, result):
    with Window(["a"], tmp_path) as shown:
        shown.write(result(200))
        shown.refresh()
        for state, message in ((SourceState.WAITING, "nothing comes"), (SourceState.PLAYING, "ok")):
            shown.source_changed(0, StateChange("a", state, Failure.STALLED, message, 0.0, 1))
            shown.refresh()
    first, lost, back = screen.shown
    assert np.median(lost[-20:]) < 0.5 * np.median(first[-20:])
    np.testing.assert_array_equal(back, first)
