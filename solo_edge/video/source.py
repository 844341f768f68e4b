"""Where frames come from: cameras, video files, network streams, images, and a rendered test scene."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Generator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from solo_edge.errors import DataError, ResourceError, UsageError, did_you_mean
from solo_edge.images import IMAGE_SUFFIXES, image_size, list_images, read_image
from solo_edge.video.base import Frame, Source, redact
from solo_edge.video.capture import MAX_FPS, open_camera, open_file, open_network
from solo_edge.video.clock import now

__all__ = ["Frame", "Source", "is_image_source", "open_source", "redact"]

NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp")
IMAGES_PER_SECOND = 10.0  # the pace of images that become a video


def is_image_source(uri: str | Path) -> bool:
    """Whether `uri` names images (a file, a folder, a pattern) rather than a camera, stream or video.

    A file with an unknown suffix is looked into.
    """
    text = str(uri)
    if _is_camera(text) or "://" in text:
        return False
    path = Path(text)
    if not os.path.lexists(path):
        return glob.has_magic(text)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        image_size(path)
    except (DataError, ResourceError, UsageError):
        return False
    return True


def open_source(uri: str | int | Path) -> Source:
    """Open a source; its first frame is there when this returns, unless it is a folder of bad images.

    Args:
        uri: a camera (`0`, `/dev/video0`), a video file, `rtsp://` or `http://` and the like, an
            image, a folder or pattern of images, or a rendered scene
            `test://?frames=300&size=640x480&fps=30&seed=0&live=0` (with `live=1` at its own pace).

    Raises:
        UsageError: no such file, or a malformed `uri`.
        DataError: a file that is no video or damaged, or has no picture in it.
        SourceError: a camera or stream that does not open or gives no frame.
        ResourceError: a package is missing.
    """
    text = str(uri)
    if _is_camera(text):
        return open_camera(text)
    scheme, separator, _ = text.partition("://")
    if separator and not os.path.lexists(text):
        if scheme == "test":
            return _TestSource(text)
        if scheme not in NETWORK_SCHEMES:
            known = (*NETWORK_SCHEMES, "test")
            raise UsageError(f"unknown kind of source {scheme}://", fix=did_you_mean(scheme, known))
        return open_network(text)
    if is_image_source(text):
        return _ImageSource(text)
    return open_file(Path(text))


class _ImageSource(Source):
    """Image files as frames; their sizes may differ."""

    def __init__(self, uri: str):
        super().__init__()
        self.name, self.live, self.fps = uri, False, IMAGES_PER_SECOND
        self.files = tuple(list_images(uri))
        self.frame_count = len(self.files)
        self.size = image_size(self.files[0])

    def _read(self) -> Generator[Frame, None, None]:
        for index, file in enumerate(self.files):
            yield Frame(read_image(file), index, index / IMAGES_PER_SECOND)


class _TestSource(Source):
    """A rendered scene: `test://?frames=300&size=640x480&fps=30&seed=0&live=0`, every part optional."""

    def __init__(self, uri: str):
        super().__init__()
        options = {"frames": "300", "size": "640x480", "fps": "30", "seed": "0", "live": "0"}
        for key, value in parse_qsl(urlsplit(uri).query, keep_blank_values=True):
            if key not in options:
                raise UsageError(
                    f"unknown option {key!r}", where=uri, fix=did_you_mean(key, options)
                )
            options[key] = value
        try:
            width, height = (int(side) for side in options["size"].split("x"))
            self.fps: float = float(options["fps"])
            self.frame_count: int = int(options["frames"])
            self._seed = int(options["seed"])
            self.live = {"0": False, "1": True}[options["live"]]
        except (ValueError, KeyError):
            fix = "write test://?frames=300&size=640x480&fps=30&seed=0&live=0"
            raise UsageError("malformed test source", where=uri, fix=fix) from None
        self.name, self.size = uri, (height, width)
        good = min(self.size) >= 64 and max(self.size) <= 8192 and self._seed >= 0
        if not (good and self.frame_count >= 1 and 0 < self.fps <= MAX_FPS):
            what = (
                "frames and fps must be positive, seed not negative, size from 64x64 to 8192x8192"
            )
            raise UsageError(what, where=uri, fix="change it")

    def _read(self) -> Generator[Frame, None, None]:
        from solo_edge.data.synthetic import SceneAnimation

        animation = SceneAnimation(self._seed, self.size)
        start_s = now()
        for index in range(self.frame_count):
            at_s = index / self.fps
            image, _ = animation.frame(at_s)
            if self.live:
                time.sleep(max(0.0, start_s + at_s - now()))
            yield Frame(image, index, at_s)


def _is_camera(text: str) -> bool:
    return text.isdecimal() or text.startswith("/dev/v")
