"""Instances of images, as pictures and JSON Lines; videos go through the stream pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from solo_edge.draw import draw_instances
from solo_edge.errors import DataError, ResourceError, SoloEdgeError, UsageError
from solo_edge.images import list_images, read_image
from solo_edge.instances import Instances
from solo_edge.video.pipeline import Predictor, StreamReport, stream
from solo_edge.video.sink import PICTURE_SUFFIXES, JsonLinesWriter, check_output, write_image
from solo_edge.video.source import is_image_source

__all__ = ["PredictItem", "PredictReport", "predict"]


@dataclass(frozen=True)
class PredictItem:
    """One image that is done: either `instances` or `error` is there."""

    path: Path
    instances: Instances | None = None
    error: SoloEdgeError | None = None
    output: Path | None = None  # the picture that was written


@dataclass(frozen=True)
class PredictReport:
    """How many images (or frames of a video) were done, and how many could not be read."""

    ok: int
    failed: int
    stream: StreamReport | None = None  # of a video


def predict(
    engine: Predictor,
    source: str,
    out: Path | None = None,
    json_path: Path | None = None,
    min_score: float = 0.0,
    on_item: Callable[[PredictItem], None] | None = None,
) -> PredictReport:
    """Find instances in an image, a folder or pattern of images, or a video.

    Args:
        source: as `list_images` takes it; anything else is opened as a video.
        out: for one image a file (.jpg, .png) or a folder; for several a folder, in which each
            keeps its name (.png stays .png, the rest becomes .jpg); for a video .mp4 or .mkv.
        json_path: JSON Lines. An image's line holds `image` (the path), `size` (height, width) and
            `detections`: COCO results whose `image_id` counts the images from 0.
        min_score: instances below it are neither drawn nor written.
        on_item: called for every image, also for one that cannot be read.

    Raises:
        UsageError: nothing to read, or an output that would replace an input or a foreign file;
            before the first image.
        DataError: images could not be read; raised when all others are done.
        ResourceError: no permission, no space.
        As `stream`, for a video. Whatever the engine or `on_item` raises.
    """
    if not is_image_source(source):
        report = stream(engine, source, save=out, json_path=json_path, min_score=min_score)
        return PredictReport(ok=report.processed, failed=0, stream=report)
    paths = list_images(source)
    outputs = [None] * len(paths) if out is None else _output_paths(out, paths)
    for output in (*outputs, json_path):
        if output is not None:
            check_output(output, paths)

    category_ids = getattr(engine, "category_ids", None)
    failed = 0
    with ExitStack() as stack:
        lines = None if json_path is None else stack.enter_context(JsonLinesWriter(json_path))
        for index, (path, output) in enumerate(zip(paths, outputs, strict=True)):
            try:
                image = read_image(path)
            except (DataError, UsageError, ResourceError) as error:
                failed += 1
                if on_item is not None:
                    on_item(PredictItem(path, error=error))
                continue
            found = engine.run(image)[0].at_least(min_score)
            if output is not None:
                write_image(output, draw_instances(image, found))
            if lines is not None:
                detections = found.to_coco(index, category_ids)
                size = list(found.image_size)
                lines.write({"image": str(path), "size": size, "detections": detections})
            if on_item is not None:
                on_item(PredictItem(path, instances=found, output=output))
    if failed:
        done = len(paths) - failed
        what = f"{failed} of {len(paths)} images could not be read, {done} are done"
        raise DataError(what, where=source, fix="replace or remove them")
    return PredictReport(ok=len(paths), failed=0)


def _output_paths(out: Path, paths: Sequence[Path]) -> list[Path | None]:
    """Where each image's picture goes; no two go to the same place."""
    if out.suffix.lower() in PICTURE_SUFFIXES and not out.is_dir():
        if len(paths) > 1:
            what = f"{len(paths)} images do not go into one file"
            raise UsageError(what, where=out, fix="name a folder")
        return [out]
    if out.suffix and not out.exists():
        fix = f"use {', '.join(PICTURE_SUFFIXES)}, or name a folder without a dot"
        raise UsageError(f"pictures are not written as {out.suffix!r}", where=out, fix=fix)
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", where=out, fix="choose another name")
    taken: set[str] = set()
    return [out / _free_name(path, taken) for path in paths]


def _free_name(path: Path, taken: set[str]) -> str:
    """A name for `path`'s picture that is not taken; it is taken then.

    Compared without case: some file systems know no difference.
    """
    suffix = ".png" if path.suffix.lower() == ".png" else ".jpg"
    name, number = f"{path.stem}{suffix}", 1
    while name.casefold() in taken:
        number += 1
        name = f"{path.stem}-{number}{suffix}"
    taken.add(name.casefold())
    return name
