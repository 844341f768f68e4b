"""What a user writes for a source, taken apart. Nothing is opened or looked at here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from solo_edge.errors import UsageError, did_you_mean
from solo_edge.video.base import redact
from solo_edge.video.timeline import MAX_FPS

__all__ = [
    "Address",
    "Camera",
    "CsiCamera",
    "Files",
    "Network",
    "Pipeline",
    "Screen",
    "TestScene",
    "parse_address",
]

NETWORK_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "udp": None}
HARDWARE = "gst+"  # before rtsp:// or rtsps://
OTHER_SCHEMES = ("v4l2", "csi", "screen", "gst", "test", "file")
SMALLEST, LARGEST = 64, 8192  # sides of a picture in pixels

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_SENSOR = re.compile(r"[0-9]{1,2}")
_DEVICE = re.compile(r"[0-9]{1,4}|/dev/[A-Za-z0-9._:+/-]+")
_DISPLAY = re.compile(r"[A-Za-z0-9_.:-]*")


@dataclass(frozen=True)
class Camera:
    """A camera of the system: V4L2 on Linux, else whatever OpenCV finds under the number."""

    device: str  # "0", "/dev/video0", "/dev/v4l/by-id/..."
    size: tuple[int, int] | None = None  # (height, width)
    fps: float | None = None
    format: str | None = None  # as the driver sends it: "mjpeg", "yuyv422"


@dataclass(frozen=True)
class CsiCamera:
    """A camera on the ribbon cable of a Jetson."""

    sensor: int
    size: tuple[int, int] = (720, 1280)
    fps: int = 30
    flip: int = 0  # nvvidconv's flip-method: 0 as it is, 2 upside down


@dataclass(frozen=True)
class Network:
    """A stream, or a file on a web server."""

    uri: str = field(repr=False)  # with its password
    scheme: str
    host: str = field(repr=False)  # which may be part of a password that was not escaped
    port: int | None  # None where nobody can be asked whether it is open
    hardware: bool = False  # decode by GStreamer

    @property
    def name(self) -> str:
        return redact(self.uri)


@dataclass(frozen=True)
class Screen:
    """What a monitor shows."""

    display: str  # of X11: ":0"; "" is the usual one
    size: tuple[int, int] | None = None
    offset: tuple[int, int] = (0, 0)  # (x, y) of its corner
    fps: float = 30.0


@dataclass(frozen=True)
class Pipeline:
    """Elements of GStreamer, as `gst-launch-1.0` takes them, without the sink."""

    text: str = field(repr=False)


@dataclass(frozen=True)
class TestScene:
    """A rendered scene, and what goes wrong with it."""

    __test__ = False  # to pytest

    frames: int = 300  # 0: without end
    size: tuple[int, int] = (480, 640)  # (height, width)
    fps: float = 30.0
    seed: int = 0
    live: bool = False  # at its own pace
    drop: float = 0.0  # share of the frames that the camera leaves out
    corrupt: float = 0.0  # share of the frames with damaged bytes
    stall: tuple[float, float] | None = None  # silent for a after every b seconds
    gone: tuple[float, float] | None = None  # not to be reached for a after every b seconds
    resize: float | None = None  # another size every so many seconds
    gray: float | None = None  # between colour and gray every so many seconds


@dataclass(frozen=True)
class Files:
    """A file, folder or pattern."""

    path: str


Address = Camera | CsiCamera | Network | Screen | Pipeline | TestScene | Files


def parse_address(text: str) -> Address:
    """Take a source apart.

    Raises:
        UsageError: an unknown scheme or option, or a value that makes no sense.
    """
    if text.isdecimal() or text.startswith("/dev/v"):
        return _camera(text, "", text)
    match = _SCHEME.match(text)
    if match is None:
        return Files(text)
    scheme = match.group().lower()
    rest = text[match.end() + len("://") :]
    if scheme.removeprefix(HARDWARE) in NETWORK_PORTS:
        return _network(scheme, rest)
    if scheme == "gst":
        return Pipeline(rest)
    if scheme == "file":
        return Files(rest)
    where, _, query = rest.partition("?")
    if scheme == "v4l2":
        return _camera(where, query, text)
    if scheme == "csi":
        return _csi(where, query, text)
    if scheme == "screen":
        return _screen(where, query, text)
    if scheme == "test":
        return _test_scene(query, text)
    known = (*NETWORK_PORTS, *OTHER_SCHEMES, *(f"{HARDWARE}{name}" for name in ("rtsp", "rtsps")))
    raise UsageError(f"unknown kind of source {scheme}://", fix=did_you_mean(scheme, known))


def _camera(device: str, query: str, text: str) -> Camera:
    if not _DEVICE.fullmatch(device) or ".." in device:
        fix = "write 0, /dev/video0 or v4l2:///dev/v4l/by-id/NAME"
        raise UsageError("no name of a camera", where=text, fix=fix)
    return Camera(device, **_options(query, {"size": _size, "fps": _fps, "format": _word}, text))


def _csi(sensor: str, query: str, text: str) -> CsiCamera:
    if not _SENSOR.fullmatch(sensor or "0"):
        raise UsageError("a CSI camera has a number", where=text, fix="write csi://0")
    options = _options(query, {"size": _size, "fps": _whole(1, 1000), "flip": _whole(0, 7)}, text)
    return CsiCamera(int(sensor or "0"), **options)


def _screen(display: str, query: str, text: str) -> Screen:
    if not _DISPLAY.fullmatch(display):
        raise UsageError("no name of a screen", where=text, fix="write screen:// or screen://:0")
    return Screen(display, **_options(query, {"size": _size, "offset": _offset, "fps": _fps}, text))


def _test_scene(query: str, text: str) -> TestScene:
    parsers: dict[str, Callable[[str], Any]] = {
        "frames": _whole(0, 10**12),
        "size": _size,
        "fps": _fps,
        "seed": _whole(0, 2**32 - 1),
        "live": _switch,
        "drop": _share,
        "corrupt": _share,
        "stall": _outage,
        "gone": _outage,
        "resize": _seconds,
        "gray": _seconds,
    }
    scene = TestScene(**_options(query, parsers, text))
    if min(scene.size) < SMALLEST:
        raise UsageError(f"size begins at {SMALLEST}x{SMALLEST}", where=text, fix="enlarge it")
    if not scene.live and (scene.stall or scene.gone or not scene.frames):
        what = "stall, gone and frames=0 belong to a live scene"
        raise UsageError(what, where=text, fix="add live=1")
    return scene


def _network(scheme: str, rest: str) -> Network:
    name = redact(f"{scheme}://{rest}")
    protocol = scheme.removeprefix(HARDWARE)
    hardware = protocol != scheme
    if hardware and not protocol.startswith("rtsp"):
        fix = f"leave out {HARDWARE}"
        raise UsageError("hardware decoding is for rtsp:// and rtsps://", where=name, fix=fix)
    # As FFmpeg does it: the address goes to the first / ? or #, the user to the last @ in it.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?", authority)
    escape = "in a user or password, / ? # and @ become %2F %3F %23 %40"
    if match is None or not 0 < int(match[2] or 1) < 65536:
        fix = f"write it as host or host:port; {escape}"
        raise UsageError("no valid host and port", where=name, fix=fix)
    if "#" in rest:  # no server ever sees it, so it is the rest of a password
        raise UsageError("an address has no #", where=name, fix=escape)
    host = match[1].strip("[]")
    if not host and protocol != "udp":
        raise UsageError("there is no host", where=name, fix=f"write {scheme}://HOST/...")
    default = NETWORK_PORTS[protocol]
    port = None if default is None else int(match[2] or default)
    return Network(f"{protocol}://{rest}", protocol, host, port, hardware)


def _options(query: str, parsers: Mapping[str, Callable[[str], Any]], text: str) -> dict[str, Any]:
    """The values of `?key=value&...`, each read by its parser."""
    values = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in parsers:
            fix = did_you_mean(key, parsers)
            raise UsageError(f"unknown option {key!r}", where=text, fix=fix)
        try:
            values[key] = parsers[key](value)
        except ValueError as error:
            raise UsageError(f"{key}={value}: {error}", where=text, fix="change it") from None
    return values


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError("is no number") from None


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,15}", value) or not lowest <= int(value) <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(value)

    return read


def _size(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)
    if match is None or not all(0 < int(side) <= LARGEST for side in match.groups()):
        raise ValueError(f"must be WIDTHxHEIGHT, each up to {LARGEST}")
    return int(match[2]), int(match[1])


def _offset(value: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,5}),([0-9]{1,5})", value)
    if match is None:
        raise ValueError("must be X,Y in pixels")
    return int(match[1]), int(match[2])


def _fps(value: str) -> float:
    fps = _number(value)
    if not 0.0 < fps <= MAX_FPS:
        raise ValueError(f"must be positive, up to {MAX_FPS:.0f}")
    return fps


def _share(value: str) -> float:
    share = _number(value)
    if not 0.0 <= share < 1.0:
        raise ValueError("must be a share from 0 to below 1")
    return share


def _seconds(value: str) -> float:
    seconds = _number(value)
    if not 0.01 <= seconds <= 1e6:
        raise ValueError("must be seconds from 0.01 on")
    return seconds


def _outage(value: str) -> tuple[float, float]:
    lasts, separator, after = value.partition("/")
    if not separator:
        raise ValueError("must be SECONDS/AFTER, as in 3/10: 3 s after every 10 s")
    return _seconds(lasts), _seconds(after)


def _switch(value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError("must be 0 or 1")
    return value == "1"


def _word(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]{1,20}", value):
        raise ValueError("must be a short name such as mjpeg or yuyv422")
    return value
