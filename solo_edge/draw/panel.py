"""A dark pane with lines of text, signs and a bar: what status displays are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw.palette import Color
from solo_edge.draw.text import Coverage, line_height

__all__ = ["Bar", "Cell", "Row", "Sign", "draw_panel", "wrapped"]

Sign = Literal["triangle", "pause", "ring", "square", "blank"]
_DARKENED = 0.2  # of the brightness of what is behind the pane


class Cell(NamedTuple):
    """A text, with a coloured sign before it if it has a colour."""

    text: Coverage
    color: Color | None = None
    sign: Sign = "square"

    def width(self, size: int) -> int:
        """Pixels with a text of this font size."""
        return int(self.text.shape[1]) + (0 if self.color is None else _sign_room(size))


class Bar(NamedTuple):
    """Coloured parts as wide as the pane, each in proportion to its length."""

    parts: tuple[tuple[float, Color], ...]


Row = tuple[Cell, ...] | Bar


def draw_panel(
    output: NDArray[np.uint8], rows: Sequence[Row], size: int, *, centred: bool = False
) -> None:
    """Draw the rows of text of this font size in the upper left corner, or in the middle, in place.

    What does not fit into the image is cut off.
    """
    import cv2

    padding = size // 2
    heights = [_row_height(row, size) for row in rows]
    height = sum(heights) + 2 * padding
    width = max(_row_width(row, size) for row in rows) + 2 * padding
    top = max(output.shape[0] - height, 0) // 2 if centred else min(padding, output.shape[0])
    left = max(output.shape[1] - width, 0) // 2 if centred else min(padding, output.shape[1])
    pane = output[top : top + height, left : left + width]
    if pane.size == 0:
        return
    letters = np.zeros((height, width), dtype=np.uint8)
    cv2.convertScaleAbs(pane, pane, alpha=_DARKENED)
    y = padding
    for row, row_height in zip(rows, heights, strict=True):
        if isinstance(row, Bar):
            across = slice(y + size // 3, y + size // 3 + _bar_height(size))
            _draw_bar(pane[across, padding : width - padding], row)
        else:
            x = padding
            for cell in row:
                if cell.color is not None:
                    _draw_sign(pane, cell.sign, cell.color, (x, y), size)
                    x += _sign_room(size)
                letters[y : y + row_height, x : x + cell.text.shape[1]] = cell.text
                x += cell.text.shape[1] + _gap(size)
        y += row_height
    # On dark ground the brighter of the two is as good as blending white letters in.
    shown = cv2.cvtColor(letters[: pane.shape[0], : pane.shape[1]], cv2.COLOR_GRAY2RGB)
    cv2.max(pane, shown, pane)


def wrapped(cells: Sequence[Cell], size: int, width: int) -> Iterator[tuple[Cell, ...]]:
    """Rows of at most `width` pixels, in order; a cell that is wider has a row of its own."""
    row: list[Cell] = []
    for cell in cells:
        if row and _row_width((*row, cell), size) > width:
            yield tuple(row)
            row = []
        row.append(cell)
    if row:
        yield tuple(row)


def _row_width(row: Row, size: int) -> int:
    if isinstance(row, Bar):
        return 0  # as wide as the others make the pane
    return sum(cell.width(size) for cell in row) + _gap(size) * (len(row) - 1)


def _row_height(row: Row, size: int) -> int:
    return _bar_height(size) + 2 * (size // 3) if isinstance(row, Bar) else line_height(size)


def _gap(size: int) -> int:
    return round(0.8 * size)


def _sign_room(size: int) -> int:
    return round(1.2 * size)


def _bar_height(size: int) -> int:
    return max(size // 3, 3)


def _draw_bar(area: NDArray[np.uint8], bar: Bar) -> None:
    total = sum(length for length, _ in bar.parts)
    width, reached = area.shape[1], 0.0
    for length, color in bar.parts:
        start = round(width * reached / total)
        reached += length
        # A dark pixel between two parts keeps them apart for every eye.
        area[:, start : max(round(width * reached / total) - 1, start)] = color


def _draw_sign(
    pane: NDArray[np.uint8], sign: Sign, color: Color, corner: tuple[int, int], size: int
) -> None:
    """A sign about as high as a capital letter, at the left end of a line whose upper left is `corner`."""
    import cv2

    side = max(round(0.7 * size), 4)
    x, y = corner[0], corner[1] + (line_height(size) - side) // 2
    if sign == "triangle":
        points = np.array([(x, y), (x + side, y + side // 2), (x, y + side)], dtype=np.int32)
        cv2.fillPoly(pane, [points], color, cv2.LINE_AA)
    elif sign == "ring":
        centre, stroke = (x + side // 2, y + side // 2), max(side // 5, 1)
        cv2.circle(pane, centre, (side - stroke) // 2, color, stroke, cv2.LINE_AA)
    elif sign == "pause":
        third = max(side // 3, 1)
        for start in (x, x + side - third):
            cv2.rectangle(pane, (start, y), (start + third - 1, y + side), color, cv2.FILLED)
    elif sign == "square":
        cv2.rectangle(pane, (x, y), (x + side - 1, y + side - 1), color, cv2.FILLED)
