"""Files as sinks of a stream: a video or pictures of one source, JSON Lines of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import UsageError
from solo_edge.instances import Instances, Region
from solo_edge.video.result import ProcessedFrame, Sink
from solo_edge.video.sink import VIDEO_SUFFIXES, ImageWriter, JsonLinesWriter, VideoWriter
from solo_edge.video.states import SourceState, StateChange

__all__ = ["JsonLinesSink", "PictureSink", "VideoSink", "check_video_name", "polygons"]

FALLBACK_FPS = 25.0
POLYGON_TOLERANCE = 0.5  # pixels between a polygon and the outline that it stands for


class VideoSink(Sink):
    """A video of what was found; its size is that of the first frame.

    Args:
        fps: of the source; None if unknown.
        size: (height, width) of the source, (0, 0) if unknown. Then the file is opened when the first
            frame comes.

    Raises:
        As `VideoWriter`.
    """

    name = "write"
    wants_overlay = True

    def __init__(self, path: Path, fps: float | None, size: tuple[int, int]):
        check_video_name(path)
        self._path, self._fps = path, fps or FALLBACK_FPS
        self._writer = VideoWriter(path, self._fps, size) if min(size) > 0 else None

    def write(self, result: ProcessedFrame) -> None:
        picture = _picture(result)
        if self._writer is None:
            self._writer = VideoWriter(self._path, self._fps, picture.shape[:2])
        self._writer.write(picture, result.frame.timestamp_s)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class PictureSink(Sink):
    """Every frame as a picture in a folder; see `ImageWriter`."""

    name = "write"
    wants_overlay = True

    def __init__(self, folder: Path, inputs: Iterable[Path]):
        self._writer = ImageWriter(folder, inputs)

    def write(self, result: ProcessedFrame) -> None:
        self._writer.write(_picture(result))

    def close(self) -> None:
        self._writer.close()


class JsonLinesSink(Sink):
    """One line for each frame, and one whenever a source is lost, is back, or ends with an error.

    A frame's line holds `source`, `frame` (its index), `timestamp_s`, `age_ms`, `stage_ms`, `size`
    (height, width) and `detections`: COCO results with `image_id` = `frame`, of tracked objects with
    `track_id`. With zones also `events`. A line about a source has `state`, `code`, `message` and no
    detections.

    Args:
        category_ids: the COCO category of each class; None: label + 1.
        with_polygons: each detection also gets `polygons`.
        with_events: whether there are zones.

    Raises:
        As `JsonLinesWriter`.
    """

    name = "json"

    def __init__(
        self,
        path: Path,
        category_ids: Sequence[int] | None,
        *,
        with_polygons: bool,
        with_events: bool,
    ):
        self._category_ids = category_ids
        self._with_polygons, self._with_events = with_polygons, with_events
        self._lost: set[int] = set()
        self._writer = JsonLinesWriter(path)

    def write(self, result: ProcessedFrame) -> None:
        frame, found = result.frame, result.instances
        detections = found.to_coco(frame.index, self._category_ids)
        if self._with_polygons:
            for detection, outlines in zip(detections, polygons(found), strict=True):
                detection["polygons"] = outlines
        line: dict[str, Any] = {
            "source": result.source,
            "frame": frame.index,
            "timestamp_s": round(frame.timestamp_s, 6),
            "age_ms": round(result.age_ms, 3),
            "stage_ms": {name: round(value, 3) for name, value in result.stage_ms.items()},
            "size": list(found.image_size),
            "detections": detections,
        }
        if self._with_events:
            line["events"] = list(result.events)
        self._writer.write(line)

    def source_changed(self, source_index: int, change: StateChange) -> None:
        is_back = change.state == SourceState.PLAYING and source_index in self._lost
        if change.code is None and not is_back:
            return
        if change.state == SourceState.WAITING:
            self._lost.add(source_index)
        elif is_back:
            self._lost.remove(source_index)
        code = None if change.code is None else change.code.value
        line = {"source": change.source, "state": change.state.value, "code": code}
        # The last key is what tells a file of ours from somebody else's.
        self._writer.write({**line, "message": change.message, "detections": []})

    def close(self) -> None:
        self._writer.close()


def check_video_name(path: Path) -> None:
    """Raise UsageError unless this is the name of a video that can be written."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        fix = f"use {' or '.join(VIDEO_SUFFIXES)}"
        raise UsageError(f"no video format is called {path.suffix!r}", where=path, fix=fix)


def polygons(instances: Instances) -> list[list[list[float]]]:
    """The outer outlines of each mask, as [x, y, x, y, ...] through the centres of its border's pixels.

    A mask of several parts has several; holes are left out.
    """
    return [_outlines(region) for region in instances.regions()]


def _outlines(region: Region) -> list[list[float]]:
    import cv2

    if region.mask.size == 0:
        return []
    mask = np.ascontiguousarray(region.mask).view(np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for contour in found:
        corners = cv2.approxPolyDP(contour, POLYGON_TOLERANCE, True).reshape(-1, 2)
        if len(corners) >= 3:
            corners = corners + np.array([region.left, region.top])
            outlines.append(corners.astype(float).ravel().tolist())
    return outlines


def _picture(result: ProcessedFrame) -> NDArray[np.uint8]:
    return result.frame.image if result.overlay is None else result.overlay
