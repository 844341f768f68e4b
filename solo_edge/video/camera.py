"""Cameras and screens of this machine.

A camera is opened through PyAV where its FFmpeg knows V4L2 (the system's package does), else through
OpenCV.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from solo_edge.errors import ResourceError
from solo_edge.video.addresses import Camera, Screen
from solo_edge.video.base import Source
from solo_edge.video.capture import av_opener, import_av
from solo_edge.video.clock import now
from solo_edge.video.connection import Connection, Opener, Picture, Piece
from solo_edge.video.failures import SourceFailure, knock_on_device
from solo_edge.video.reconnect import LiveSource
from solo_edge.video.states import Failure, OnStateChange
from solo_edge.video.timeline import plausible_fps

__all__ = ["OpenCvConnection", "open_camera", "open_screen", "stable_path"]

DEVICES = Path("/dev")
LINKS = Path("/dev/v4l/by-id")  # names of cameras that stay when the numbers change
FOURCC = {"mjpeg": "MJPG", "yuyv422": "YUYV", "h264": "H264", "nv12": "NV12"}
SCREENS = {"linux": "x11grab", "darwin": "avfoundation", "win32": "gdigrab"}


class OpenCvConnection(Connection):
    """An opened `cv2.VideoCapture`.

    Args:
        name: without credentials.
        fix: what to do if it did not open.

    Raises:
        SourceFailure: it did not open.
    """

    def __init__(self, capture: Any, name: str, fix: str = "is another program using it?"):
        import cv2

        self._capture, self._name = capture, name
        if not capture.isOpened():
            capture.release()
            raise SourceFailure(Failure.GONE, "it cannot be opened", where=name, fix=fix)
        self.fps = plausible_fps(capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> Piece | None:
        good, picture = self._capture.read()
        if not good or picture is None:
            fix = "check its cable"
            raise SourceFailure(Failure.GONE, "it gives no picture", where=self._name, fix=fix)
        return Piece(picture, picture.nbytes, True, now())

    def decode(self, piece: Piece, *, wanted: bool) -> list[Picture]:
        import cv2

        if not wanted:
            return [Picture(None, None, piece.arrived_s)]
        code = cv2.COLOR_GRAY2RGB if piece.data.ndim == 2 else cv2.COLOR_BGR2RGB
        image: NDArray[Any] = cv2.cvtColor(piece.data, code)
        return [Picture(image, None, piece.arrived_s)]

    def close(self) -> None:
        self._capture.release()


def open_camera(
    camera: Camera, on_state: OnStateChange | None = None, *, retry_first: bool = False
) -> Source:
    """A camera of this machine.

    Raises:
        SourceError: it is not there, or gives no picture. ResourceError: OpenCV is missing.
    """
    if sys.platform != "linux":
        name = camera.device
        return LiveSource(
            name, _opencv_opener(camera, name), on_state=on_state, retry_first=retry_first
        )
    device = stable_path(camera.device)
    # What the user wrote is the better name, but the other one still holds after a replug.
    name = f"/dev/video{camera.device}" if camera.device.isdecimal() else camera.device
    av = import_av(required=False)
    if av is not None and "v4l2" in av.formats_available:
        opener = av_opener(str(device), name, _v4l2_options(camera), format="v4l2", finite=False)
    else:
        opener = _opencv_opener(camera, name, device)
    return LiveSource(
        name,
        _checked(opener, device, name),
        knock=knock_on_device(device.exists, name),
        on_state=on_state,
        retry_first=retry_first,
    )


def stable_path(device: str) -> Path:
    """The name under `/dev/v4l/by-id` of a camera that has one, else what was given."""
    path = DEVICES / f"video{device}" if device.isdecimal() else Path(device)
    if path.parent == LINKS or not path.exists():
        return path
    real = path.resolve()
    for link in sorted(LINKS.glob("*")):
        if link.resolve() == real:
            return link
    return path


def open_screen(
    screen: Screen, on_state: OnStateChange | None = None, *, retry_first: bool = False
) -> Source:
    """What a monitor shows.

    Raises:
        ResourceError: this platform or PyAV cannot do that. SourceError: the screen does not open.
    """
    kind = SCREENS.get(sys.platform, "")
    name = f"screen://{screen.display}"
    if kind not in import_av().formats_available:
        what = "this PyAV cannot record the screen here"
        raise ResourceError(what, where=name, fix="use another source")
    options = {"framerate": f"{screen.fps:g}"}
    if screen.size is not None:
        options["video_size"] = f"{screen.size[1]}x{screen.size[0]}"
    x, y = screen.offset
    if kind == "x11grab":
        display = screen.display or os.environ.get("DISPLAY", "")
        if not display:
            fix = "set DISPLAY, or write screen://:0"
            raise ResourceError("there is no screen here", where=name, fix=fix)
        target = f"{display}+{x},{y}"
    elif kind == "gdigrab":
        options |= {"offset_x": str(x), "offset_y": str(y)}
        target = "desktop"
    else:
        target = f"Capture screen {screen.display or 0}:none"
    opener = av_opener(target, name, options, format=kind, finite=False)
    return LiveSource(name, opener, on_state=on_state, retry_first=retry_first)


def _v4l2_options(camera: Camera) -> dict[str, str]:
    options = {}
    if camera.size is not None:
        options["video_size"] = f"{camera.size[1]}x{camera.size[0]}"
    if camera.fps is not None:
        options["framerate"] = f"{camera.fps:g}"
    if camera.format is not None:
        options["input_format"] = camera.format
    return options


def _opencv_opener(camera: Camera, name: str, device: Path | None = None) -> Opener:
    try:
        import cv2
    except ImportError:
        fix = "pip install opencv-python-headless"
        raise ResourceError("a camera needs OpenCV", where=name, fix=fix) from None

    def open_opencv(stopped: threading.Event) -> Connection:
        if device is not None:
            # By its number: OpenCV takes a path for that of a file.
            real = str(device.resolve()).removeprefix("/dev/video")
            target: int | str = int(real) if real.isdecimal() else str(device)
            capture = cv2.VideoCapture(target, cv2.CAP_V4L2)
        else:
            target = int(camera.device) if camera.device.isdecimal() else camera.device
            capture = cv2.VideoCapture(target, cv2.CAP_ANY)
        if camera.format is not None:
            code = FOURCC.get(camera.format, camera.format.upper())[:4].ljust(4)
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*code))
        if camera.size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, camera.size[1])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.size[0])
        if camera.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, camera.fps)
        return OpenCvConnection(capture, name)

    return open_opencv


def _checked(opener: Opener, device: Path, name: str) -> Opener:
    """`opener`, but first the reasons that drivers do not tell."""

    def open_checked(stopped: threading.Event) -> Connection:
        if not device.exists():
            there = ", ".join(sorted(map(str, DEVICES.glob("video*"))))
            fix = f"cameras here: {there}" if there else "connect one; none is there"
            raise SourceFailure(Failure.NOT_FOUND, "there is no such camera", where=name, fix=fix)
        if not os.access(device, os.R_OK | os.W_OK):
            fix = "add this user to the group 'video'"
            raise SourceFailure(
                Failure.AUTH, "no permission to use the camera", where=name, fix=fix
            )
        return opener(stopped)

    return open_checked
