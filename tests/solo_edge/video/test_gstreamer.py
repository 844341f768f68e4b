"""The text of pipelines. Whether GStreamer takes them can only be seen where there is one."""

from __future__ import annotations

import platform
import re

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solo_edge.errors import ResourceError, SourceError, UsageError
from solo_edge.video.addresses import CsiCamera, parse_address
from solo_edge.video.gstreamer import SINK, checked_pipeline, csi_pipeline, rtsp_pipeline
from solo_edge.video.source import open_source

has_gstreamer = cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)


def test_a_csi_camera():
    pipeline = csi_pipeline(CsiCamera(1, (1080, 1920), 60, 2))
    assert pipeline.startswith(
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,"
    )
    assert "height=1080,framerate=60/1" in pipeline
    assert "nvvidconv flip-method=2" in pipeline
    assert pipeline.endswith(SINK)


def test_rtsp_with_a_login():
    network = parse_address("gst+rtsp://me:p%40ss%20w!@host:554/a?b=1&c=2")
    plain = rtsp_pipeline(network, nvidia=False)
    assert 'location="rtsp://host:554/a?b=1&c=2"' in plain
    assert 'user-id="me" user-pw="p@ss w!"' in plain
    assert "nvvidconv" not in plain
    assert "nvvidconv" in rtsp_pipeline(network, nvidia=True)


@given(st.text(min_size=1))
def test_an_address_stays_inside_its_quotes(text):
    try:
        pipeline = rtsp_pipeline(parse_address(f"gst+rtsp://u:{text}@host/{text}"), nvidia=False)
    except UsageError:
        return
    # What is not in quotes is ours.
    outside = re.sub(r'"[^"]*"', "", pipeline)
    assert outside == re.sub(
        r'"[^"]*"', "", rtsp_pipeline(parse_address("gst+rtsp://u:p@host/a"), nvidia=False)
    )
    assert "\n" not in pipeline


def test_elements_of_the_user():
    text = "v4l2src device=/dev/video0 ! image/jpeg,width=1280,framerate=30/1 ! jpegdec ! queue leaky=2"
    name, pipeline = checked_pipeline(text)
    assert name == "gst://v4l2src device=/dev/video0 ! jpegdec ! queue"
    assert pipeline == f"{text} ! videoconvert ! {SINK}"
    name, _ = checked_pipeline(
        'rtspsrc location="rtsp://u:secret@h/a b" user-pw=secret ! decodebin'
    )
    assert name == "gst://rtspsrc ! decodebin"
    checked_pipeline("nvarguscamerasrc ! video/x-raw(memory:NVMM), width=640 ! nvvidconv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unknown source"),
        ("v4l2sr device=/dev/video0", "did you mean 'v4l2src'"),
        ("videotestsrc ! filesink location=/tmp/x", "unknown element"),
        ("videotestsrc ! tcpserversink", "unknown element"),
        ("videotestsrc ! udpsink host=1.2.3.4", "unknown element"),
        ("videotestsrc ! tee name=t ! queue", "unknown element"),
        ("videoconvert", "unknown source"),
        ("videotestsrc ! v4l2src", "unknown element"),
        ("videotestsrc ! queue name=q q. ! jpegdec", "name=value"),
        ("filesrc location='a b'", "name=value"),
        ('filesrc location="a\\" ! filesink location=b"', "name=value"),
        ("videotestsrc num-buffers=$(reboot)", "name=value"),
        ("videotestsrc ! video/x-raw,width=1;filesink", "unknown element"),
        ("videotestsrc\n! filesink location=x", "unknown"),
        ('filesrc location="a ! filesink location=b', "name=value|unknown"),
    ],
)
def test_what_is_not_in_the_grammar(text, message):
    with pytest.raises(UsageError, match=message) as caught:
        checked_pipeline(text)
    assert caught.value.exit_code == 2


@given(st.text("abcdefilnksrt !\"'\\=.,/;$()-_ \n", max_size=60))
def test_no_other_element_gets_through(text):
    try:
        _, pipeline = checked_pipeline(f"videotestsrc ! queue {text}")
    except UsageError:
        return
    outside = re.sub(r'"[^"]*"', "", pipeline.removesuffix(SINK))
    assert not re.search(r"[\\;$'\n]", outside)
    elements = [part.split()[0] for part in outside.split("!") if part.split()]
    assert "sink" not in "".join(elements)


@pytest.mark.skipif(has_gstreamer, reason="this OpenCV has GStreamer")
@pytest.mark.parametrize("uri", ["gst+rtsp://u:secret@host/a", "gst://videotestsrc"])
def test_an_opencv_without_gstreamer(uri):
    with pytest.raises(ResourceError, match=r"without GStreamer.*system's OpenCV") as caught:
        open_source(uri)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(platform.machine() == "aarch64", reason="this may be a Jetson")
def test_a_csi_camera_elsewhere():
    with pytest.raises(ResourceError, match="belong to a Jetson"):
        open_source("csi://0")


@pytest.mark.skipif(not has_gstreamer, reason="this OpenCV has no GStreamer")
def test_rtsp_through_gstreamer(servers):
    with servers.H264RtspServer(user=("me", "p@ss w!")) as server:
        uri = f"gst+{server.uri}"
        with open_source(uri.replace("://", "://me:p%40ss%20w!@")) as source:
            frames = iter(source)
            assert servers.number_of(next(frames).image) is not None
        with pytest.raises(SourceError, match=r"\(auth\)"):
            open_source(uri.replace("://", "://me:wrong@"))


@pytest.mark.skipif(not has_gstreamer, reason="this OpenCV has no GStreamer")
def test_gstreamer_itself():
    with open_source("gst://videotestsrc is-live=true ! video/x-raw,width=64,height=48") as source:
        assert next(iter(source)).image.shape == (48, 64, 3)
    with pytest.raises(SourceError):
        open_source("gst://filesrc location=/nonexistent ! decodebin")
