"""From cameras, streams and files to videos, JSON Lines, a window and a web page.

One thread for each source and each stage (see `solo_edge.video.stages`); the caller's own thread
waits for signals, shows the window and tells how it goes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from solo_edge.errors import ResourceError, UsageError
from solo_edge.video.base import Source
from solo_edge.video.clock import now
from solo_edge.video.destinations import check_outputs, open_sinks
from solo_edge.video.feed import Feed
from solo_edge.video.follower import ClassFilter, Follower, read_zones_for
from solo_edge.video.options import StreamOptions
from solo_edge.video.output import Output
from solo_edge.video.report import SourceReport, StreamReport, make_report
from solo_edge.video.result import Sink, StreamStatus
from solo_edge.video.signals import stopped_by_signals
from solo_edge.video.stages import Predictor, Stages
from solo_edge.video.states import OnStateChange, StateChange

if TYPE_CHECKING:
    from solo_edge.video.window import Window
    from solo_edge.zones import ZoneFile

__all__ = [
    "Predictor",
    "SourceReport",
    "StreamOptions",
    "StreamReport",
    "StreamStatus",
    "stream",
]

POLL_S = 0.1  # how soon a signal is noticed
SHOW_S = 0.02  # how soon a key pressed in the window is
DRAIN_S = 1.0  # after a signal, for frames that are under way
CLOSE_S = 0.3  # for files that are being completed, and for reads that are under way

OnStatus = Callable[[tuple[StreamStatus, ...]], None]


def stream(
    engine: Predictor,
    source: Source | str | Sequence[Source | str],
    *,
    sinks: Sequence[Sink] = (),
    on_status: OnStatus | None = None,
    on_state: OnStateChange | None = None,
    on_serving: Callable[[str], None] | None = None,
    **options: Any,
) -> StreamReport:
    """Find instances in every frame until the sources end, somebody stops it, or something fails.

    Of a file every frame is worked on. Of a live source only the newest is: a result is late by one
    frame at most, however slow the network. Several sources share the engine, in one batch where it
    takes one. Ctrl-C, SIGTERM, SIGHUP and closing the window (or q, Esc) end the stream within two
    seconds with all files complete; after a second Ctrl-C nothing is waited for.

    One source's failure does not stop the others: `StreamReport.sources` says why each of them ended.

    Args:
        source: an open `Source`, which stays open, or what `open_source` takes; or several.
        sinks: further ones; closed at the end.
        on_status: called about once a second with the status of each source, in this thread.
        on_state: called for every change of a source's state, in this thread.
        on_serving: called with the address of the web page, once that is there.
        options: fields of `solo_edge.video.options.StreamOptions`.

    Raises:
        UsageError, ResourceError: an option that makes no sense, an output that cannot be written or
            shown: before the first frame.
        SourceError, DataError: the only source does not open, or fails. What was written until then
            is complete.
        Whatever the engine, a sink or a callback raises.
    """
    sources: list[Source | str] = [source] if isinstance(source, (str, Source)) else list(source)
    if not sources:
        raise ValueError("a stream needs at least one source")
    run = _Run(engine, StreamOptions(**options), sinks, on_status, on_state, on_serving)
    with stopped_by_signals(run.stop):
        report = run(sources)
    failed = run.feeds[0].error
    if len(sources) == 1 and failed is not None:
        raise failed
    return report


class _Run:
    """One stream from start to end, seen from the caller's thread."""

    def __init__(
        self,
        engine: Predictor,
        options: StreamOptions,
        sinks: Sequence[Sink],
        on_status: OnStatus | None,
        on_state: OnStateChange | None,
        on_serving: Callable[[str], None] | None,
    ):
        self.engine, self.options, self.sinks = engine, options, sinks
        self.on_status, self.on_state, self.on_serving = on_status, on_state, on_serving
        self.stopped_by: str | None = None
        self.error: BaseException | None = None  # the first one of a stage
        self.feeds: list[Feed] = []
        self.changes: deque[tuple[int, StateChange]] = deque()
        self.next_status_s = now() + options.status_every_s

    def stop(self, by: str) -> None:
        """Called by a signal's handler."""
        self.stopped_by = by

    def fail(self, error: BaseException) -> None:
        """Called by the thread of a stage."""
        if self.error is None:
            self.error = error

    def __call__(self, sources: Sequence[Source | str]) -> StreamReport:
        options, output = self.options, Output(len(sources), self.sinks)
        with ExitStack() as at_end, ExitStack() as unless_begun:
            unless_begun.callback(output.close)  # else the last stage does it
            class_names = getattr(self.engine, "class_names", ())
            keep = ClassFilter(options.classes, class_names)
            zones = read_zones_for(options, class_names)
            check_outputs(options, len(sources))
            at_end.callback(self._stop_feeds)
            self._open(sources, output)
            if self.stopped_by is None and any(feed.source for feed in self.feeds):
                followers = self._followers(keep, zones)
                window = open_sinks(output, options, self.feeds, self.engine, self.on_serving)
                stages = Stages(
                    self.engine, self.feeds, followers, output, options.max_frames, self.fail
                )
                unless_begun.pop_all()
                self._watch(stages, output, window)
        deadline_s = now() + CLOSE_S
        for feed in self.feeds:
            feed.join(deadline_s - now())
        self._tell_changes()
        if self.error is not None:
            raise self.error
        return make_report([feed.report() for feed in self.feeds], output.totals, self.stopped_by)

    def _open(self, sources: Sequence[Source | str], output: Output) -> None:
        """Open all sources at the same time, until every one is open or has failed.

        Raises:
            What is wrong with the command rather than with the source.
        """

        def changed(index: int, change: StateChange) -> None:
            self.changes.append((index, change))
            output.tell_state(index, change)

        self.feeds = [
            Feed(index, source, self.options, changed) for index, source in enumerate(sources)
        ]
        for feed in self.feeds:
            while self.stopped_by is None and not feed.opened.wait(POLL_S):
                pass
            if isinstance(feed.error, (UsageError, ResourceError)):
                raise feed.error

    def _followers(self, keep: ClassFilter, zones: ZoneFile | None) -> list[Follower]:
        """One for each source, now that their names are known."""
        names = [feed.tally.name for feed in self.feeds]
        if zones is not None:
            class_names = getattr(self.engine, "class_names", ())
            zones.check(class_names, tracked=self.options.track, sources=names)
        return [
            Follower(self.options, keep, zones.counter(index, name) if zones else None)
            for index, name in enumerate(names)
        ]

    def _watch(self, stages: Stages, output: Output, window: Window | None) -> None:
        """Show the window, tell how it goes, and wait for the end."""
        stages.begin()
        try:
            while not stages.done and self.stopped_by is None:
                if window is None:
                    stages.join(POLL_S)
                else:
                    self._show(output, window)
                self._tell_changes(window)
                self._tell_status(output, window)
        except KeyboardInterrupt:
            stages.abandon()
            raise
        except BaseException:
            self._end(stages)
            raise
        finally:
            if window is not None:
                window.close()
        self._end(stages)

    def _end(self, stages: Stages) -> None:
        """Let what is under way come to its end, but not for long."""
        stages.stop()
        self._stop_feeds()
        if not stages.join(DRAIN_S):
            stages.abandon()
            stages.join(CLOSE_S)

    def _stop_feeds(self) -> None:
        for feed in self.feeds:
            feed.stop()

    def _show(self, output: Output, window: Window) -> None:
        for _, result in output.shown.get(SHOW_S, len(self.feeds)):
            window.write(result)
        window.refresh()
        if window.left and self.stopped_by is None:
            self.stopped_by = "window"

    def _tell_changes(self, window: Window | None = None) -> None:
        while self.changes:
            index, change = self.changes.popleft()
            if window is not None:
                window.source_changed(index, change)
            if self.on_state is not None:
                self.on_state(change)

    def _tell_status(self, output: Output, window: Window | None) -> None:
        if now() < self.next_status_s:
            return
        self.next_status_s = now() + self.options.status_every_s
        statuses = tuple(feed.status() for feed in self.feeds)
        output.tell_status(statuses)
        if window is not None:
            window.status(statuses)
        if self.on_status is not None:
            self.on_status(statuses)
