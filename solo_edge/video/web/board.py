"""What the pipeline said last, for whoever looks: written by its threads, read by the server's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from solo_edge.video.base import redact
from solo_edge.video.clock import now
from solo_edge.video.result import ProcessedFrame, StreamStatus
from solo_edge.video.states import SourceState, StateChange

__all__ = ["Board", "Event", "Shown"]

HISTORY = 60  # statuses that are kept, about one a second: what the graphs show
MOST_EVENTS = 200


class Shown(NamedTuple):
    """A frame that can be looked at."""

    serial: int  # of this source, from 1
    result: ProcessedFrame


class Event(NamedTuple):
    """Something that zones or lines counted."""

    serial: int  # of all sources, from 1
    value: Mapping[str, Any]


class Board:
    """The newest frame, status and state of every source, and the latest events.

    One thread writes. It wakes nobody: whoever wants to know looks at `serial` now and then. Waking a
    thread would cost the writer Python's lock, which the encoder may keep for milliseconds.

    Args:
        sources: the names of the sources, without credentials; at least one.
        class_names: may be empty; then they are those of the first result.
        min_score: results below it do not come.

    Raises:
        ValueError: there is no source.
    """

    def __init__(self, sources: Sequence[str], class_names: Sequence[str], min_score: float):
        if not sources:
            raise ValueError("sources must name at least one source")
        self.sources = tuple(redact(name) for name in sources)
        self.class_names = tuple(class_names)
        self.min_score = min_score
        self.serial = 0  # grows with everything that is written
        self.status_serial = 0  # grows with every status and change of state
        self.point_serial = 0  # grows with the history
        self._lock = threading.Lock()
        self._shown: list[Shown | None] = [None] * len(sources)
        self._changes: list[StateChange | None] = [None] * len(sources)
        self._losses: list[_Loss | None] = [None] * len(sources)
        self._status: tuple[StreamStatus, ...] = ()
        self._history: deque[list[dict[str, Any]]] = deque(maxlen=HISTORY)
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._event_serial = 0

    def write(self, result: ProcessedFrame) -> None:
        """Take a frame. Keeps it, copies nothing."""
        previous = self._shown[result.source_index]
        serial = 1 if previous is None else previous.serial + 1
        self._shown[result.source_index] = Shown(serial, result)
        if not self.class_names:
            self.class_names = result.instances.class_names
        if result.events:
            with self._lock:
                for event in result.events:
                    self._event_serial += 1
                    value = {**event, "source_index": result.source_index}
                    self._events.append(Event(self._event_serial, value))
        self.serial += 1

    def source_changed(self, source_index: int, change: StateChange) -> None:
        """A source went into another state."""
        self._changes[source_index] = change
        if change.state is SourceState.WAITING:
            loss = self._losses[source_index]
            since_s = change.at_s if loss is None else loss.since_s
            self._losses[source_index] = _Loss(since_s, change)
        elif change.state is not SourceState.OPENING:  # while it is opened again it is still lost
            self._losses[source_index] = None
        self.status_serial += 1
        self.serial += 1

    def status(self, statuses: tuple[StreamStatus, ...]) -> None:
        """How all sources are doing."""
        self._status = statuses
        with self._lock:
            self._history.append([_point(status) for status in statuses])
            self.point_serial += 1
        self.status_serial += 1
        self.serial += 1

    def shown(self, source_index: int) -> Shown | None:
        """The newest frame of a source."""
        return self._shown[source_index]

    def events_after(self, serial: int) -> list[Event]:
        """The events since that one, as far as they are still kept."""
        with self._lock:
            return [event for event in self._events if event.serial > serial]

    def history(self) -> list[list[dict[str, Any]]]:
        """FPS, latency and stages about once a second, of all sources, the oldest first."""
        with self._lock:
            return list(self._history)

    def describe(self) -> list[dict[str, Any]]:
        """State and numbers of every source, ready for JSON."""
        return [self._describe(index) for index in range(len(self.sources))]

    def _describe(self, index: int) -> dict[str, Any]:
        change, shown, statuses = self._changes[index], self._shown[index], self._status
        told = asdict(statuses[index]) if index < len(statuses) else {}
        # A change of state comes at once, a status only now and then.
        if change is not None:
            state = change.state.value
        else:
            state = (
                told.get("state") or (SourceState.PLAYING if shown else SourceState.OPENING).value
            )
        loss = self._losses[index]
        return {
            **told,
            "source": self.sources[index],
            "state": state,
            "message": change.message if change else "",
            "lost": loss.describe() if loss else None,
            "frame_index": shown.result.frame.index if shown else None,
        }


class _Loss(NamedTuple):
    """A source that does not play and is opened again and again."""

    since_s: float
    latest: StateChange

    def describe(self) -> dict[str, Any]:
        code = self.latest.code
        return {
            "code": code.value if code else None,
            "message": self.latest.message,
            "attempts": self.latest.attempt,
            "for_s": round(max(now() - self.since_s, 0.0), 1),
        }


def _point(status: StreamStatus) -> dict[str, Any]:
    plays = status.state == SourceState.PLAYING.value  # else the rate is that of its last frames
    return {
        "fps": status.fps if plays else 0.0,
        "latency_ms": status.latency_ms,
        "stage_ms": status.stage_ms,
    }
