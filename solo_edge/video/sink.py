"""Where results go: video that survives a kill, pictures, and one JSON object per line.

A video and a JSON Lines file grow under their final names while the stream runs, so that what has
been written is there even if the program is killed. They take the place of an existing file only
if that is empty or one of ours; pictures are written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.errors import ResourceError, UsageError
from solo_edge.files import atomic_file, writing
from solo_edge.video.capture import import_av

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "ImageWriter",
    "JsonLinesWriter",
    "VideoWriter",
    "check_output",
    "letterbox",
    "muxer_options",
    "set_up_encoder",
    "working_encoder",
    "write_image",
]

MARK = "made by solo-edge"  # in everything we write, so that we know what we may replace
VIDEO_SUFFIXES = (".mp4", ".mkv")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
JPEG_QUALITY = 92
_OTHER_NAME = "choose another name"
# Divisible by the usual frame rates; MPEG-4 allows no more than 65535.
TICKS_PER_SECOND = 60_000
# A piece of this length is written at a time: what a kill can cost.
PIECE_S = 0.2
# In order of preference: encoder and its options. Without look-ahead, or a kill would cost more.
ENCODERS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}),
    ("libopenh264", {}),
    ("mpeg4", {"flags": "+qscale", "global_quality": str(3 * 118)}),  # 118 = FF_QP2LAMBDA
)


class VideoWriter(Closing):
    """A video file that can be played up to the last fifth of a second even if the program is killed.

    Fragmented MP4 or MKV, H.264 if PyAV has an encoder for it, else MPEG-4. Frames of another size
    are letterboxed; a pixel is added to an odd width or height. A context manager.

    Args:
        path: ends in .mp4 or .mkv.
        fps: for the frames whose time is not given.
        size: (height, width) of the video.

    Raises:
        UsageError: another suffix, or a file there that is not ours.
        ResourceError: no permission, no PyAV or no encoder.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            fix = f"use {' or '.join(VIDEO_SUFFIXES)}"
            raise UsageError(f"no video format is called {path.suffix!r}", where=path, fix=fix)
        if not 0.0 < fps <= 1000.0 or min(size) < 1:
            raise ValueError(f"fps and size must be positive, got {fps} and {size}")
        check_output(path)
        self.path = path
        self.size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        self._fps = fps
        self._last_tick = -1
        self._count = 0
        self._av = import_av()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("wb").close()  # tells a missing permission better than FFmpeg
        self._container = self._av.open(f"file:{path}", "w", options=muxer_options(path))
        try:
            self._container.metadata["comment"] = MARK
            self._stream = self._add_stream()
            self._container.start_encoding()
        except BaseException:
            self._container.close()
            path.unlink(missing_ok=True)
            raise

    def write(self, image: NDArray[np.uint8], timestamp_s: float | None = None) -> None:
        """Append a frame, [H, W, 3] uint8 RGB.

        Args:
            timestamp_s: when it is shown, since the start. A frame that is not later than the one
                before is shown right after it.

        Raises:
            ResourceError: the disk is full or gone.
        """
        at_s = self._count / self._fps if timestamp_s is None else timestamp_s
        frame = self._av.VideoFrame.from_ndarray(letterbox(image, self.size), format="rgb24")
        frame.pts = self._last_tick = max(round(at_s * TICKS_PER_SECOND), self._last_tick + 1)
        frame.time_base = Fraction(1, TICKS_PER_SECOND)
        with self._told_as_ours():
            self._container.mux(self._stream.encode(frame))
        self._count += 1

    def close(self) -> None:
        """Finish the file. Closing twice is fine; a file without a frame is removed."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self._count:
                with self._told_as_ours():
                    container.mux(self._stream.encode(None))
        finally:
            with self._told_as_ours():
                container.close()
            if not self._count:
                self.path.unlink(missing_ok=True)

    def _add_stream(self) -> Any:
        name, options = working_encoder(self.size)
        stream = self._container.add_stream(name, options=options)
        set_up_encoder(stream, self.size)
        rate = Fraction(self._fps).limit_denominator(1001)
        stream.codec_context.framerate = rate
        stream.codec_context.gop_size = max(1, round(self._fps))  # a place to jump to every second
        return stream

    @contextmanager
    def _told_as_ours(self) -> Iterator[None]:
        try:
            with writing(self.path):
                yield
        except self._av.error.FFmpegError as error:
            what = f"the video cannot be written ({(error.strerror or 'unknown error').lower()})"
            raise ResourceError(what, where=self.path, fix="try the other format") from error


class ImageWriter(Closing):
    """Frames as FOLDER/000000.jpg, 000001.jpg, ... A context manager like `VideoWriter`.

    Args:
        inputs: files that must not be written over.

    Raises:
        UsageError: `folder` is a file. ResourceError: no permission.
    """

    def __init__(self, folder: Path, inputs: Iterable[Path] = ()):
        if folder.exists() and not folder.is_dir():
            raise UsageError("is a file, not a folder", where=folder, fix=_OTHER_NAME)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.path = folder
        self._inputs = tuple(inputs)
        self._count = 0

    def write(self, image: NDArray[np.uint8], timestamp_s: float | None = None) -> None:
        """Write the next picture, [H, W, 3] uint8 RGB.

        Raises: as `write_image`; UsageError if somebody else's file has its name.
        """
        path = self.path / f"{self._count:06}.jpg"
        check_output(path, self._inputs)
        write_image(path, image)
        self._count += 1

    def close(self) -> None:
        """Nothing is left open."""


class JsonLinesWriter(Closing):
    """One JSON object per line (jsonlines.org), each in the file as soon as it is written.

    A context manager.

    Args:
        path: a file that is new, empty or ours; a pipe or device such as /dev/stdout is fine too.

    Raises:
        UsageError: a file there that is not ours. ResourceError: no permission.
    """

    def __init__(self, path: Path):
        check_output(path)
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("wb", buffering=0)

    def write(self, value: Mapping[str, Any]) -> None:
        """Append one object. Raises ResourceError when the disk is full."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data = memoryview(line.encode() + b"\n")
        with writing(self.path):
            while data:
                data = data[self._file.write(data) :]

    def close(self) -> None:
        self._file.close()


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] uint8 RGB as .jpg or .png, whole or not at all.

    Raises:
        UsageError: another suffix. ResourceError: no permission or no disk space.
    """
    from PIL import Image, PngImagePlugin

    if path.suffix.lower() not in PICTURE_SUFFIXES:
        fix = f"use {' or '.join(PICTURE_SUFFIXES)}"
        raise UsageError(f"pictures are not written as {path.suffix!r}", where=path, fix=fix)
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".png":
            text = PngImagePlugin.PngInfo()
            text.add_text("Comment", MARK)
            Image.fromarray(image).save(temporary, pnginfo=text, compress_level=3)
        else:
            # Full colour resolution: thin coloured outlines would blur.
            Image.fromarray(image).save(
                temporary, comment=MARK.encode(), quality=JPEG_QUALITY, subsampling=0
            )


def letterbox(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """`image` at `size` (height, width): shrunk or enlarged as a whole, centred, the rest black.

    Where a single row or column is missing it is repeated instead, and no pixel changes.
    """
    import cv2

    height, width = image.shape[:2]
    missing = (size[0] - height, size[1] - width)
    if missing == (0, 0):
        return image
    if all(pixels in (0, 1) for pixels in missing):
        padded: NDArray[Any] = cv2.copyMakeBorder(
            image, 0, missing[0], 0, missing[1], cv2.BORDER_REPLICATE
        )
        return padded
    scale = min(size[0] / height, size[1] / width)
    inner_wh = (
        max(1, min(round(width * scale), size[1])),
        max(1, min(round(height * scale), size[0])),
    )
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    output = np.zeros((*size, 3), dtype=np.uint8)
    top, left = (size[0] - inner_wh[1]) // 2, (size[1] - inner_wh[0]) // 2
    output[top : top + inner_wh[1], left : left + inner_wh[0]] = cv2.resize(
        image, inner_wh, interpolation=method
    )
    return output


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuse to write over one of the inputs, a folder, or a file that we did not make.

    Raises:
        UsageError: that is what `path` is.
    """
    if not path.exists():
        return
    if any(file.exists() and path.samefile(file) for file in inputs):
        raise UsageError("this is the input, which is never changed", where=path, fix=_OTHER_NAME)
    if path.is_dir():
        raise UsageError("is a folder", where=path, fix="add a file name")
    if path.is_file() and path.stat().st_size and not _is_ours(path):
        fix = f"{_OTHER_NAME}, or delete it"
        raise UsageError("a file that solo-edge did not make is there", where=path, fix=fix)


def _is_ours(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        av = import_av()
        with suppress(av.error.FFmpegError, OSError), av.open(f"file:{path}") as container:
            return MARK in (container.metadata.get(key) for key in ("comment", "COMMENT"))
        return False
    if suffix in PICTURE_SUFFIXES:
        from PIL import Image

        with suppress(Exception), Image.open(path, formats=("JPEG", "PNG")) as image:
            return image.info.get("comment", image.info.get("Comment")) in (MARK, MARK.encode())
        return False
    with suppress(OSError, ValueError), path.open("rb") as file:
        first = json.loads(file.readline(1 << 24))
        return isinstance(first, dict) and "detections" in first
    return False


def muxer_options(path: Path) -> dict[str, str]:
    """Of FFmpeg, for a file that is playable up to the last piece whenever the program is killed."""
    if path.suffix.lower() == ".mkv":
        return {"flush_packets": "1", "cluster_time_limit": str(round(1e3 * PIECE_S))}
    return {
        "flush_packets": "1",
        "movflags": "frag_keyframe+empty_moov+default_base_moof",
        "frag_duration": str(round(1e6 * PIECE_S)),
    }


def working_encoder(size: tuple[int, int]) -> tuple[str, dict[str, str]]:
    """The first encoder that opens: some are listed but need hardware that is not there."""
    av = import_av()
    for name, options in ENCODERS:
        try:
            context = av.CodecContext.create(name, "w")
            context.options = options
            set_up_encoder(context, size)
            context.open()
        except (av.error.FFmpegError, ValueError):
            continue
        return name, options
    fix = "install PyAV from PyPI: pip install av"
    raise ResourceError("this PyAV has no encoder for H.264 or MPEG-4", fix=fix)


def set_up_encoder(stream: Any, size: tuple[int, int]) -> None:
    """Size, pixel format and clock of a video stream or codec context."""
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    stream.time_base = Fraction(1, TICKS_PER_SECOND)
    if hasattr(stream, "codec_context"):
        stream.codec_context.time_base = stream.time_base
