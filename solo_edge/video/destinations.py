"""Opens the sinks that the options of a stream ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.video.feed import Feed
from solo_edge.video.options import StreamOptions, numbered
from solo_edge.video.output import Output, Route
from solo_edge.video.sink import check_output
from solo_edge.video.writers import JsonLinesSink, PictureSink, VideoSink, check_video_name

if TYPE_CHECKING:
    from solo_edge.video.window import Window

__all__ = ["check_outputs", "open_sinks"]


def check_outputs(options: StreamOptions, sources: int) -> None:
    """Look at everything that is to be written or shown, before a source is opened.

    Raises:
        UsageError, ResourceError: that will not work.
    """
    if options.show:
        from solo_edge.video.window import check_display

        check_display()
    if options.json_path is not None:
        check_output(options.json_path)
    if options.save is not None and not _is_folder(options.save):
        check_video_name(options.save)
        for index in range(sources):
            check_output(numbered(options.save, index, sources))


def open_sinks(
    output: Output,
    options: StreamOptions,
    feeds: Sequence[Feed],
    engine: Any,
    on_serving: Callable[[str], None] | None,
) -> Window | None:
    """Open the sinks into `output`; those before one that fails stay in it.

    Args:
        feeds: the sources, open if they could be opened.
        engine: its `class_names` and `category_ids` are used where it has them.
        on_serving: called with the address of the web page.

    Returns:
        The window, which the caller's thread has to feed.
    """
    _open_files(output, options, feeds, engine)
    names = [feed.tally.name for feed in feeds]
    if options.serve is not None:
        from solo_edge.video.web import WebViewer

        viewer = WebViewer(
            options.serve,
            token=options.token,
            sources=names,
            class_names=getattr(engine, "class_names", ()),
            min_score=options.min_score,
        )
        output.routes.append(Route(viewer))
        if on_serving is not None:
            on_serving(viewer.url)
    if not options.show:
        return None
    from solo_edge.video.window import Window

    beside = options.save.parent if options.save is not None else Path()
    output.viewer = window = Window(names, beside)
    return window


def _open_files(output: Output, options: StreamOptions, feeds: Sequence[Feed], engine: Any) -> None:
    opened = [(feed.index, feed.source) for feed in feeds if feed.source]
    inputs = [file for _, source in opened for file in source.files]
    # Before any of the outputs takes the place of an earlier one.
    if options.json_path is not None:
        check_output(options.json_path, inputs)
    if options.save is not None:
        paths = [(numbered(options.save, index, len(feeds)), index, s) for index, s in opened]
        if _is_folder(options.save):
            for path, index, _ in paths:
                output.routes.append(Route(PictureSink(path, inputs), index))
        else:
            for path, _, _ in paths:
                check_output(path, inputs)
            for path, index, source in paths:
                output.routes.append(Route(VideoSink(path, source.fps, source.size), index))
    if options.json_path is not None:
        sink = JsonLinesSink(
            options.json_path,
            getattr(engine, "category_ids", None),
            with_polygons=options.polygons,
            with_events=options.zones is not None,
        )
        output.routes.append(Route(sink))
    if options.record_events is not None:
        from solo_edge.video.recorder import EventRecorder

        of_events = options.zones is not None
        output.routes.append(Route(EventRecorder(options.record_events, of_events=of_events)))


def _is_folder(save: Path) -> bool:
    return save.is_dir() or not save.suffix
