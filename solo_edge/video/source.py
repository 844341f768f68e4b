"""Where frames come from: cameras, video files, network streams, images, and a rendered test scene."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Generator
from pathlib import Path

from solo_edge.errors import DataError, ResourceError, UsageError
from solo_edge.images import IMAGE_SUFFIXES, image_size, list_images, read_image
from solo_edge.video.addresses import (
    Camera,
    CsiCamera,
    Files,
    Network,
    Pipeline,
    Screen,
    parse_address,
)
from solo_edge.video.base import Frame, Source, redact
from solo_edge.video.camera import open_camera, open_screen
from solo_edge.video.capture import open_file, open_network
from solo_edge.video.clock import now
from solo_edge.video.gstreamer import open_gstreamer
from solo_edge.video.rendered import open_test_scene
from solo_edge.video.states import OnStateChange

__all__ = ["Frame", "Source", "is_image_source", "open_source", "redact"]

IMAGES_PER_SECOND = 10.0  # the pace of images that become a video

_NUMBERED = re.compile(r"%0?([0-9]*)d")  # frames/%06d.jpg


def is_image_source(uri: str | Path) -> bool:
    """Whether `uri` names images (a file, a folder, a pattern) rather than a camera, stream or video.

    A file with an unknown suffix is looked into.
    """
    text = str(uri)
    if not os.path.lexists(text):
        if _is_camera(text) or "://" in text:
            return False
        return glob.has_magic(text) or _NUMBERED.search(Path(text).name) is not None
    path = Path(text)
    if _is_camera(text):
        return False
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        image_size(path)
    except (DataError, ResourceError, UsageError):
        return False
    return True


def open_source(
    uri: str | int | Path, on_state: OnStateChange | None = None, *, retry_first: bool = False
) -> Source:
    """Open a source; its first frame is there when this returns, unless it is a folder of bad images.

    Cameras and streams come back: when one fails, its frames go on as soon as it plays again.

    Args:
        uri: what there is, by example:

            0, /dev/video0, v4l2:///dev/v4l/by-id/NAME?size=1280x720&fps=30&format=mjpeg
                a camera
            csi://0?size=1280x720&fps=30&flip=2
                a camera on the ribbon cable of a Jetson
            rtsp://HOST/PATH, rtsps, http, https, rtmp, udp
                a network stream, or a file on a web server
            gst+rtsp://HOST/PATH
                the same, decoded by GStreamer, in hardware where there is some
            gst://v4l2src device=/dev/video0 ! image/jpeg,width=1280 ! jpegdec
                elements of GStreamer, without the sink
            screen://:0?size=1280x720&offset=0,0&fps=30
                a monitor
            video.mp4, picture.jpg, folder, 'folder/*.jpg', folder/%06d.jpg
                a video file, or images
            test://?frames=300&size=640x480&fps=30&seed=0&live=0
                a rendered scene, with live=1 at its own pace. Faults: drop=0.1 and corrupt=0.1 of
                the frames; resize=5 and gray=5, changes every 5 s; with live=1 also stall=3/10 and
                gone=2/10, silent or gone for 3 or 2 s after every 10 s
        on_state: told when the source goes into another state, by the thread that reads the frames.
        retry_first: return although a camera or stream cannot be opened yet.

    Raises:
        UsageError: no such file, or a malformed `uri`.
        DataError: a file that is no video or damaged, or has no picture in it.
        SourceError: a camera or stream that does not open or gives no frame.
        ResourceError: a package is missing.
    """
    text = str(uri)
    exists = not _is_camera(text) and os.path.lexists(text)
    address = Files(text) if exists else parse_address(text)
    if isinstance(address, Camera):
        return open_camera(address, on_state, retry_first=retry_first)
    if isinstance(address, Network) and not address.hardware:
        return open_network(address, on_state, retry_first=retry_first)
    if isinstance(address, (CsiCamera, Network, Pipeline)):
        return open_gstreamer(address, on_state, retry_first=retry_first)
    if isinstance(address, Screen):
        return open_screen(address, on_state, retry_first=retry_first)
    if isinstance(address, Files):
        if is_image_source(address.path):
            return _ImageSource(address.path, on_state)
        return open_file(Path(address.path), on_state)
    return open_test_scene(address, text, on_state)


class _ImageSource(Source):
    """Image files as frames; their sizes may differ."""

    def __init__(self, uri: str, on_state: OnStateChange | None = None):
        super().__init__(on_state)
        self.name, self.live, self.fps = uri, False, IMAGES_PER_SECOND
        self.files = tuple(_image_files(uri))
        self.frame_count = len(self.files)
        self.size = image_size(self.files[0])

    def _read(self) -> Generator[Frame, None, None]:
        for index, file in enumerate(self.files):
            image = read_image(file)
            yield Frame(image, index, index / IMAGES_PER_SECOND, now())


def _image_files(uri: str) -> list[Path]:
    """The images in their order; of a pattern such as %06d.jpg all numbers that are there."""
    pattern = Path(uri)
    number = _NUMBERED.search(pattern.name)
    if os.path.lexists(uri) or number is None:
        return list_images(uri)
    before, after = pattern.name[: number.start()], pattern.name[number.end() :]
    digits = f"[0-9]{{{number[1] or 1},}}"
    name = re.compile(f"{re.escape(before)}({digits}){re.escape(after)}")
    found = []
    if pattern.parent.is_dir():
        for path in pattern.parent.iterdir():
            if match := name.fullmatch(path.name):
                found.append((int(match[1]), path))
    if not found:
        fix = "check the folder and the number of digits"
        raise UsageError("no images match this pattern", where=uri, fix=fix)
    return [path for _, path in sorted(found)]


def _is_camera(text: str) -> bool:
    return text.isdecimal() or text.startswith("/dev/v")
