"""Lines of text as pictures, put together from pieces that are kept: a new number costs no new letters."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

__all__ = ["Coverage", "cut_text", "font_size", "line", "line_height", "number", "stamp"]

Coverage = NDArray[np.uint8]  # [h, w], 0 where there is no letter to 255 inside one
# Looked for, in this order, when a text needs letters that Pillow's own font lacks.
FONTS = (
    "NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf",
    "Arial.ttf",
)  # fmt: skip


def font_size(image_size: tuple[int, int], share: float, lowest: int, highest: int) -> int:
    """A size for images of this (height, width): `share` of the shorter side, within limits."""
    return min(max(round(min(image_size) * share), lowest), highest)


def line(*pieces: Coverage) -> Coverage:
    """Pieces of one size side by side, with a little room at both ends."""
    room = np.zeros((pieces[0].shape[0], max(1, pieces[0].shape[0] // 6)), dtype=np.uint8)
    return np.concatenate([room, *pieces, room], axis=1)


@lru_cache(maxsize=2048)
def cut_text(text: str, size: int, width: int | None = None) -> Coverage:
    """One line of text; cut with "…" where it is wider than `width`, down to nothing."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    piece = _piece(text, size)
    if width is None or piece.shape[1] <= width:
        return piece
    low, high = 0, len(text)  # of the first `low` letters it is known that they fit
    while low + 1 < high:
        middle = (low + high) // 2
        fits = _piece(text[:middle].rstrip() + "…", size).shape[1] <= width
        low, high = (middle, high) if fits else (low, middle)
    return _piece(text[:low].rstrip() + "…", size) if low else _piece("", size)


@lru_cache(maxsize=2048)
def number(text: str, size: int) -> Coverage:
    """Digits and other ASCII signs, each from a picture that is kept. All digits are equally wide."""
    return np.concatenate([_piece(letter, size) for letter in text or " "], axis=1)


def line_height(size: int) -> int:
    """Pixels from the top of one line to the top of the next; every text of that size is as high."""
    ascent, descent = _extent(size)
    return ascent + descent


def stamp(
    output: NDArray[np.uint8],
    top: int,
    left: int,
    text: Coverage,
    plate: tuple[int, int, int],
    ink: tuple[int, int, int],
) -> None:
    """Write `text` in `ink` on a rectangle of the colour `plate`; it must lie inside `output`."""
    import cv2

    height, width = text.shape
    output[top : top + height, left : left + width] = cv2.applyColorMap(text, _shades(plate, ink))


@lru_cache(maxsize=1024)
def _shades(plate: tuple[int, int, int], ink: tuple[int, int, int]) -> NDArray[np.uint8]:
    """[256, 1, 3]: the colour for each coverage."""
    share = np.arange(256, dtype=np.float32)[:, None, None] / 255.0
    low, high = np.array(plate, dtype=np.float32), np.array(ink, dtype=np.float32)
    return np.rint(low + (high - low) * share).astype(np.uint8)


@lru_cache(maxsize=4096)
def _piece(text: str, size: int) -> Coverage:
    """Text without room at its sides; all pieces of one size are equally high."""
    from PIL import Image, ImageDraw

    font = _font(size, text.replace("…", "").isascii())
    ascent, descent = _extent(size)
    width = int(np.ceil(font.getlength(text)))
    picture = Image.new("L", (max(width, 1), ascent + descent), 0)
    # Letters stand on a line at the same height whatever the font.
    ImageDraw.Draw(picture).text((0, ascent), text, fill=255, font=font, anchor="ls")
    return np.array(picture, dtype=np.uint8)[:, :width]


def _extent(size: int) -> tuple[int, int]:
    """Pixels above and below the line that letters stand on; a little more than most fonts need."""
    room = max(1, size // 10)
    return round(0.88 * size) + room, round(0.24 * size) + room


@lru_cache(maxsize=64)
def _font(size: int, plain: bool) -> FreeTypeFont | ImageFont:
    """Pillow's own font, which has ASCII alone, or one of the system's for other letters."""
    from PIL import ImageFont

    for name in () if plain else FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
