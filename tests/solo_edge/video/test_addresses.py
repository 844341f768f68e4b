from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_edge.errors import UsageError
from solo_edge.video.addresses import (
    Camera,
    CsiCamera,
    Files,
    Network,
    Pipeline,
    Screen,
    TestScene,
    parse_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0", Camera("0")),
        ("/dev/video0", Camera("/dev/video0")),
        (
            "v4l2:///dev/v4l/by-id/usb-046d_C920-index0?size=1280x720&fps=29.97&format=mjpeg",
            Camera("/dev/v4l/by-id/usb-046d_C920-index0", (720, 1280), 29.97, "mjpeg"),
        ),
        ("v4l2://2", Camera("2")),
        ("csi://", CsiCamera(0)),
        ("csi://1?size=1920x1080&fps=60&flip=2", CsiCamera(1, (1080, 1920), 60, 2)),
        ("screen://", Screen("")),
        ("screen://:0.1?size=800x600&offset=10,20&fps=5", Screen(":0.1", (600, 800), (10, 20), 5)),
        ("gst://videotestsrc ! jpegdec", Pipeline("videotestsrc ! jpegdec")),
        ("test://", TestScene()),
        (
            "test://?frames=0&size=96x64&fps=20&seed=5&live=1&drop=.1&corrupt=0.2&stall=3/10"
            "&gone=2/10&resize=5&gray=7",
            TestScene(0, (64, 96), 20, 5, True, 0.1, 0.2, (3, 10), (2, 10), 5, 7),
        ),
        ("video.mp4", Files("video.mp4")),
        ("file:///a/b.mp4", Files("/a/b.mp4")),
        ("frames/%06d.jpg", Files("frames/%06d.jpg")),
        (r"C:\videos\a.mp4", Files(r"C:\videos\a.mp4")),
        ("C:/videos/a.mp4", Files("C:/videos/a.mp4")),
        (r"\\server\share\a.mp4", Files(r"\\server\share\a.mp4")),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("rtsp://host/a", "host", 554),
        ("rtsp://host:8554/a?b=c", "host", 8554),
        ("RTSPS://u:p@host/a", "host", 322),
        ("http://u:p@10.0.0.1", "10.0.0.1", 80),
        ("https://u:p%40@[::1]:444/x@y", "::1", 444),
        ("rtmp://host/live", "host", 1935),
        ("http://u@v:p@host/", "host", 80),
        ("udp://@:1234", "", None),
    ],
)
def test_who_is_asked(text, host, port):
    network = parse_address(text)
    assert isinstance(network, Network)
    assert (network.host, network.port, network.hardware) == (host, port, False)
    assert network.uri == text.replace("RTSPS", "rtsps")


def test_hardware_decoding():
    network = parse_address("gst+rtsp://u:p@host/a")
    assert isinstance(network, Network)
    assert (network.uri, network.hardware) == ("rtsp://u:p@host/a", True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rstp://host/x", "did you mean 'rtsp'"),
        ("gst+http://host/x", "leave out gst"),
        ("nonsense://x", "known: .*test"),
        ("rtsp:///x", "no host"),
        ("rtsp://host:99999/x", "no valid host and port"),
        ("rtsp://host:x/", "no valid host and port"),
        ("rtsp://user:pass#word@host/", "no valid host and port"),
        ("rtsp://user#word@host/", "# and @ become"),
        ("v4l2:///dev/../etc/passwd", "no name of a camera"),
        ("v4l2:///etc/passwd", "no name of a camera"),
        ("v4l2://0?sized=1x1", "did you mean 'size'"),
        ("v4l2://0?size=0x10", "WIDTHxHEIGHT"),
        ("v4l2://0?format=%2Fetc", "short name"),
        ("csi://front", "has a number"),
        ("csi://0?flip=9", "from 0 to 7"),
        ("csi://0?width=3", "known: flip, fps, size"),
        ("screen://;rm", "no name of a screen"),
        ("screen://?offset=-1,0", "X,Y"),
        ("test://?frame=3", "did you mean 'frames'"),
        ("test://?frames=0", "live=1"),
        ("test://?frames=many", "whole number"),
        ("test://?frames=-1", "whole number"),
        ("test://?size=64", "WIDTHxHEIGHT"),
        ("test://?size=8x8", "64x64"),
        ("test://?size=99999x99999", "WIDTHxHEIGHT"),
        ("test://?fps=nan", "must be positive"),
        ("test://?fps=90000", "must be positive, up to 1000"),
        ("test://?fps=x", "is no number"),
        ("test://?live=yes", "0 or 1"),
        ("test://?drop=1", "below 1"),
        ("test://?stall=3/10", "add live=1"),
        ("test://?live=1&stall=3", "SECONDS/AFTER"),
        ("test://?live=1&gone=3/0", "from 0.01 on"),
        ("test://?resize=inf", "from 0.01 on"),
    ],
)
def test_mistakes(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


@given(st.text())
def test_any_text_is_an_address_or_a_mistake(text):
    for prefix in ("", "test://?", "csi://", "v4l2://", "screen://", "rtsp://", "x+y://"):
        with contextlib.suppress(UsageError):
            parse_address(prefix + text)
