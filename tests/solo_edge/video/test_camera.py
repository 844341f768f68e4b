from __future__ import annotations

import itertools
import sys
import threading
from types import SimpleNamespace

import cv2
import pytest

from solo_edge.errors import ResourceError, SourceError
from solo_edge.video import camera
from solo_edge.video.addresses import Camera, parse_address
from solo_edge.video.camera import OpenCvConnection, open_camera, open_screen, stable_path
from solo_edge.video.failures import SourceFailure
from solo_edge.video.source import open_source
from solo_edge.video.states import Failure, SourceState

linux = pytest.mark.skipif(sys.platform != "linux", reason="V4L2 is Linux")


@linux
@pytest.mark.parametrize("uri", [987, "v4l2://987", "/dev/video987", "v4l2:///dev/v4l/by-id/none"])
def test_a_camera_that_is_not_there(uri):
    with pytest.raises(SourceError, match=r"no such camera \(not_found\)") as caught:
        open_source(uri)
    assert caught.value.exit_code == 5
    assert caught.value.where in ("/dev/video987", "/dev/v4l/by-id/none")


@linux
def test_a_camera_that_is_plugged_in_later(tmp_path, make_video, monkeypatch):
    """A file stands for the device; OpenCV reads it as it would read a camera."""
    monkeypatch.setattr(camera, "import_av", lambda required: None)
    monkeypatch.setattr(cv2, "CAP_V4L2", cv2.CAP_ANY)
    device, away = tmp_path / "camera", tmp_path / "away"
    make_video(tmp_path / "a.mp4", frames=5).rename(away)
    changes = []
    source = open_camera(Camera(str(device)), changes.append, retry_first=True)
    frames = []
    with source:
        threading.Timer(0.5, away.rename, (device,)).start()
        for frame in source:
            frames.append(frame)
            if len(frames) == 5:
                device.rename(away)
                threading.Timer(0.8, away.rename, (device,)).start()
            if len(frames) == 8:
                break
        assert source.fps == 10.0
    assert [frame.index for frame in frames] == list(range(8))
    assert all(b.timestamp_s > a.timestamp_s for a, b in itertools.pairwise(frames))
    assert frames[5].timestamp_s - frames[4].timestamp_s > 0.7
    assert [change.code for change in changes if change.state is SourceState.WAITING] == [
        Failure.NOT_FOUND,
        Failure.GONE,
        Failure.NOT_FOUND,
    ]


def test_opencv_until_it_goes_away(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", frames=5)
    connection = OpenCvConnection(cv2.VideoCapture(str(path)), "camera 0")
    assert connection.fps == 10.0
    means = []
    for _ in range(5):
        piece = connection.read()
        (picture,) = connection.decode(piece, wanted=True)
        means.append(picture.image.mean())
        assert connection.decode(piece, wanted=False)[0].image is None
    with pytest.raises(SourceFailure, match=r"camera 0: .*no picture \(gone\)"):
        connection.read()
    assert means == pytest.approx([20, 25, 30, 35, 40], abs=3)
    connection.close()


def test_opencv_without_a_picture(tmp_path):
    with pytest.raises(SourceFailure, match="cannot be opened"):
        OpenCvConnection(cv2.VideoCapture(str(tmp_path / "none")), "camera 0")


@linux
def test_no_permission(tmp_path, monkeypatch):
    device = tmp_path / "video0"
    device.touch()
    monkeypatch.setattr(camera.os, "access", lambda *_: False)  # root may do everything
    with pytest.raises(SourceError, match=r"no permission to use the camera \(auth\).*'video'"):
        open_camera(Camera(str(device)))


@linux
def test_the_name_that_stays(tmp_path, monkeypatch):
    links = tmp_path / "v4l" / "by-id"
    links.mkdir(parents=True)
    monkeypatch.setattr(camera, "DEVICES", tmp_path)
    monkeypatch.setattr(camera, "LINKS", links)
    for number in range(3):
        (tmp_path / f"video{number}").touch()
    (links / "usb-Logi_C920-video-index0").symlink_to("../../video2")
    assert stable_path("2") == links / "usb-Logi_C920-video-index0"
    assert stable_path(str(tmp_path / "video2")) == links / "usb-Logi_C920-video-index0"
    assert stable_path("0") == tmp_path / "video0"
    assert stable_path("7") == tmp_path / "video7"
    name = str(links / "usb-Logi_C920-video-index0")
    assert str(stable_path(name)) == name
    # The same camera, plugged in again, has another number.
    (links / "usb-Logi_C920-video-index0").unlink()
    (links / "usb-Logi_C920-video-index0").symlink_to("../../video1")
    assert stable_path("1") == links / "usb-Logi_C920-video-index0"


def screen(monkeypatch, platform, formats, opened):
    monkeypatch.setattr(camera.sys, "platform", platform)
    monkeypatch.setattr(camera, "import_av", lambda: SimpleNamespace(formats_available=formats))
    monkeypatch.setattr(
        camera, "av_opener", lambda *args, **options: opened.append((args, options))
    )
    monkeypatch.setattr(camera, "LiveSource", lambda name, *_, **__: name)


@pytest.mark.parametrize(
    ("platform", "kind", "uri", "target"),
    [
        ("linux", "x11grab", "screen://:3?offset=5,6", ":3+5,6"),
        ("darwin", "avfoundation", "screen://1", "Capture screen 1:none"),
        ("win32", "gdigrab", "screen://", "desktop"),
    ],
)
def test_how_a_screen_is_asked_for(monkeypatch, platform, kind, uri, target):
    opened = []
    screen(monkeypatch, platform, {kind}, opened)
    open_screen(parse_address(f"{uri}{'&' if '?' in uri else '?'}size=64x48&fps=5"))
    ((args, options),) = opened
    assert args[0] == target
    assert args[2]["video_size"] == "64x48"
    assert args[2]["framerate"] == "5"
    assert options == {"format": kind, "finite": False}


def test_a_screen_that_cannot_be_recorded(monkeypatch):
    screen(monkeypatch, "linux", set(), [])
    with pytest.raises(ResourceError, match="cannot record the screen"):
        open_screen(parse_address("screen://"))
    screen(monkeypatch, "linux", {"x11grab"}, [])
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ResourceError, match="there is no screen here"):
        open_screen(parse_address("screen://"))


def test_a_screen_that_is_not_there():
    import av

    if "x11grab" not in av.formats_available:
        pytest.skip("this PyAV has no x11grab")
    with pytest.raises(SourceError):
        open_source("screen://:973")
