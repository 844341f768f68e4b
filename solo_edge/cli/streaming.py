"""`solo-edge stream`, and what `predict` does with a video."""

from __future__ import annotations

import argparse
import atexit
import gc
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.cli.arguments import add_model
from solo_edge.cli.console import note, status_line, table
from solo_edge.cli.parser import (
    Command,
    CommandParser,
    one_of,
    positive,
    positive_number,
    probability,
)
from solo_edge.cli.thresholds import add_model_options, model_options
from solo_edge.errors import DataError, SourceError

if TYPE_CHECKING:
    from solo_edge.video.pipeline import StreamReport, StreamStatus
    from solo_edge.video.states import StateChange

__all__ = ["STREAM", "add_score", "run_stream"]

# For people, as in the authors' demos. Accuracy is measured with every instance, however unsure.
SHOWN_SCORE = 0.3


def add_score(parser: CommandParser | argparse._ArgumentGroup) -> None:
    """--score."""
    parser.add_argument(
        "--score",
        type=probability,
        default=SHOWN_SCORE,
        metavar="X",
        help=f"lowest score that is drawn and written, 0 to 1 (default: {SHOWN_SCORE})",
    )


def _arguments(parser: CommandParser) -> None:
    add_model(parser, "model", "ENGINE")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="camera (0, /dev/video0, csi://0), video file, rtsp:// or http:// address, folder of "
        "images, gst://PIPELINE, screen://, or test:// for a rendered scene; several share the engine",
    )
    _add_outputs(parser)
    _add_choices(parser)
    add_model_options(parser)


def _add_outputs(parser: CommandParser) -> None:
    group = parser.add_argument_group("where results go")
    group.add_argument(
        "--show",
        action="store_true",
        help="show a window; q or Esc in it ends the stream, space holds the picture, s saves it",
    )
    group.add_argument(
        "--serve",
        metavar="HOST:PORT",
        help="show a web page, for example at 127.0.0.1:8080; other machines reach 0.0.0.0:8080, with "
        "a token",
    )
    group.add_argument("--token", help="what the web page asks for (default: a new one)")
    group.add_argument(
        "--save",
        type=Path,
        metavar="OUT.mp4",
        help="video to write (.mp4 or .mkv), or a folder for single pictures; several sources are "
        "numbered: OUT-0.mp4",
    )
    group.add_argument(
        "--json",
        type=Path,
        metavar="OUT.jsonl",
        help="what was found as JSON Lines: one frame each, masks as COCO RLE",
    )
    group.add_argument("--polygons", action="store_true", help="add polygons to the JSON Lines")
    group.add_argument(
        "--record-events",
        type=Path,
        metavar="DIR",
        help="a clip of each event, with some seconds before and after it",
    )
    group.add_argument(
        "--report", type=Path, metavar="FILE", help="write counts, rates and times as JSON"
    )
    group.add_argument(
        "--stats",
        type=positive_number,
        metavar="SECONDS",
        help="print rate, age and latency of each source so often",
    )


def _add_choices(parser: CommandParser) -> None:
    group = parser.add_argument_group("what is looked for")
    add_score(group)
    group.add_argument(
        "--classes",
        type=_names,
        default=(),
        metavar="A,B",
        help="only instances of these classes (default: all)",
    )
    group.add_argument(
        "--track", action="store_true", help="give every object a number that it keeps"
    )
    group.add_argument(
        "--zones",
        type=Path,
        metavar="FILE.yaml",
        help="zones and lines in which objects are counted and timed",
    )
    group = parser.add_argument_group("pace")
    group.add_argument(
        "--policy",
        type=one_of("policy", ("latest", "all")),
        metavar="latest|all",
        help="work on the newest frame alone, or on every frame (default: latest of what is live, "
        "all of files)",
    )
    group.add_argument(
        "--fps-limit",
        type=positive_number,
        metavar="N",
        help="frames of each source that are worked on in a second, at most",
    )
    group.add_argument(
        "--max-frames",
        type=positive,
        metavar="N",
        help="stop after N frames of each source (default: at the end)",
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of names like a,b")
    return names


def _stream(values: argparse.Namespace) -> int:
    return run_stream(
        values,
        values.sources,
        file=values.report,
        stats_s=values.stats,
        save=values.save,
        show=values.show,
        serve=values.serve,
        token=values.token,
        polygons=values.polygons,
        record_events=values.record_events,
        classes=values.classes,
        track=values.track,
        zones=values.zones,
        policy=values.policy,
        fps_limit=values.fps_limit,
        max_frames=values.max_frames,
    )


def run_stream(
    values: argparse.Namespace,
    sources: Sequence[str],
    *,
    file: Path | None = None,
    stats_s: float | None = None,
    **options: Any,
) -> int:
    """Run a stream and print how it went; the exit code says whether it was interrupted.

    Args:
        values: for the model, its thresholds, --score and --json.
        file: the report.
        stats_s: how often each source's rate and times are printed.
        options: further fields of `solo_edge.video.options.StreamOptions`.
    """
    from solo_edge.files import write_json
    from solo_edge.report import check_writable
    from solo_edge.runtime.engine import open_predictor
    from solo_edge.video.options import StreamOptions, numbered
    from solo_edge.video.pipeline import stream

    # After PyTorch, looking for garbage once more at the end of the process takes seconds.
    atexit.register(gc.freeze)
    options.update(json_path=values.json, min_score=values.score)
    if stats_s is not None:
        options["status_every_s"] = min(1.0, stats_s)
    StreamOptions(**options)  # what is wrong there need not wait for the engine
    if file is not None:
        check_writable(file)
    with ExitStack() as stack:
        engine = stack.enter_context(open_predictor(values.model, **model_options(values)))
        show_status = _status_lines(stack.enter_context(status_line()), stats_s)
        report = stream(
            engine,
            sources,
            on_status=show_status,
            on_state=_state_line(several=len(sources) > 1),
            on_serving=lambda url: note(f"watch at {url}"),
            **options,
        )
    if file is not None:
        write_json(file, report.to_dict())
    _print_report(report)
    saved = options.get("save")
    paths = [numbered(saved, i, len(sources)) for i in range(len(sources))] if saved else []
    for path in (*paths, values.json, options.get("record_events"), file):
        if path is not None and path.exists():
            print(path)
    return _exit_code(report)


def _state_line(*, several: bool) -> Callable[[StateChange], None]:
    """What tells of sources that are lost, and that they play again.

    Args:
        several: whether to tell of the end of one, too; that of the only one is the command's.
    """
    lost: dict[str, float] = {}

    def tell(change: StateChange) -> None:
        if change.state == "waiting":
            lost.setdefault(change.source, change.at_s)
            if change.attempt & (change.attempt - 1) == 0:  # 0, 1, 2, 4 ... it may be away for days
                tries = f" (try {change.attempt})" if change.attempt > 1 else ""
                note(f"{change.source}: {change.message}; waiting for it{tries}")
        elif change.state == "playing" and change.source in lost:
            note(
                f"{change.source}: plays again, after {change.at_s - lost.pop(change.source):.1f} s"
            )
        elif change.state == "ended" and change.code is not None and several:
            note(f"{change.source}: {change.message}; the others go on")

    return tell


def _status_lines(
    show: Callable[[str], None], stats_s: float | None
) -> Callable[[tuple[StreamStatus, ...]], None]:
    """What shows how things stand: one line for all with `show`, and one for each now and then."""
    last_s = time.monotonic()

    def tell(statuses: tuple[StreamStatus, ...]) -> None:
        nonlocal last_s
        if stats_s is None or sys.stderr.isatty():
            show("; ".join(map(_status_text, statuses)))
        # A status is due every so often, and may come a little early.
        if stats_s is not None and time.monotonic() - last_s > stats_s - 0.05:
            last_s = time.monotonic()
            for status in statuses:
                note(_stats_text(status))

    return tell


def _status_text(status: StreamStatus) -> str:
    of = f" of {status.frame_count}" if status.frame_count else ""
    fps = "" if status.fps is None else f", {status.fps:.1f} FPS"
    state = "" if status.state == "playing" else f", {status.state}"
    found = f"{status.dropped} dropped, {status.instances} found"
    return f"frame {status.processed}{of}{fps}, {found}{state}"


def _stats_text(status: StreamStatus) -> str:
    parts = [status.state]
    if status.fps is not None:
        parts.append(f"{status.fps:.1f} FPS")
    if status.age_ms is not None and status.latency_ms is not None:
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in status.stage_ms.items())
        parts += [f"age {status.age_ms:.0f} ms", f"latency {status.latency_ms:.0f} ms ({stages})"]
    parts.append(f"{status.dropped} of {status.captured} dropped")
    return f"{status.source}: {', '.join(parts)}"


def _print_report(report: StreamReport) -> None:
    for source in report.sources:
        fps = "" if source.fps is None else f" at {source.fps:.1f} FPS"
        dropped = f", {source.dropped} dropped" if source.dropped else ""
        damaged = f", {source.damaged} damaged" if source.damaged else ""
        lost = sum(source.outages.values())
        lost_text = f", lost {lost} times for {source.outage_s:.1f} s" if lost else ""
        print(
            f"{source.source}: {source.processed} frames{fps}{dropped}{damaged}{lost_text}, "
            f"{source.instances} instances"
        )
    times = dict(report.stages)
    for name, summary in (("age", report.age), ("latency", report.latency)):
        if summary is not None:
            times[name] = summary
    rows = [
        [name, *(f"{value:.1f}" for value in (t.p50_ms, t.p90_ms, t.p99_ms, t.max_ms))]
        for name, t in times.items()
    ]
    if rows:
        table(["milliseconds", "p50", "p90", "p99", "max"], rows)


def _exit_code(report: StreamReport) -> int:
    """Raises the error of a stream that came to no good end."""
    if report.stopped_by is not None and report.stopped_by.startswith("SIG"):
        return 128 + signal.Signals[report.stopped_by]
    for source in report.sources:
        if source.missing:
            announced = source.captured + source.missing
            what = f"the video ends after {source.captured} of {announced} frames, which are done"
            raise DataError(what, where=source.source, fix="get the whole file")
    if report.stopped_by is None and all(source.error for source in report.sources):
        raise SourceError("no source came to a good end", fix="see above why")
    return 0


STREAM = Command(
    "stream",
    "Segment cameras, network streams or files as they come.",
    "solo-edge stream scenes.engine 0 --track --serve 127.0.0.1:8080",
    _arguments,
    _stream,
)
