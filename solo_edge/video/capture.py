"""Moving pictures through PyAV: files, network streams, and devices that its FFmpeg knows."""

from __future__ import annotations

import errno
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import DataError, ResourceError, SoloEdgeError, UsageError
from solo_edge.video.addresses import Network
from solo_edge.video.base import Frame, Source
from solo_edge.video.clock import now
from solo_edge.video.connection import Connection, DamagedError, Opener, Picture, Piece
from solo_edge.video.failures import SourceFailure, failure_of, knock_on_port
from solo_edge.video.reconnect import LiveSource
from solo_edge.video.states import Failure, OnStateChange
from solo_edge.video.timeline import FALLBACK_FPS, Timeline, plausible_fps

__all__ = [
    "AvConnection",
    "FileSource",
    "av_opener",
    "import_av",
    "network_opener",
    "open_file",
    "open_network",
]

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 2.5  # a stream that is silent for longer is stalled
# FFmpeg's names of the containers that are read from files. Left out on purpose: playlists, which
# open other files and addresses, and formats without a mark, which recognise almost anything.
FILE_FORMATS = (
    "mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg",
    "gif", "apng", "h264", "hevc", "ivf", "obu", "mjpeg", "mxf", "nut", "dv", "yuv4mpegpipe",
)  # fmt: skip
# Their times are made up by FFmpeg, from a rate that is made up as well.
CLOCKLESS_FORMATS = ("mpjpeg", "mjpeg", "h264", "hevc")
# How much of a live stream is looked at before it plays; by default that is up to five seconds of it.
# `fflags=nobuffer` is no help: it throws away what was looked at, and with it the first key picture.
LIVE_OPTIONS = {"analyzeduration": "1000000", "fpsprobesize": "2"}


class AvConnection(Connection):
    """What PyAV has opened.

    Args:
        container: it is closed with the connection, or if there is no video in it.
        name: without credentials.
        stopped: nobody wants any more of it.
        finite: whether it has an end; None if that shows in whether it knows its length.

    Raises:
        SourceFailure: there is no video in it, or no decoder for it.
    """

    def __init__(
        self, container: Any, name: str, stopped: threading.Event, *, finite: bool | None = None
    ):
        from av.video.reformatter import VideoReformatter

        self._container, self._name, self._stopped = container, name, stopped
        try:
            if not container.streams.video:
                raise SourceFailure(Failure.DECODE, "there is no video in it", where=name)
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise SourceFailure(Failure.DECODE, "there is no decoder for it", where=name)
            kind = container.format.name
            has_end = container.duration is not None or kind.endswith("_pipe")
            self.finite = has_end if finite is None else finite
            self._has_clock = self.finite or kind not in CLOCKLESS_FORMATS
            if self._has_clock:
                self.fps = plausible_fps(stream.average_rate or stream.guessed_rate)
            self.frame_count = stream.frames or None
            self._index, self._time_base = stream.index, float(stream.time_base or 0)
            # It outlives the container: what was read before the end can still be decoded.
            self._decoder = stream.codec_context
            # Decoding several frames at a time is faster, but the newest would come late.
            self._decoder.thread_type = "AUTO" if self.finite else "SLICE"
        except BaseException:
            container.close()
            raise
        self._packets = container.demux()
        self._silent = False
        self._reformatter = VideoReformatter()

    def read(self) -> Piece | None:
        import av

        failure: SoloEdgeError
        while not self._stopped.is_set():
            if self._silent:
                failure = SourceFailure(Failure.STALLED, "nothing comes any more", where=self._name)
                break
            begin_s = now()
            try:
                packet = next(self._packets, None)
            except (av.error.FFmpegError, OSError) as error:
                failure = failure_of(error, self._name, playing=True)
                break
            if packet is None:
                if self.finite:
                    return None
                failure = SourceFailure(Failure.GONE, "the stream ended", where=self._name)
                break
            # FFmpeg may answer the end of its patience with a packet that it held back.
            self._silent = now() - begin_s >= READ_TIMEOUT_S
            if packet.stream_index == self._index:
                return Piece(packet, packet.size, packet.is_keyframe, now())
        else:
            return None
        raise failure  # here, so that FFmpeg's error and what it says is not part of its context

    def decode(self, piece: Piece, *, wanted: bool) -> list[Picture]:
        import av

        # The last, empty packet asks for what is still inside.
        packet = piece.data if piece.size else None
        try:
            frames = self._decoder.decode(packet)
        except av.error.FFmpegError:
            frames = None
        if frames is None:
            raise DamagedError
        captured_s = now()
        return [
            Picture(self._upright(frame) if wanted else None, self._time(frame), captured_s)
            for frame in frames
        ]

    def close(self) -> None:
        self._packets.close()
        self._container.close()

    def _time(self, frame: Any) -> float | None:
        """Not `frame.time`: frames that come out at the end lack its unit."""
        return frame.pts * self._time_base if self._has_clock and frame.pts is not None else None

    def _upright(self, frame: Any) -> NDArray[np.uint8]:
        """A frame of PyAV as [H, W, 3] uint8 RGB, turned as its display matrix says."""
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        image: NDArray[Any] = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


class FileSource(Source):
    """A video file."""

    def __init__(self, path: Path, on_state: OnStateChange | None = None):
        super().__init__(on_state)
        self.name, self.live, self.files = str(path), False, (path,)
        self._connection = _open_video_file(path)
        self.fps, self.frame_count = self._connection.fps, self._connection.frame_count
        self._pictures = self._decode()
        try:
            self._first = next(self._pictures, None)
            if self._first is None:
                raise DataError("no frame of it can be decoded", where=path, fix="record it again")
        except BaseException:
            self._connection.close()
            raise
        assert self._first.image is not None
        self.size = (self._first.image.shape[0], self._first.image.shape[1])

    def _read(self) -> Generator[Frame, None, None]:
        timeline = Timeline(self.fps or FALLBACK_FPS)
        picture, self._first, index = self._first, None, 0
        while picture is not None:
            assert picture.image is not None
            at_s = timeline.at(picture.stream_s, picture.captured_s)
            yield Frame(picture.image, index, at_s, picture.captured_s)
            index += 1
            picture = next(self._pictures, None)

    def _decode(self) -> Generator[Picture, None, None]:
        """Pictures. A piece that cannot be decoded costs no more than itself."""
        while True:
            try:
                piece = self._connection.read()
                if piece is None:
                    return
                pictures = self._connection.decode(piece, wanted=True)
            except DamagedError:
                self.damaged += 1
                continue
            except SourceFailure as failure:
                if failure.code is not Failure.DECODE:
                    raise _as_data_error(failure, self.name) from None
                self.damaged += 1  # the rest of the file is no video any more
                return
            yield from pictures

    def _release(self) -> None:
        super()._release()
        self._pictures.close()
        self._connection.close()


def open_file(path: Path, on_state: OnStateChange | None = None) -> Source:
    """A video file.

    Raises:
        UsageError: no such file. DataError: it cannot be read, or there is no video in it.
    """
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError:
        fix = "restore the file it points to" if path.is_symlink() else "check the path"
        raise UsageError("no such file", where=path, fix=fix) from None
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise DataError(what, where=path, fix="check the file") from None
    if empty:
        raise DataError("the file is empty", where=path, fix="record it again")
    return FileSource(path, on_state)


def open_network(
    network: Network, on_state: OnStateChange | None = None, *, retry_first: bool = False
) -> Source:
    """A stream, or a file on a web server.

    Raises:
        SourceError: it cannot be opened, and is not to be tried again.
    """
    knock = None
    if network.port is not None:
        knock = knock_on_port(network.host, network.port, network.name)
    return LiveSource(
        network.name,
        network_opener(network),
        knock=knock,
        on_state=on_state,
        retry_first=retry_first,
    )


def network_opener(network: Network) -> Opener:
    """What opens a stream with PyAV."""
    options = {}
    if network.scheme.startswith("rtsp"):
        options = {"rtsp_transport": "tcp", "allowed_media_types": "video"}
    return av_opener(network.uri, network.name, options, network=network)


def av_opener(
    uri: str,
    name: str,
    options: Mapping[str, str],
    *,
    format: str | None = None,
    network: Network | None = None,
    finite: bool | None = None,
) -> Opener:
    """What opens `uri` with PyAV; `finite` as for `AvConnection`."""
    import_av()

    def open_av(stopped: threading.Event) -> Connection:
        container = _open_container(uri, name, {**LIVE_OPTIONS, **options}, format, network)
        return AvConnection(container, name, stopped, finite=finite)

    return open_av


def import_av(*, required: bool = True) -> Any:
    """PyAV; None if it is missing and not required. Raises ResourceError if it is required."""
    try:
        import av
    except ImportError:
        if required:
            raise ResourceError("video needs PyAV", fix="pip install av") from None
        return None
    return av


def _open_container(
    uri: str, name: str, options: Mapping[str, str], format: str | None, network: Network | None
) -> Any:
    import av

    if uri != name and av.logging.get_level() is not None:
        av.logging.set_level(None)  # FFmpeg's log holds the address with the password
    failure: SoloEdgeError
    try:
        return av.open(
            uri, format=format, options=dict(options), timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        )
    except (av.error.FFmpegError, OSError) as error:
        failure, number = failure_of(error, name, playing=False), error.errno
    if number == errno.EIO and network is not None and network.port is not None:
        # FFmpeg says no more than that if, for example, there is no such host.
        failure = knock_on_port(network.host, network.port, name)() or failure
    raise failure


def _open_video_file(path: Path) -> AvConnection:
    av = import_av()
    # The prefix keeps a name like "a:b.mp4" from being taken for a protocol.
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FILE_FORMATS)}
    try:
        container = av.open(f"file:{path}", options=options)
    except (av.error.FFmpegError, OSError) as error:
        failure = failure_of(error, str(path), playing=False)
        raise _as_data_error(failure, str(path)) from None
    try:
        return AvConnection(container, str(path), threading.Event(), finite=True)
    except SourceFailure as failure:
        raise _as_data_error(failure, str(path)) from None


def _as_data_error(failure: SoloEdgeError, name: str) -> DataError:
    what = failure.reason if isinstance(failure, SourceFailure) else failure.what
    return DataError(what, where=name, fix="check the file")
