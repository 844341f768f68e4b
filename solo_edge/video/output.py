"""The last stage of a stream: every sink gets what is meant for it, from one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from solo_edge.closing import Closing
from solo_edge.video.buffer import FrameBuffer, Lane
from solo_edge.video.clock import now
from solo_edge.video.report import Tally, Totals
from solo_edge.video.result import ProcessedFrame, Sink, StreamStatus
from solo_edge.video.states import StateChange

__all__ = ["Output", "Route"]


class Route(NamedTuple):
    """A sink and the source whose results it gets; None: all of them."""

    sink: Sink
    source_index: int | None = None

    def takes(self, source_index: int) -> bool:
        return self.source_index in (None, source_index)


class Output(Closing):
    """The sinks of a stream. `write`, `pass_on_news` and `close` are called from one thread.

    Args:
        sources: the number of sources.
        sinks: what gets the results of all of them; `routes` may be added to.
    """

    def __init__(self, sources: int, sinks: Sequence[Sink] = ()):
        self.routes = [Route(sink) for sink in sinks]
        # One that another thread feeds from `shown`, such as a window: it gets the newest result of
        # each source when it asks, and makes nobody wait.
        self.viewer: Sink | None = None
        self.shown: FrameBuffer[ProcessedFrame] = FrameBuffer(
            [Lane(1, True)] * sources, lambda lane, result: None
        )
        self.totals = Totals()
        self._changes: deque[tuple[int, StateChange]] = deque()
        self._statuses: tuple[StreamStatus, ...] | None = None

    @property
    def wants_overlay(self) -> bool:
        """Whether one of the sinks wants the next frame drawn."""
        sinks = [route.sink for route in self.routes]
        return any(sink.wants_overlay for sink in (*sinks, self.viewer) if sink is not None)

    def tell_state(self, source_index: int, change: StateChange) -> None:
        """From any thread: the sinks are to know of it."""
        self._changes.append((source_index, change))

    def tell_status(self, statuses: tuple[StreamStatus, ...]) -> None:
        """From any thread: the sinks are to know of it, unless there is newer before they do."""
        self._statuses = statuses

    def pass_on_news(self) -> None:
        """Tell the sinks what there is to tell."""
        while self._changes:
            source_index, change = self._changes.popleft()
            for route in self.routes:
                if route.takes(source_index):
                    route.sink.source_changed(source_index, change)
        statuses, self._statuses = self._statuses, None
        if statuses is not None:
            for route in self.routes:
                route.sink.status(statuses)

    def write(self, result: ProcessedFrame, tally: Tally) -> None:
        """Give a result to the sinks, and count it."""
        sinks_ms: dict[str, float] = {}
        for route in self.routes:
            if route.takes(result.source_index):
                start_s = now()
                route.sink.write(result)
                sinks_ms[route.sink.name] = 1000.0 * (now() - start_s)
        if self.viewer is not None:
            self.shown.put(result.source_index, result)
        latency_ms = 1000.0 * (now() - result.frame.captured_s)
        stage_ms = {**result.stage_ms, **sinks_ms}
        tally.processed(len(result.instances), result.age_ms, latency_ms, stage_ms)
        self.totals.add(result.age_ms, latency_ms, stage_ms)

    def close(self) -> None:
        """Complete all files, also if one of them cannot be; the first error is raised."""
        self.shown.end()
        with ExitStack() as stack:
            for route in self.routes:
                stack.callback(route.sink.close)
