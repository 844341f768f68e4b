"""Checks of the image files of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.annotations import ImageRecord
from solo_edge.data.defects import Defects
from solo_edge.data.fingerprint import fingerprint, thumbnail
from solo_edge.data.labelme import embedded_image
from solo_edge.data.source import images_under, is_file
from solo_edge.errors import SoloEdgeError
from solo_edge.images import ImageHeader, TooLargeError, read_header, read_image

__all__ = ["ImageFacts", "Level", "Look", "check_files"]

Level = Literal["decode", "headers", "none"]


@dataclass(frozen=True, eq=False)
class Look:
    """What a picture looks like, see `solo_edge.data.fingerprint`."""

    fingerprint: int
    thumbnail: NDArray[np.float32]


@dataclass(frozen=True)
class ImageFacts:
    """What is known of the file of one image."""

    path: Path
    is_embedded: bool = False  # inside the LabelMe file `path`
    look: Look | None = None  # if it was decoded
    is_stored_turned: bool = False  # annotated without its EXIF orientation


def check_files(
    records: Sequence[ImageRecord],
    folder: Path,
    embedded: Mapping[str, Path],
    level: Level,
    defects: Defects,
    tick: Callable[[], None],
) -> dict[int, ImageFacts]:
    """Image id -> what its file is; images that cannot be used are not in it.

    Args:
        folder: where the file names are.
        level: "decode" reads the pixels, "headers" what the files say of themselves, "none" looks
            whether they are there.
        tick: called after each image.
    """
    other_case = _OtherCase(folder)
    found = {}
    for record in records:
        path = folder / record.file_name
        if is_file(path):
            facts = _facts(record, path, record.file_name in embedded, level, defects)
            if facts is not None:
                found[record.id] = facts
        elif (other := other_case.find(record.file_name)) is not None:
            what = f"{record.file_name!r:.200} is there as {other!r:.200}"
            defects.note("file-name-case", "image", record.id, what)
            facts = _facts(record, folder / other, False, level, defects)
            if facts is not None:
                found[record.id] = facts
        else:
            what = f"{record.file_name!r:.200} is not in {folder}"
            defects.note("image-missing", "image", record.id, what)
        tick()
    return found


def _is_turned(header: ImageHeader, annotated: tuple[int, int]) -> bool:
    """Whether the annotated size (height, width) is that of the pixels before EXIF turns them."""
    return header.orientation >= 5 and annotated == header.size[::-1] != header.size


class _OtherCase:
    """The files of a folder by their names in lower case; listed when the first one is missed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: dict[str, str] | None = None

    def find(self, name: str) -> str | None:
        if self._names is None:
            files = (file.relative_to(self.folder).as_posix() for file in images_under(self.folder))
            self._names = {name.casefold(): name for name in files}
        return self._names.get(name.replace("\\", "/").casefold())


def _facts(
    record: ImageRecord, path: Path, is_embedded: bool, level: Level, defects: Defects
) -> ImageFacts | None:
    """Look at one file; None if it cannot be used."""
    if level == "none":
        return ImageFacts(path, is_embedded)
    annotated = (record.height, record.width)
    image: NDArray[np.uint8] | None = None
    try:
        if is_embedded:
            image = embedded_image(path)
            header = ImageHeader((image.shape[0], image.shape[1]), 1, "RGB", "")
        else:
            header = read_header(path)
            image = read_image(path) if level == "decode" else None
    except SoloEdgeError as error:
        code = "image-too-large" if isinstance(error, TooLargeError) else "image-unreadable"
        defects.note(code, "image", record.id, f"{path.name}: {error.what}")
        return None
    turned = _is_turned(header, annotated)
    for code, what in _complaints(record, header, turned, path):
        defects.note(code, "image", record.id, what)
    if annotated != header.size and not turned:
        return None
    look = None
    if image is not None and level == "decode":
        look = Look(fingerprint(image), thumbnail(image))
    return ImageFacts(path, is_embedded, look, turned)


def _complaints(
    record: ImageRecord, header: ImageHeader, turned: bool, path: Path
) -> Iterator[tuple[str, str]]:
    """(code, what) of everything that the header and the annotated size disagree about."""
    (height, width), orientation = header.size, header.orientation
    if turned:
        what = (
            f"annotated as {record.width} x {record.height}, but {path.name} is shown as {width} x"
            f" {height} (EXIF orientation {orientation})"
        )
        yield "exif-size-differs", what
    elif (record.height, record.width) != header.size:
        sizes = f"{record.width} x {record.height} pixels but {path.name} has {width} x {height}"
        yield "image-size-differs", f"annotated as {sizes}"
    elif orientation in (2, 3, 4) or (orientation >= 5 and height == width):
        yield "exif-ambiguous", f"{path.name} has EXIF orientation {orientation}"
    if header.mode != "RGB":
        yield "image-mode", f"{path.name} is {header.mode} ({header.format})"
