"""Video that is encoded all the time and kept only where something happens.

The last seconds wait in memory as encoded packets, a few megabits a second, so that a clip can begin before
what it was made for, without encoding anything twice.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ResourceError
from solo_edge.files import writing
from solo_edge.video.capture import import_av
from solo_edge.video.sink import (
    MARK,
    TICKS_PER_SECOND,
    letterbox,
    muxer_options,
    set_up_encoder,
    working_encoder,
)

__all__ = ["Clip", "RollingEncoder"]

KEY_EVERY_S = 1.0  # a clip can begin at each of these frames
MAX_GOP = 1000  # frames, when none is asked for: more than come in that time


class _Encoded(NamedTuple):
    """A packet of the encoder."""

    data: bytes
    tick: int
    is_key: bool


class RollingEncoder:
    """Encodes every frame and remembers the last `before_s` seconds.

    Args:
        size: (height, width); frames of another size are letterboxed. Odd sides get a pixel more.
        before_s: what a clip holds of the time before it was asked for, up to a second more.

    Raises:
        ResourceError: PyAV or an encoder is missing.
    """

    def __init__(self, size: tuple[int, int], before_s: float):
        self.size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._before_ticks = round(before_s * TICKS_PER_SECOND)
        self._av = import_av()
        self.encoder, self.options = working_encoder(self.size)
        if (
            self.encoder == "libx264"
        ):  # else the frames asked for are none that a player can jump to
            self.options = {**self.options, "forced-idr": "1"}
        self._context = self._av.CodecContext.create(self.encoder, "w")
        self._context.options = self.options
        self._context.gop_size = MAX_GOP
        set_up_encoder(self._context, self.size)
        self._packets: deque[_Encoded] = deque()
        self._last_tick = -1
        self._last_key = -TICKS_PER_SECOND * 60
        self.clip: Clip | None = None

    def write(self, image: NDArray[np.uint8], timestamp_s: float) -> None:
        """Take a frame, [H, W, 3] uint8 RGB, into the memory and into `clip`, if there is one.

        Raises:
            ResourceError: the clip cannot be written; it has been closed, and `clip` is None.
        """
        av = self._av
        frame = av.VideoFrame.from_ndarray(letterbox(image, self.size), format="rgb24")
        tick = max(round(timestamp_s * TICKS_PER_SECOND), self._last_tick + 1)
        frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_SECOND)
        self._last_tick = tick
        if tick - self._last_key >= KEY_EVERY_S * TICKS_PER_SECOND:
            frame.pict_type = av.video.frame.PictureType.I
        for packet in self._context.encode(frame):
            self._keep(_Encoded(bytes(packet), packet.pts, packet.is_keyframe))

    def start(self, path: Path) -> None:
        """Write what is remembered, and from now on all that comes, to the new file `path`.

        Raises:
            ResourceError: it cannot be written.
        """
        self.stop()
        clip = Clip(path, self)
        try:
            for packet in self._packets:
                clip.add(packet.data, packet.tick, packet.is_key)
        except ResourceError:
            clip.close()
            raise
        self.clip = clip

    def stop(self) -> None:
        """Complete the clip that is being written."""
        clip, self.clip = self.clip, None
        if clip is not None:
            clip.close()

    def _keep(self, packet: _Encoded) -> None:
        if packet.is_key:
            self._last_key = packet.tick
        self._packets.append(packet)
        self._forget_until(packet.tick - self._before_ticks)
        if self.clip is not None:
            try:
                self.clip.add(packet.data, packet.tick, packet.is_key)
            except ResourceError:
                self.stop()
                raise

    def _forget_until(self, tick: int) -> None:
        """Drop what is older, but begin with a frame that needs no other."""
        begin = 0
        for i, packet in enumerate(self._packets):
            if packet.tick > tick:
                break
            if packet.is_key:
                begin = i
        for _ in range(begin):
            self._packets.popleft()


class Clip:
    """A file with packets of a `RollingEncoder`, playable up to the last fifth of a second at any time."""

    def __init__(self, path: Path, encoder: RollingEncoder):
        self.path = path
        self._av = import_av()
        self._first_tick: int | None = None
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("xb").close()
        self._container = self._av.open(f"file:{path}", "w", options=muxer_options(path))
        try:
            self._container.metadata["comment"] = MARK
            # Its own encoder writes the header and nothing else: both are set up alike.
            self._stream = self._container.add_stream(encoder.encoder, options=encoder.options)
            set_up_encoder(self._stream, encoder.size)
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            path.unlink(missing_ok=True)
            raise

    def add(self, data: bytes, tick: int, is_key: bool) -> None:
        """Append a packet. Raises ResourceError when the disk is full or gone."""
        if self._first_tick is None:
            self._first_tick = tick
        packet = self._av.Packet(data)
        packet.pts = packet.dts = tick - self._first_tick
        packet.time_base = Fraction(1, TICKS_PER_SECOND)
        packet.is_keyframe = is_key
        packet.stream = self._stream
        self._write(lambda: self._container.mux(packet))

    def close(self) -> None:
        """Complete the file. Closing twice is fine."""
        if self._container is not None:
            container, self._container = self._container, None
            self._write(container.close)

    def _write(self, action: Any) -> None:
        try:
            with writing(self.path):
                action()
        except self._av.error.FFmpegError as error:
            what = f"the clip cannot be written ({(error.strerror or 'unknown error').lower()})"
            raise ResourceError(what, where=self.path, fix="free some space") from error
