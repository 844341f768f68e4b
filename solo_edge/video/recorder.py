"""Clips of what happens: some seconds before it, all of it, some seconds after."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ResourceError, UsageError
from solo_edge.files import write_json, writing
from solo_edge.video.clips import RollingEncoder
from solo_edge.video.result import ProcessedFrame, Sink
from solo_edge.video.sink import write_image

__all__ = ["EventRecorder"]

log = logging.getLogger(__name__)

MIN_FREE_BYTES = (
    256 << 20
)  # below, nothing new is recorded: a full disk hurts more than a missing clip
MAX_EVENTS = 10_000  # in the description of one clip


class EventRecorder(Sink):
    """Writes a clip, a picture and a description of everything that happens into a folder.

    What happens is an event of a zone or line; without those, that an instance is there. Clips of one
    source do not overlap: what happens while one is being written, or soon after, prolongs it. For each
    `FOLDER/20261121T185800.123Z-0-enter-dock` there are `.mp4`, playable up to the last fifth of a second
    even if the program is killed, `.jpg`, what it began with, and `.json`, when the clip is complete.

    Where the disk is nearly full, or a clip cannot be written, that is logged and the stream goes on.

    Args:
        folder: is made if it is not there. Nothing in it is ever overwritten or deleted.
        of_events: only zone and line events start a clip; otherwise any instance does.
        before_s: what a clip shows of the time before.
        after_s: and of the time after.
        longest_s: after so much a clip is completed and another one begins.

    Raises:
        UsageError: `folder` is a file. ResourceError: no permission, or PyAV is missing.
    """

    name = "record"

    def __init__(
        self,
        folder: Path,
        *,
        of_events: bool,
        before_s: float = 5.0,
        after_s: float = 5.0,
        longest_s: float = 300.0,
    ):
        if folder.exists() and not folder.is_dir():
            raise UsageError("is a file, not a folder", where=folder, fix="choose another name")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._of_events = of_events
        self._before_s, self._after_s, self._longest_s = before_s, after_s, longest_s
        self._sources: dict[int, _Recording] = {}
        self._warned = False

    @property
    def wants_overlay(self) -> bool:
        return True

    def write(self, result: ProcessedFrame) -> None:
        image = result.frame.image if result.overlay is None else result.overlay
        index = result.source_index
        if index not in self._sources:
            size = (image.shape[0], image.shape[1])
            self._sources[index] = _Recording(RollingEncoder(size, self._before_s))
        recording = self._sources[index]
        happened = list(self._happened(result))
        at_s = result.frame.timestamp_s
        try:
            if recording.is_over(at_s, self._after_s, self._longest_s):
                recording.stop()
            recording.encoder.write(image, at_s)
            if happened:
                if recording.path is None:
                    self._start(recording, result, image, happened[0])
                recording.add(happened, at_s)
        except ResourceError as error:
            recording.abandon()
            self._warn(str(error))

    def close(self) -> None:
        """Complete the clips that are being written."""
        for recording in self._sources.values():
            try:
                recording.stop()
            except ResourceError as error:
                self._warn(str(error))
        self._sources.clear()

    def _happened(self, result: ProcessedFrame) -> Iterator[dict[str, Any]]:
        if self._of_events:
            yield from (dict(event) for event in result.events)
            return
        for name in dict.fromkeys(result.instances.names):
            yield {
                "type": "seen",
                "class": name,
                "count": result.instances.names.count(name),
                "timestamp_s": result.frame.timestamp_s,
            }

    def _start(
        self,
        recording: _Recording,
        result: ProcessedFrame,
        image: NDArray[np.uint8],
        event: dict[str, Any],
    ) -> None:
        if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
            self._warn(f"{self.folder}: the disk is nearly full, nothing new is recorded")
            return
        at = datetime.now(timezone.utc)
        path = self.folder / f"{_stem(at, result.source_index, event)}.mp4"
        recording.encoder.start(path)
        recording.begin(path, result.source, at, result.frame.timestamp_s)
        write_image(path.with_suffix(".jpg"), image)
        self._warned = False

    def _warn(self, line: str) -> None:
        """Once, until something is recorded again."""
        if not self._warned:
            log.warning("%s", line)
            self._warned = True


class _Recording:
    """What is being recorded of one source."""

    def __init__(self, encoder: RollingEncoder):
        self.encoder = encoder
        self.path: Path | None = None
        self._description: dict[str, Any] = {}
        self._begin_s = self._last_s = 0.0

    def begin(self, path: Path, source: str, at: datetime, at_s: float) -> None:
        self.path, self._begin_s, self._last_s = path, at_s, at_s
        self._description = {
            "clip": path.name,
            "source": source,
            "time": at.isoformat(timespec="milliseconds"),
            "timestamp_s": round(at_s, 6),
            "events": [],
            "left_out": 0,
        }

    def add(self, events: list[dict[str, Any]], at_s: float) -> None:
        """Note what happened, unless it goes on as in the frame before."""
        if self.path is None:
            return
        self._last_s = at_s
        noted = self._description["events"]
        for event in events:
            if event["type"] == "seen" and _is_known(event, noted):
                continue
            if len(noted) < MAX_EVENTS:
                noted.append(event)
            else:
                self._description["left_out"] += 1

    def is_over(self, at_s: float, after_s: float, longest_s: float) -> bool:
        """Whether the clip ends before the frame at `at_s`. Time that goes back ends it too."""
        if self.path is None:
            return False
        quiet_s, length_s = at_s - self._last_s, at_s - self._begin_s
        return quiet_s > after_s or length_s > longest_s or quiet_s < 0

    def stop(self) -> None:
        """Complete the clip and describe it."""
        path, self.path = self.path, None
        self.encoder.stop()
        if path is not None:
            write_json(path.with_suffix(".json"), self._description)

    def abandon(self) -> None:
        """Forget the clip, after it could not be written on; what there is of it stays."""
        self.path = None
        self.encoder.clip = None


def _is_known(event: dict[str, Any], noted: list[dict[str, Any]]) -> bool:
    """Whether so many of the class were noted before."""
    same = (each for each in reversed(noted) if each["class"] == event["class"])
    latest = next(same, None)
    return latest is not None and latest["count"] == event["count"]


def _stem(at: datetime, source_index: int, event: dict[str, Any]) -> str:
    """A file name that sorts by time: 20261121T185800.123Z-0-enter-dock."""
    what = event.get("zone") or event.get("line") or event.get("class") or ""
    words = re.sub(r"[^\w-]+", "_", f"{event['type']}-{what}", flags=re.ASCII)[:60].strip("-_")
    moment = f"{at:%Y%m%dT%H%M%S}.{at.microsecond // 1000:03}Z"
    return f"{moment}-{source_index}-{words}"
