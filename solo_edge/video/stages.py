"""What happens to a frame between its capture and the sinks, one thread for each stage.

    capture -> start (preprocessing, network) -> finish (post-processing, filters, tracks, zones)
            -> draw -> output (sinks)

A stage takes from the buffer before it and puts into the one after it. Whoever fails discards the
former and ends the latter: what is behind goes on to the sinks, what is before stops. Every frame
either reaches the end of the output stage or is counted as dropped where it is given up.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances
from solo_edge.video.buffer import FrameBuffer, Lane
from solo_edge.video.clock import now
from solo_edge.video.feed import Arrival, Feed
from solo_edge.video.follower import Follower
from solo_edge.video.output import Output
from solo_edge.video.result import ProcessedFrame

if TYPE_CHECKING:
    from solo_edge.runtime.engine import StageTimes

__all__ = ["Predictor", "Stages"]

# One being finished while the next is started: what an engine keeps for us at the same time.
BATCHES_UNDER_WAY = 2
# Results that wait for a slow stage; of a source of which only the newest counts, the oldest goes.
RESULT_DEPTH = 2
NEWS_EVERY_S = 0.1  # how late a sink may hear that a source is lost, while no frame comes


class Predictor(Protocol):
    """What finds instances: `solo_edge.runtime.engine.Engine`, or anything like it."""

    @property
    def batch_size(self) -> int: ...

    def run(self, image: NDArray[np.uint8], /) -> tuple[Instances, StageTimes]: ...

    def start(self, images: Sequence[NDArray[np.uint8]], /) -> Any: ...

    def finish(self, started: Any, /) -> Sequence[tuple[Instances, StageTimes]]: ...


class _Started(NamedTuple):
    """Frames that went through the network together."""

    work: Any  # of `Predictor.start`
    arrivals: list[tuple[int, Arrival]]
    ages_ms: list[float]


def _with_events_of(old: ProcessedFrame, new: ProcessedFrame) -> ProcessedFrame:
    """What happened in a frame that is never shown is told with the next one."""
    return dataclasses.replace(new, events=(*old.events, *new.events)) if old.events else new


class Stages:
    """The threads and buffers of a stream.

    Args:
        feeds: the sources, open.
        followers: one for each of them.
        output: the sinks.
        max_frames: of each source.
        on_error: called with what a stage raised, from its thread.
    """

    def __init__(
        self,
        engine: Predictor,
        feeds: Sequence[Feed],
        followers: Sequence[Follower],
        output: Output,
        max_frames: int | None,
        on_error: Callable[[BaseException], None],
    ):
        self._engine, self._feeds, self._followers = engine, feeds, followers
        self._output, self._max_frames, self._on_error = output, max_frames, on_error
        self._captured: FrameBuffer[Arrival] = FrameBuffer([f.lane for f in feeds], self._drop)
        self._started: FrameBuffer[_Started] = FrameBuffer(
            [Lane(BATCHES_UNDER_WAY, False)], lambda _, batch: self._drop_all(batch.arrivals)
        )
        self._permits: FrameBuffer[None] = FrameBuffer(
            [Lane(BATCHES_UNDER_WAY, False)], lambda _, permit: None
        )
        for _ in range(BATCHES_UNDER_WAY):
            self._permits.put(0, None)
        self._finished, self._drawn = self._result_buffer(), self._result_buffer()
        loops = (self._start, self._finish, self._draw, self._write)
        self._threads = [
            threading.Thread(
                target=self._guarded, args=(loop,), name=f"solo-edge{loop.__name__}", daemon=True
            )
            for loop in loops
        ]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()
        for feed in self._feeds:
            if feed.source is None:  # it never opened
                self._captured.end(feed.index)
            else:
                feed.read_into(self._captured)

    @property
    def done(self) -> bool:
        """Whether all frames have come to their end and the sinks are closed."""
        return not any(thread.is_alive() for thread in self._threads)

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; returns whether it came in that time."""
        deadline_s = now() + timeout_s
        for thread in reversed(self._threads):  # the last stage ends last
            thread.join(max(deadline_s - now(), 0.0))
        return self.done

    def stop(self) -> None:
        """Take no more frames; those under way go on to the sinks."""
        self._captured.discard()

    def abandon(self) -> None:
        """Give up what is under way too. A call that is running in a stage is not waited for."""
        for buffer in (self._captured, self._started, self._permits, self._finished, self._drawn):
            buffer.discard()

    def _result_buffer(self) -> FrameBuffer[ProcessedFrame]:
        """With a number of frames to be delivered, none is given up once it was worked on."""
        exact = self._max_frames is not None
        lanes = [Lane(RESULT_DEPTH, feed.newest_only and not exact) for feed in self._feeds]
        return FrameBuffer(lanes, self._drop, _with_events_of)

    def _drop(self, lane: int, item: object) -> None:
        self._feeds[lane].tally.dropped()

    def _drop_all(self, arrivals: Sequence[tuple[int, object]]) -> None:
        for lane, arrival in arrivals:
            self._drop(lane, arrival)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self._on_error(error)
            self.stop()  # what is still under way is dropped at the place of the failure

    @contextmanager
    def _between(self, before: FrameBuffer[Any], after: FrameBuffer[Any]) -> Iterator[None]:
        try:
            yield
        finally:
            before.discard()
            after.end()

    @contextmanager
    def _holding(self, arrivals: Sequence[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
        """The items in hand: what is still in the list when an error comes is dropped."""
        held = list(arrivals)
        try:
            yield held
        except BaseException:
            self._drop_all(held)
            raise

    def _start(self) -> None:
        taken_of = [0] * len(self._feeds)
        with self._between(self._captured, self._started):
            # First the permit, then the frame: it is not to grow old while it waits.
            while self._permits.get(None) and (
                arrivals := self._captured.get(None, self._engine.batch_size)
            ):
                with self._holding(arrivals):
                    at_s = now()
                    ages = [1000.0 * (at_s - arrival.frame.captured_s) for _, arrival in arrivals]
                    work = self._engine.start([arrival.frame.image for _, arrival in arrivals])
                self._started.put(0, _Started(work, arrivals, ages))
                for lane, _ in arrivals:
                    taken_of[lane] += 1
                    if taken_of[lane] == self._max_frames:
                        self._feeds[lane].stop()
                        self._captured.discard(lane)

    def _finish(self) -> None:
        with self._between(self._started, self._finished):
            try:
                while batches := self._started.get(None):
                    self._finish_batch(batches[0][1])
            finally:
                self._permits.discard()

    def _finish_batch(self, batch: _Started) -> None:
        with self._holding(batch.arrivals) as held:
            found = self._engine.finish(batch.work)
            self._permits.put(0, None)
            for (instances, times), age_ms in zip(found, batch.ages_ms, strict=True):
                lane, arrival = held[0]
                result = self._follow(lane, arrival, instances, times, age_ms)
                del held[0]
                self._finished.put(lane, result)

    def _follow(
        self, lane: int, arrival: Arrival, instances: Instances, times: StageTimes, age_ms: float
    ) -> ProcessedFrame:
        frame = arrival.frame
        stage_ms = {} if arrival.decode_ms is None else {"decode": arrival.decode_ms}
        stage_ms["preprocess"] = times.preprocess_ms
        stage_ms["network"] = times.network_ms
        stage_ms["postprocess"] = times.postprocess_ms
        followed = self._followers[lane].update(instances, frame.timestamp_s)
        return ProcessedFrame(
            lane,
            self._feeds[lane].tally.name,
            frame,
            followed.instances,
            followed.events,
            age_ms,
            {**stage_ms, **followed.stage_ms},
            shapes=followed.shapes,
        )

    def _draw(self) -> None:
        with self._between(self._finished, self._drawn):
            while taken := self._finished.get(None):
                with self._holding(taken) as held:
                    lane, result = held[0]
                    if self._output.wants_overlay:
                        result = _drawn(result)
                    del held[0]
                    self._drawn.put(lane, result)

    def _write(self) -> None:
        try:
            with self._output as output:
                while True:
                    taken = self._drawn.get(NEWS_EVERY_S)
                    output.pass_on_news()
                    if not taken and self._drawn.ended:
                        return
                    with self._holding(taken):
                        for lane, result in taken:  # one, or none
                            output.write(result, self._feeds[lane].tally)
        finally:
            self._drawn.discard()


def _drawn(result: ProcessedFrame) -> ProcessedFrame:
    from solo_edge.draw import draw_instances, draw_shapes

    start_s = now()
    # Zones first, so that their lines do not cross the names.
    overlay = draw_shapes(result.frame.image, result.shapes)
    draw_instances(overlay, result.instances, out=overlay)
    result.stage_ms["draw"] = 1000.0 * (now() - start_s)
    return dataclasses.replace(result, overlay=overlay)
