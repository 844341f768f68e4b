"""Sources through GStreamer, which on a Jetson decodes in hardware: the system's OpenCV runs it.

What a user may write is a chain of known elements with plain properties. It begins with a source, and
the sink is ours: nothing that writes files or opens a port for others can be part of it.
"""

from __future__ import annotations

import platform
import re
import threading
from pathlib import Path
from urllib.parse import quote, unquote

from solo_edge.errors import ResourceError, UsageError, did_you_mean
from solo_edge.video.addresses import CsiCamera, Network, Pipeline
from solo_edge.video.base import Source
from solo_edge.video.camera import OpenCvConnection
from solo_edge.video.capture import import_av, network_opener
from solo_edge.video.connection import Connection, Opener
from solo_edge.video.failures import SourceFailure, knock_on_port
from solo_edge.video.reconnect import LiveSource
from solo_edge.video.states import Failure, OnStateChange

__all__ = ["checked_pipeline", "csi_pipeline", "open_gstreamer", "rtsp_pipeline"]

# One picture waits, the newest; GStreamer's clock does not hold it back.
SINK = "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
SOURCES = (
    "ksvideosrc", "libcamerasrc", "multifilesrc", "filesrc", "nvarguscamerasrc", "nvv4l2camerasrc",
    "rtspsrc", "souphttpsrc", "srtsrc", "udpsrc", "uridecodebin", "v4l2src", "videotestsrc", "ximagesrc",
    "avfvideosrc", "rtmpsrc", "tcpclientsrc",
)  # fmt: skip
FILTERS = (
    "avdec_h264", "avdec_h265", "avdec_mjpeg", "capsfilter", "decodebin", "deinterlace", "flvdemux",
    "h264parse", "h265parse", "jpegdec", "jpegparse", "matroskademux", "multipartdemux",
    "nvjpegdec", "nvv4l2decoder", "nvvidconv", "nvvideoconvert", "parsebin", "qtdemux", "queue",
    "rtpbin", "rtph264depay", "rtph265depay", "rtpjitterbuffer", "rtpjpegdepay", "rtpmp2tdepay", "tsdemux",
    "v4l2convert", "v4l2h264dec", "vaapidecodebin", "videobox", "videoconvert", "videocrop", "videoflip",
    "videorate", "videoscale",
)  # fmt: skip
NVIDIA_PLUGIN = "gstreamer-1.0/libgstnvvidconv.so"
LIBRARIES = (Path("/usr/lib"), Path("/usr/lib/aarch64-linux-gnu"))

_PROPERTY = re.compile(r'([a-z][a-z0-9-]*)=(?:"([^"\\\x00-\x1f]*)"|([A-Za-z0-9_./:+%@?&,=~-]+))')
_CAPS = re.compile(
    r"(?:video|image)/[a-z0-9.-]+(?:\(memory:[A-Za-z]+\))?(?:,[a-z-]+=[A-Za-z0-9_()/.:+-]+)*"
)
_TELLING = ("device", "sensor-id", "port", "pattern")  # properties that are shown with the name


def open_gstreamer(
    address: Pipeline | CsiCamera | Network,
    on_state: OnStateChange | None = None,
    *,
    retry_first: bool = False,
) -> Source:
    """A source through GStreamer.

    Raises:
        UsageError: a pipeline with something else in it than what is known.
        ResourceError: OpenCV is missing or cannot do that. SourceError: the source does not open.
    """
    knock = None
    if isinstance(address, CsiCamera):
        name, pipeline = f"csi://{address.sensor}", csi_pipeline(address)
        if platform.machine() != "aarch64":
            raise ResourceError("CSI cameras belong to a Jetson", where=name, fix="run it there")
        opener = _opener(pipeline, name)
    elif isinstance(address, Network):
        name, pipeline = address.name, rtsp_pipeline(address, nvidia=_has_nvidia_plugin())
        assert address.port is not None
        knock = knock_on_port(address.host, address.port, name)
        opener = _explained(_opener(pipeline, name), address)
    else:
        name, pipeline = checked_pipeline(address.text)
        opener = _opener(pipeline, name)
    return LiveSource(name, opener, knock=knock, on_state=on_state, retry_first=retry_first)


def csi_pipeline(camera: CsiCamera) -> str:
    """The pipeline of a CSI camera: pictures stay in the GPU's memory (NVMM) until they are converted."""
    height, width = camera.size
    return (
        f"nvarguscamerasrc sensor-id={camera.sensor}"
        f" ! video/x-raw(memory:NVMM),width={width},height={height},framerate={camera.fps}/1,format=NV12"
        f" ! nvvidconv flip-method={camera.flip} ! video/x-raw,format=BGRx ! videoconvert ! {SINK}"
    )


def rtsp_pipeline(network: Network, *, nvidia: bool) -> str:
    """The pipeline of an RTSP stream; with NVIDIA's plugin, decoding and scaling stay in the GPU's memory."""
    scheme, _, rest = network.uri.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    login, at, host = authority.rpartition("@")
    user, _, password = (unquote(part) for part in login.partition(":"))
    # Everything but the plain characters of an address is escaped; quotes cannot occur.
    location = quote(f"{scheme}://{host}{rest[len(authority) :]}", safe=":/?&=%~.,+;@[]-_")
    source = f'rtspsrc location="{location}" protocols=tcp latency=100'
    if at:
        source += f' user-id="{_quotable(user, network)}" user-pw="{_quotable(password, network)}"'
    convert = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert" if nvidia else "videoconvert"
    return f"{source} ! application/x-rtp,media=video ! decodebin ! {convert} ! {SINK}"


def checked_pipeline(text: str) -> tuple[str, str]:
    """Name and complete pipeline of what follows `gst://`.

    Raises:
        UsageError: an element, property or caps that is not in the grammar.
    """
    parts = [part.strip() for part in re.split(r'!(?=(?:[^"]*"[^"]*")*[^"]*$)', text)]
    shown = []
    for position, part in enumerate(parts):
        if position and _CAPS.fullmatch(part.replace(", ", ",")):
            continue
        shown.append(_checked_element(part, SOURCES if position == 0 else FILTERS))
    return f"gst://{' ! '.join(shown)}", f"{' ! '.join(parts)} ! videoconvert ! {SINK}"


def _checked_element(part: str, known: tuple[str, ...]) -> str:
    """What is shown of an element. Values may be secret and are not."""
    element, _, properties = part.partition(" ")
    if element not in known:
        kind = "source" if known is SOURCES else "element"
        what = f"unknown {kind} of a pipeline {element[:40]!r}"
        raise UsageError(what, where="gst://", fix=did_you_mean(element, known))
    shown = element
    for text in re.findall(r'(?:[^\s"]|"[^"]*"?)+', properties):
        match = _PROPERTY.fullmatch(text)
        if match is None:
            what = f"a property of {element} is not written as name=value"
            fix = 'values with spaces stand in "...", without \\'
            raise UsageError(what, where="gst://", fix=fix)
        if match[1] in _TELLING:
            shown += f" {match[1]}={match[2] or match[3]}"
    return shown


def _quotable(text: str, network: Network) -> str:
    if re.search(r'["\\\x00-\x1f]', text):
        what = "GStreamer takes no user or password with quotes or backslashes"
        raise UsageError(what, where=network.name, fix="leave out gst+")
    return text


def _opener(pipeline: str, name: str) -> Opener:
    try:
        import cv2
    except ImportError:
        fix = "install the system's OpenCV (on a Jetson it comes with JetPack)"
        raise ResourceError("GStreamer needs OpenCV", where=name, fix=fix) from None
    if not cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER):
        fix = "use the system's OpenCV: remove opencv-python from this environment"
        raise ResourceError("this OpenCV was built without GStreamer", where=name, fix=fix)

    def open_pipeline(stopped: threading.Event) -> Connection:
        # Its warnings hold the pipeline, and so the password. Versions differ in where this is.
        logging = getattr(cv2.utils, "logging", cv2)
        logging.setLogLevel(0)
        capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
        return OpenCvConnection(capture, name, "try its elements with gst-launch-1.0")

    return open_pipeline


def _explained(opener: Opener, network: Network) -> Opener:
    """`opener`, but when it fails FFmpeg is asked why: a wrong password must not be tried often."""

    def open_explained(stopped: threading.Event) -> Connection:
        try:
            return opener(stopped)
        except SourceFailure:
            if import_av(required=False) is None:
                raise
        network_opener(network)(stopped).close()
        raise SourceFailure(Failure.DECODE, "GStreamer cannot play it", where=network.name)

    return open_explained


def _has_nvidia_plugin() -> bool:
    return any((folder / NVIDIA_PLUGIN).exists() for folder in LIBRARIES)
