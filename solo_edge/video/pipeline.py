"""From a source to a video, a window and JSON Lines: one thread captures, the caller's does the rest."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw import draw_instances, draw_status
from solo_edge.errors import ResourceError, UsageError
from solo_edge.video.buffer import FrameBuffer
from solo_edge.video.clock import FpsMeter, StageClock, Summary, now
from solo_edge.video.sink import ImageWriter, JsonLinesWriter, VideoWriter, check_output
from solo_edge.video.source import Frame, Source, open_source

if TYPE_CHECKING:
    from solo_edge.instances import Instances
    from solo_edge.runtime.engine import StageTimes

__all__ = ["Predictor", "StreamReport", "StreamStatus", "stream"]

FILE_DEPTH = 4  # decoded frames that wait for the network
FALLBACK_FPS = 25.0
POLL_S = 0.1  # how soon a signal is noticed while no frame comes
STATUS_EVERY_S = 1.0
TOLERATED_MISSING = 0.05  # of the announced frames
END_PATIENCE_S = 2.0  # for a read that is under way
WINDOW = "solo-edge"


class Predictor(Protocol):
    """What finds instances: `solo_edge.runtime.engine.Engine`, or anything like it."""

    def run(self, image: NDArray[np.uint8], /) -> tuple[Instances, StageTimes]: ...


@dataclass(frozen=True)
class StreamStatus:
    """How a running stream is doing. Frames that wait are captured, but neither processed nor dropped."""

    captured: int
    processed: int
    dropped: int
    fps: float | None  # of the last frames
    instances: int  # in the latest one
    frame_count: int | None  # of the source, if it has an end


@dataclass(frozen=True)
class StreamReport:
    """How a stream went. `captured` = `processed` + `dropped`, exactly."""

    source: str  # without credentials
    live: bool
    captured: int
    processed: int
    dropped: int  # came while an earlier one was worked on, or were left over at the end
    damaged: int  # pieces of the video that could not be decoded
    instances: int
    fps: float | None  # (processed - 1) / (time of the last result - time of the first)
    stages: dict[str, Summary]  # wait, preprocess, network, postprocess, draw, write ...
    latency: Summary | None  # from a frame's arrival to its result on disk and screen
    stopped_by: str | None  # SIGINT, SIGTERM or "window"; None at the end of the source
    missing: int  # frames that the file announces and does not hold

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class _Arrival(NamedTuple):
    frame: Frame
    at_s: float


def stream(
    engine: Predictor,
    source: Source | str,
    *,
    save: Path | None = None,
    show: bool = False,
    max_frames: int | None = None,
    json_path: Path | None = None,
    min_score: float = 0.0,
    on_status: Callable[[StreamStatus], None] | None = None,
) -> StreamReport:
    """Find instances in every frame until the source ends, somebody stops it, or something fails.

    Of a file every frame is worked on. Of a live source only the newest is: a result is late by one
    frame at most, however slow the network. Ctrl-C, SIGTERM and closing the window (or q, Esc) end
    the stream with all files complete; after a second Ctrl-C nothing is waited for.

    Args:
        source: an open `Source`, which stays open, or what `open_source` takes.
        save: a video (.mp4, .mkv), or a folder for pictures.
        show: open a window.
        max_frames: stop after so many results.
        json_path: JSON Lines; each holds `frame`, `timestamp_s`, `size` (height, width) and
            `detections`, COCO results with `image_id` = `frame`.
        min_score: instances below it are neither drawn, counted nor written.
        on_status: called about once a second.

    Raises:
        UsageError, ResourceError: an output that cannot be written or shown, before the first frame.
        SourceError, DataError: the source does not open, or fails. What was written until then is
            complete.
        Whatever the engine or `on_status` raises.
    """
    if max_frames is not None and max_frames < 1:
        raise UsageError(f"max_frames must be at least 1, got {max_frames}", fix="leave it out")
    if save is not None and save == json_path:
        raise UsageError(
            "the video and the JSON Lines need two files", where=save, fix="rename one"
        )
    if show:
        check_display()
    with ExitStack() as stack:
        opened = source if isinstance(source, Source) else stack.enter_context(open_source(source))
        run = _Run(engine, opened, max_frames, min_score, on_status, show)
        if json_path is not None:  # before the other output takes the place of an earlier one
            check_output(json_path, opened.files)
        if save is not None:
            run.writer = _open_writer(save, opened)
            stack.callback(run.writer.close)
        if json_path is not None:
            run.lines = stack.enter_context(JsonLinesWriter(json_path))
        run.loop()
    return run.report()


class _Run:
    """One stream from start to end."""

    def __init__(
        self,
        engine: Predictor,
        source: Source,
        max_frames: int | None,
        min_score: float,
        on_status: Callable[[StreamStatus], None] | None,
        show: bool,
    ):
        self.engine, self.source, self.max_frames = engine, source, max_frames
        self.min_score = min_score
        self.on_status, self.show = on_status, show
        self.writer: VideoWriter | ImageWriter | None = None
        self.lines: JsonLinesWriter | None = None
        self.category_ids = getattr(engine, "category_ids", None)
        self.buffer: FrameBuffer[_Arrival] = FrameBuffer(
            1 if source.live else FILE_DEPTH, newest_only=source.live
        )
        self.stages, self.latency, self.meter = StageClock(), StageClock(), FpsMeter()
        self.instances = 0
        self.stopped_by: str | None = None

    def loop(self) -> None:
        thread = threading.Thread(target=self._capture, name="solo-edge capture", daemon=True)
        with self._stopped_by_signals():
            thread.start()
            try:
                last_status_s = now()
                wait_from_s = now()
                while self.stopped_by is None and self.meter.count != self.max_frames:
                    arrival = self.buffer.get(POLL_S)
                    if arrival is None:
                        if self.buffer.ended:
                            break
                        continue
                    self.stages.add("wait", 1000.0 * (now() - wait_from_s))
                    count = self._process(arrival)
                    wait_from_s = now()
                    if self.on_status is not None and now() - last_status_s >= STATUS_EVERY_S:
                        last_status_s = now()
                        self.on_status(self._status(count))
            finally:
                self.buffer.discard()
                # A read that hangs is left to its own timeout; the thread closes the source then.
                thread.join(END_PATIENCE_S)
                if self.show:
                    _close_window()

    def report(self) -> StreamReport:
        counts = self.buffer.counts()
        return StreamReport(
            source=self.source.name,
            live=self.source.live,
            captured=counts.put,
            processed=counts.got,
            dropped=counts.dropped,
            damaged=self.source.damaged,
            instances=self.instances,
            fps=self.meter.overall,
            stages=self.stages.summary(),
            latency=self.latency.summary().get("latency"),
            stopped_by=self.stopped_by,
            missing=self._missing(counts.put),
        )

    def _missing(self, captured: int) -> int:
        announced = self.source.frame_count
        if self.source.live or announced is None or self.stopped_by or captured == self.max_frames:
            return 0
        # Containers miscount by a few frames; a file that was cut off lacks many.
        lacking = announced - captured
        return lacking if lacking > announced * TOLERATED_MISSING else 0

    def _capture(self) -> None:
        """The capture thread: frames, then the end or the error, into the buffer."""
        try:
            for frame in self.source:
                if not self.buffer.put(_Arrival(frame, now())):
                    return
                # Of a file no frame is read that will not be used.
                if not self.source.live and self.buffer.counts().put == self.max_frames:
                    break
        except BaseException as error:
            self.buffer.end(error)
        else:
            self.buffer.end()

    def _process(self, arrival: _Arrival) -> int:
        """Everything for one frame; returns the number of instances."""
        frame, stages = arrival.frame, self.stages
        found, times = self.engine.run(frame.image)
        found = found.at_least(self.min_score)
        stages.add("preprocess", times.preprocess_ms)
        stages.add("network", times.network_ms)
        stages.add("postprocess", times.postprocess_ms)
        if self.writer is not None or self.show:
            with stages.measure("draw"):
                overlay = draw_instances(frame.image, found)
            if self.writer is not None:
                with stages.measure("write"):
                    self.writer.write(overlay, frame.timestamp_s)
            if self.show:
                with stages.measure("show"):
                    self._display(overlay)
        if self.lines is not None:
            with stages.measure("json"):
                self.lines.write(
                    {
                        "frame": frame.index,
                        "timestamp_s": round(frame.timestamp_s, 6),
                        "size": list(found.image_size),
                        "detections": found.to_coco(frame.index, self.category_ids),
                    }
                )
        self.latency.add("latency", 1000.0 * (now() - arrival.at_s))
        self.meter.tick()
        self.instances += len(found)
        return len(found)

    def _status(self, instances: int) -> StreamStatus:
        counts = self.buffer.counts()
        return StreamStatus(
            captured=counts.put,
            processed=counts.got,
            dropped=counts.dropped,
            fps=self.meter.recent,
            instances=instances,
            frame_count=self.source.frame_count,
        )

    def _display(self, overlay: NDArray[np.uint8]) -> None:
        import cv2

        fps = self.meter.recent
        text = "" if fps is None else f"{fps:.1f} FPS"
        if dropped := self.buffer.counts().dropped:
            text += f"  {dropped} dropped"
        shown = draw_status(overlay, text) if text else overlay
        cv2.imshow(WINDOW, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        if key in (ord("q"), 27) or cv2.getWindowProperty(WINDOW, cv2.WND_PROP_VISIBLE) < 1:
            self.stopped_by = "window"

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Let SIGINT and SIGTERM end the loop; a second SIGINT raises KeyboardInterrupt."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return

        def stop(number: int, stack_frame: FrameType | None) -> None:
            if self.stopped_by is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stopped_by = signal.Signals(number).name

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None stands for a handler that was not set from Python and cannot be set again.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def check_display() -> None:
    """Raise ResourceError unless this OpenCV can open a window here."""
    import cv2

    lines = [line.split() for line in cv2.getBuildInformation().splitlines()]
    toolkit = next(
        (words[1] for words in lines if words[:1] == ["GUI:"] and len(words) > 1), "NONE"
    )
    if toolkit == "NONE":
        what = "this OpenCV was built without windows"
        fix = "replace opencv-python-headless by opencv-python, or use --save"
        raise ResourceError(what, where="--show", fix=fix)
    on_linux = sys.platform == "linux"
    if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        fix = "set DISPLAY, or use --save"
        raise ResourceError("there is no screen here", where="--show", fix=fix)


def _close_window() -> None:
    import cv2

    cv2.destroyAllWindows()


def _open_writer(save: Path, source: Source) -> VideoWriter | ImageWriter:
    if save.is_dir() or not save.suffix:
        return ImageWriter(save, source.files)
    check_output(save, source.files)
    return VideoWriter(save, source.fps or FALLBACK_FPS, source.size)
