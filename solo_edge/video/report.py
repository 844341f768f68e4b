"""How a stream is doing and how it went, counted while it runs, in constant memory."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from solo_edge.video.base import Source
from solo_edge.video.clock import Durations, FpsMeter, StageClock, Summary
from solo_edge.video.result import StreamStatus
from solo_edge.video.states import SourceState, StateChange

__all__ = ["SourceReport", "StreamReport", "Tally", "Totals", "make_report"]

TOLERATED_MISSING = 0.05  # of the announced frames


@dataclass(frozen=True)
class SourceReport:
    """How one source of a stream went. `captured` = `processed` + `dropped`, exactly."""

    source: str  # without credentials
    live: bool
    captured: int
    processed: int
    dropped: (
        int  # superseded by newer ones, over the limit of frames per second, or left at the end
    )
    damaged: int  # pieces of the video that could not be decoded
    missing: int  # frames that the file announces and does not hold
    instances: int
    fps: float | None  # (processed - 1) / (time of the last result - time of the first)
    age: Summary | None  # of its frames when their inference started, since their capture
    latency: Summary | None  # from a frame's capture until the last sink had its result
    outages: dict[str, int]  # how often it was lost, by `solo_edge.video.states.Failure`
    outage_s: float  # how long altogether
    error: str | None  # why it ended, unless it came to its end or was stopped


@dataclass(frozen=True)
class StreamReport:
    """How a stream went: the sums of its sources, and each of them."""

    captured: int
    processed: int
    dropped: int
    damaged: int
    missing: int
    instances: int
    fps: float | None  # of all sources together
    stages: dict[str, Summary]  # time of each stage for a frame: preprocess, network, ...
    age: Summary | None
    latency: Summary | None
    stopped_by: str | None  # SIGINT, SIGTERM, SIGHUP or "window"; None at the end of the sources
    sources: tuple[SourceReport, ...]

    @property
    def source(self) -> str:
        """The names of the sources."""
        return ", ".join(each.source for each in self.sources)

    @property
    def live(self) -> bool:
        """Whether one of the sources is."""
        return any(each.live for each in self.sources)

    def to_dict(self) -> dict[str, Any]:
        return {"source": self.source, "live": self.live, **dataclasses.asdict(self)}


class Totals:
    """Rates and times of all sources together; one thread writes them."""

    def __init__(self) -> None:
        self.meter, self.stages = FpsMeter(), StageClock()
        self.age, self.latency = Durations(), Durations()

    def add(self, age_ms: float, latency_ms: float, stage_ms: Mapping[str, float]) -> None:
        """A frame has come to the end."""
        self.meter.tick()
        self.age.add(age_ms)
        self.latency.add(latency_ms)
        for stage, value_ms in stage_ms.items():
            self.stages.add(stage, value_ms)


class Tally:
    """Counts what happens to the frames of one source; several threads may tell it."""

    def __init__(self, name: str):
        self.name = name
        self._lock = threading.Lock()
        self._captured = self._processed = self._dropped = self._instances = 0
        self._meter = FpsMeter()
        self._age, self._latency = Durations(), Durations()
        self._latest_found = 0
        self._latest_age_ms: float | None = None
        self._latest_latency_ms: float | None = None
        self._latest_stage_ms: dict[str, float] = {}
        self._state = SourceState.OPENING
        self._outages: Counter[str] = Counter()
        self._outage_s = 0.0
        self._lost_s: float | None = None  # since when it has been lost

    def captured(self) -> None:
        with self._lock:
            self._captured += 1

    def dropped(self) -> None:
        with self._lock:
            self._dropped += 1

    def processed(
        self, found: int, age_ms: float, latency_ms: float, stage_ms: dict[str, float]
    ) -> None:
        """A frame with `found` instances has come to the end."""
        with self._lock:
            self._processed += 1
            self._instances += found
            self._meter.tick()
            self._age.add(age_ms)
            self._latency.add(latency_ms)
            self._latest_found, self._latest_stage_ms = found, stage_ms
            self._latest_age_ms, self._latest_latency_ms = age_ms, latency_ms

    def changed(self, change: StateChange) -> None:
        """The source went into another state. An outage lasts until it plays, or ends."""
        with self._lock:
            self._state = change.state
            if change.state == SourceState.WAITING and self._lost_s is None:
                self._lost_s = change.at_s
                self._outages[change.code.value if change.code else "unknown"] += 1
            elif change.state in (SourceState.PLAYING, SourceState.ENDED):
                if self._lost_s is not None:
                    self._outage_s += max(change.at_s - self._lost_s, 0.0)
                self._lost_s = None

    @property
    def state(self) -> SourceState:
        with self._lock:
            return self._state

    def status(self, source: Source | None) -> StreamStatus:
        """How it is now. `source` is None until it is open."""
        with self._lock:
            skipped = source.skipped if source else 0
            return StreamStatus(
                source=self.name,
                state=self._state.value,
                captured=self._captured + skipped,
                processed=self._processed,
                dropped=self._dropped + skipped,
                fps=self._meter.recent,
                instances=self._latest_found,
                frame_count=source.frame_count if source else None,
                latency_ms=self._latest_latency_ms,
                stage_ms=self._latest_stage_ms,
                age_ms=self._latest_age_ms,
            )

    def report(self, source: Source | None, *, whole: bool, error: str | None) -> SourceReport:
        """What has come together.

        Args:
            source: None if it never opened.
            whole: it was read to its end, so that missing frames can be told.
            error: why it ended.
        """
        with self._lock:
            announced = source.frame_count if source and whole and not source.live else None
            # Containers miscount by a few frames; a file that was cut off lacks many.
            skipped = source.skipped if source else 0
            lacking = 0 if announced is None else announced - self._captured
            missing = announced is not None and lacking > announced * TOLERATED_MISSING
            return SourceReport(
                source=self.name,
                live=source is not None and source.live,
                captured=self._captured + skipped,
                processed=self._processed,
                dropped=self._dropped + skipped,
                damaged=source.damaged if source else 0,
                missing=lacking if missing else 0,
                instances=self._instances,
                fps=self._meter.overall,
                age=self._age.summary() if self._age.count else None,
                latency=self._latency.summary() if self._latency.count else None,
                outages=dict(self._outages),
                outage_s=round(self._outage_s, 3),
                error=error,
            )


def make_report(
    sources: Sequence[SourceReport], totals: Totals, stopped_by: str | None
) -> StreamReport:
    """The sums of the sources, and what was counted for all of them together."""
    names = ("captured", "processed", "dropped", "damaged", "missing", "instances")
    sums = {name: sum(getattr(each, name) for each in sources) for name in names}
    return StreamReport(
        **sums,
        fps=totals.meter.overall,
        stages=totals.stages.summary(),
        age=totals.age.summary() if totals.age.count else None,
        latency=totals.latency.summary() if totals.latency.count else None,
        stopped_by=stopped_by,
        sources=tuple(sources),
    )
