"""`solo-edge predict` and `solo-edge stream`."""

from __future__ import annotations

import argparse
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from solo_edge.cli.console import note, status_line, table
from solo_edge.cli.parser import Command, CommandParser, positive, probability
from solo_edge.cli.thresholds import add_model_options, model_options
from solo_edge.errors import DataError

if TYPE_CHECKING:
    from solo_edge.predict import PredictItem
    from solo_edge.video.pipeline import StreamReport, StreamStatus

__all__ = ["PREDICT", "STREAM"]

# For people, as in the authors' demos. Accuracy is measured with every instance, however unsure.
SHOWN_SCORE = 0.3


def _model_argument(parser: CommandParser) -> None:
    parser.add_argument(
        "model",
        type=Path,
        metavar="ENGINE",
        help="engine folder, checkpoint or folder of a training run",
    )


def _score_argument(parser: CommandParser) -> None:
    parser.add_argument(
        "--score",
        type=probability,
        default=SHOWN_SCORE,
        metavar="X",
        help=f"lowest score that is drawn and written, 0 to 1 (default: {SHOWN_SCORE})",
    )


def _predict_arguments(parser: CommandParser) -> None:
    _model_argument(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="image, folder, pattern like 'photos/*.jpg' (quoted), or video",
    )
    parser.add_argument(
        "--out",
        "-o",
        type=Path,
        metavar="OUT",
        help="pictures with what was found: a file for one image, a folder for several, .mp4 or .mkv "
        "for a video",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="OUT.jsonl",
        help="what was found as JSON Lines: one image or frame each, masks as COCO RLE",
    )
    _score_argument(parser)
    add_model_options(parser)


def _predict(values: argparse.Namespace) -> int:
    from solo_edge.predict import predict
    from solo_edge.runtime.engine import open_predictor
    from solo_edge.video.source import is_image_source

    if not is_image_source(values.source):
        return _stream_to(values, save=values.out, show=False, max_frames=None)
    with open_predictor(values.model, **model_options(values)) as engine:
        predict(
            engine,
            values.source,
            values.out,
            json_path=values.json,
            min_score=values.score,
            on_item=_print_item,
        )
    return 0


def _print_item(item: PredictItem) -> None:
    if item.instances is None:
        note(f"skipped: {item.error}")
        return
    counts = Counter(item.instances.names)
    found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
    print(f"{item.path}: {found}{f' -> {item.output}' if item.output else ''}")


def _stream_arguments(parser: CommandParser) -> None:
    _model_argument(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="camera (0, /dev/video0), video file, rtsp:// or http:// address, folder of images, or "
        "test:// for a rendered scene",
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="OUT.mp4",
        help="video to write (.mp4 or .mkv), or a folder for single pictures",
    )
    parser.add_argument(
        "--show", action="store_true", help="show a window; q or Esc in it ends the stream"
    )
    parser.add_argument(
        "--max-frames", type=positive, metavar="N", help="stop after N frames (default: at the end)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="OUT.jsonl",
        help="what was found as JSON Lines: one frame each, masks as COCO RLE",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write counts, rates and times as JSON"
    )
    _score_argument(parser)
    add_model_options(parser)


def _stream(values: argparse.Namespace) -> int:
    return _stream_to(
        values, save=values.save, show=values.show, max_frames=values.max_frames, file=values.report
    )


def _stream_to(
    values: argparse.Namespace,
    *,
    save: Path | None,
    show: bool,
    max_frames: int | None,
    file: Path | None = None,
) -> int:
    """Run a stream and print how it went; the exit code says whether it was interrupted."""
    from solo_edge.files import write_json
    from solo_edge.report import check_writable
    from solo_edge.runtime.engine import open_predictor
    from solo_edge.video.pipeline import stream

    if file is not None:
        check_writable(file)
    with ExitStack() as stack:
        engine = stack.enter_context(open_predictor(values.model, **model_options(values)))
        show_line = stack.enter_context(status_line())
        report = stream(
            engine,
            values.source,
            save=save,
            show=show,
            max_frames=max_frames,
            json_path=values.json,
            min_score=values.score,
            on_status=lambda status: show_line(_status_text(status)),
        )
    if file is not None:
        write_json(file, report.to_dict())
    _print_report(report)
    for path in (save, values.json, file):
        if path is not None:
            print(path)
    if report.missing:
        announced = report.captured + report.missing
        what = f"the video ends after {report.captured} of {announced} frames, which are done"
        raise DataError(what, where=report.source, fix="get the whole file")
    if report.stopped_by in ("SIGINT", "SIGTERM"):
        return 128 + signal.Signals[report.stopped_by]
    return 0


def _status_text(status: StreamStatus) -> str:
    of = f" of {status.frame_count}" if status.frame_count else ""
    fps = "" if status.fps is None else f", {status.fps:.1f} FPS"
    return f"frame {status.processed}{of}{fps}, {status.dropped} dropped, {status.instances} found"


def _print_report(report: StreamReport) -> None:
    fps = "" if report.fps is None else f" at {report.fps:.1f} FPS"
    dropped = f", {report.dropped} dropped" if report.live else ""
    damaged = f", {report.damaged} damaged" if report.damaged else ""
    print(
        f"{report.source}: {report.processed} frames{fps}{dropped}{damaged}, "
        f"{report.instances} instances"
    )
    times = dict(report.stages)
    if report.latency is not None:
        times["latency"] = report.latency
    rows = [
        [name, *(f"{value:.1f}" for value in (t.p50_ms, t.p90_ms, t.p99_ms, t.max_ms))]
        for name, t in times.items()
    ]
    if rows:
        table(["milliseconds", "p50", "p90", "p99", "max"], rows)


PREDICT = Command(
    "predict",
    "Segment images or a video; draw what was found and write it down.",
    "solo-edge predict scenes.engine photos/ -o drawn --json found.jsonl",
    _predict_arguments,
    _predict,
)
STREAM = Command(
    "stream",
    "Segment a camera, a network stream or a file as it comes.",
    "solo-edge stream scenes.engine 0 --save camera.mp4",
    _stream_arguments,
    _stream,
)
