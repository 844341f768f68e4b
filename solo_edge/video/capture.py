"""Sources of moving pictures: video files, network streams and cameras.

Video is decoded by PyAV. Cameras are opened through PyAV where its FFmpeg knows V4L2 (the system's
package does), else through OpenCV.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import DataError, ResourceError, SoloEdgeError, SourceError, UsageError
from solo_edge.video.base import Frame, Source, redact
from solo_edge.video.clock import now

__all__ = [
    "AvSource",
    "OpenCvCamera",
    "import_av",
    "open_camera",
    "open_file",
    "open_network",
]

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0  # a stream that is silent for longer is gone
MAX_FPS = 1000.0  # more is a broken header: 90000 is common
# FFmpeg's names of the containers that are read from files. Left out on purpose: playlists, which
# open other files and addresses, and formats without a mark, which recognise almost anything.
FILE_FORMATS = (
    "mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg",
    "gif", "apng", "h264", "hevc", "ivf", "obu", "mjpeg", "mxf", "nut", "dv", "yuv4mpegpipe",
)  # fmt: skip
FALLBACK_FPS = 25.0  # of video that tells neither times nor a rate


class AvSource(Source):
    """What PyAV can decode: a file, a network stream or a V4L2 device."""

    def __init__(self, container: Any, name: str, *, live: bool, files: tuple[Path, ...] = ()):
        super().__init__()
        self.name, self.live, self.files = name, live, files
        self._container = container
        try:
            if not container.streams.video:
                raise self._error("there is no video in it", "name another one")
            self._stream = container.streams.video[0]
            # Decoding several frames at a time is faster, but the newest would come late.
            self._stream.thread_type = "SLICE" if live else "AUTO"
            self.fps = _plausible_fps(self._stream.average_rate or self._stream.guessed_rate)
            self.frame_count = self._stream.frames or None
            self._decoded = self._decode()
            self._first: Any = next(self._decoded, None)
            if self._first is None:
                raise self._error("no frame of it can be decoded", "record it again")
            self.size = _upright(self._first).shape[:2]
        except BaseException:
            container.close()
            raise

    def _read(self) -> Generator[Frame, None, None]:
        start_s, last_s, index = None, 0.0, 0
        frame, self._first = self._first, None
        while frame is not None:
            if frame.time is None:  # some cameras and raw streams tell no time
                at_s = index / (self.fps or FALLBACK_FPS)
            else:
                start_s = frame.time if start_s is None else start_s
                at_s = frame.time - start_s
            last_s = max(last_s, at_s)
            yield Frame(_upright(frame), index, last_s)
            index += 1
            frame = next(self._decoded, None)
        if self.live:
            raise self._error("the stream ended", "start it again")

    def _decode(self) -> Generator[Any, None, None]:
        """Frames of PyAV. A packet that cannot be decoded costs no more than itself."""
        import av

        with _told_as(self._error):
            try:
                for packet in self._container.demux(self._stream):
                    try:
                        frames = packet.decode()
                    except av.error.InvalidDataError:
                        self.damaged += 1
                        continue
                    yield from frames
            except av.error.InvalidDataError:  # the rest of the file is no video any more
                self.damaged += 1

    def _error(self, what: str, fix: str) -> SourceError | DataError:
        return (SourceError if self.live else DataError)(what, where=self.name, fix=fix)

    def _release(self) -> None:
        super()._release()
        self._decoded.close()
        self._container.close()


class OpenCvCamera(Source):
    """A camera through `capture`, an opened `cv2.VideoCapture`."""

    def __init__(self, capture: Any, name: str):
        import cv2

        super().__init__()
        self.name, self.live, self.frame_count = name, True, None
        self._capture = capture
        first: Any = capture.read()[1] if capture.isOpened() else None
        if first is None:
            capture.release()
            raise SourceError(
                "the camera gives no picture", where=name, fix="is another program using it?"
            )
        self._first = first
        self.fps = _plausible_fps(capture.get(cv2.CAP_PROP_FPS))
        self.size = first.shape[:2]

    def _read(self) -> Generator[Frame, None, None]:
        import cv2

        start_s, index = now(), 0
        picture, self._first = self._first, None
        while picture is not None:
            code = cv2.COLOR_GRAY2RGB if picture.ndim == 2 else cv2.COLOR_BGR2RGB
            image: NDArray[Any] = cv2.cvtColor(picture, code)
            yield Frame(image, index, now() - start_s if index else 0.0)
            index += 1
            _, picture = self._capture.read()
        raise SourceError("the camera went away", where=self.name, fix="check its cable")

    def _release(self) -> None:
        super()._release()
        self._capture.release()


def open_camera(text: str) -> Source:
    device = f"/dev/video{text}" if text.isdecimal() and sys.platform == "linux" else text
    if sys.platform == "linux":
        if not os.path.lexists(device):
            there = ", ".join(sorted(map(str, Path("/dev").glob("video*"))))
            fix = f"cameras here: {there}" if there else "connect one; none is there"
            raise SourceError("there is no such camera", where=device, fix=fix)
        if not os.access(device, os.R_OK | os.W_OK):
            fix = "add this user to the group 'video'"
            raise SourceError("no permission to use the camera", where=device, fix=fix)
        av = import_av(required=False)
        if av is not None and "v4l2" in av.formats_available:
            return _open_av(device, device, format="v4l2")
    try:
        import cv2
    except ImportError:
        fix = "pip install opencv-python-headless"
        raise ResourceError("a camera needs OpenCV", where=device, fix=fix) from None
    on_linux = sys.platform == "linux"
    number = int(text) if text.isdecimal() and not on_linux else device
    capture = cv2.VideoCapture(number, cv2.CAP_V4L2 if on_linux else cv2.CAP_ANY)
    return OpenCvCamera(capture, device)


def open_network(uri: str) -> Source:
    options = {"rtsp_transport": "tcp"} if uri.startswith("rtsp") else {}
    return _open_av(uri, redact(uri), options=options)


def _open_av(uri: str, name: str, **options: Any) -> Source:
    """A live source. One that knows its length, as a file on a web server does, is not live."""
    av = import_av()

    def error(what: str, fix: str) -> SourceError:
        return SourceError(what, where=name, fix=fix)

    with _told_as(error):
        container = av.open(uri, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S), **options)
    return AvSource(container, name, live=container.duration is None)


def open_file(path: Path) -> Source:
    av = import_av()

    def error(what: str, fix: str) -> DataError:
        return DataError(what, where=path, fix=fix)

    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        fix = "restore the file it points to" if path.is_symlink() else "check the path"
        raise UsageError("no such file", where=path, fix=fix) from None
    except OSError as cause:
        raise error(f"cannot be read ({cause.strerror or cause})", "check the file") from None
    if empty:
        raise error("the file is empty", "record it again")
    # The prefix keeps a name like "a:b.mp4" from being taken for a protocol.
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FILE_FORMATS)}
    with _told_as(error):
        container = av.open(f"file:{path}", options=options)
    return AvSource(container, str(path), live=False, files=(path,))


def import_av(*, required: bool = True) -> Any:
    try:
        import av
    except ImportError:
        if required:
            raise ResourceError("video needs PyAV", fix="pip install av") from None
        return None
    return av


@contextmanager
def _told_as(make_error: Callable[[str, str], SoloEdgeError]) -> Iterator[None]:
    """Tell FFmpeg's errors as ours. Its own text may hold the address with the password: left out."""
    import av

    try:
        yield
    except (av.error.ExitError, av.error.TimeoutError):
        raise make_error("no answer in time", "check the address and the network") from None
    except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError):
        raise make_error("access refused", "check the user name and the password") from None
    except (av.error.InvalidDataError, av.error.ArgumentError):
        raise make_error("damaged, or no video of a known kind", "check the file") from None
    except (av.error.FFmpegError, OSError) as error:
        what = f"cannot be read ({(error.strerror or 'unknown error').lower()})"
        raise make_error(what, "check that it is there and can be played") from None


def _plausible_fps(rate: Any) -> float | None:
    fps = float(rate or 0.0)
    return fps if math.isfinite(fps) and 0.0 < fps <= MAX_FPS else None


def _upright(frame: Any) -> NDArray[np.uint8]:
    """A frame of PyAV as [H, W, 3] uint8 RGB, turned as its display matrix says."""
    image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
