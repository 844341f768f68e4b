"""How a stream is doing, on top of its picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw.canvas import canvas
from solo_edge.draw.palette import Color
from solo_edge.draw.panel import Bar, Cell, Row, Sign, draw_panel, wrapped
from solo_edge.draw.text import Coverage, cut_text, font_size, number

__all__ = ["Hud", "draw_hud", "draw_waiting"]

# Each state has a shape and a word besides its colour.
_STATES: dict[str, tuple[Sign, Color]] = {
    "opening": ("ring", (240, 180, 40)),
    "playing": ("triangle", (0, 200, 150)),
    "waiting": ("pause", (240, 180, 40)),
    "ended": ("square", (170, 170, 170)),
}
# Of the stages in their order, to be told apart by every eye; with more than these they begin again.
_STAGES: tuple[Color, ...] = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0),
)  # fmt: skip
_DIMMED = 0.35  # of the brightness of a frame that is not the present one
_MOST_LINES = 3


@dataclass(frozen=True)
class Hud:
    """What `draw_hud` writes. What is None, 0 or empty is left out."""

    source: str = ""  # its name, without credentials
    state: str = "playing"  # opening, playing, waiting or ended
    reason: str = ""  # why it does not play, in a few words
    fps: float | None = None  # of the last frames
    latency_ms: float | None = None  # from capture to screen
    stage_ms: Mapping[str, float] = field(default_factory=dict)  # by stage, in their order
    dropped: int = 0
    instances: int | None = None  # in this picture


def draw_hud(
    image: NDArray[np.uint8], hud: Hud, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`image` with a panel in the upper left corner; it is cut where the image is too small for it.

    Args:
        image: [H, W, 3] uint8 RGB.
        out: where the result goes; may be `image` itself. A new image if not given.
    """
    output = canvas(image, out)
    size = font_size(output.shape[:2], 1 / 45, 12, 30)
    width = min(24 * size, output.shape[1] - 2 * size)
    draw_panel(output, list(_rows(hud, size, width)), size)
    return output


def draw_waiting(
    image: NDArray[np.uint8], text: str, *, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`image` dimmed, with `text` across its middle: the last frame of a source that does not play.

    Args:
        image: [H, W, 3] uint8 RGB.
        text: one line, without credentials; broken where it is too long, into three at most.
        out: where the result goes; may be `image` itself. A new image if not given.
    """
    import cv2

    output = canvas(image, out)
    cv2.convertScaleAbs(output, output, alpha=_DIMMED)
    size = font_size(output.shape[:2], 1 / 24, 12, 52)
    sign, color = _STATES["waiting"]
    lines = _broken(text, size, output.shape[1] - 4 * size)
    rows = [(Cell(line, color, "blank" if i else sign),) for i, line in enumerate(lines)]
    draw_panel(output, rows, size, centred=True)
    return output


def _rows(hud: Hud, size: int, width: int) -> Iterator[Row]:
    sign, color = _STATES.get(hud.state, ("square", (170, 170, 170)))
    state = f"{hud.state}: {hud.reason}" if hud.reason else hud.state
    head = [Cell(cut_text(state, size, width - 2 * size), color, sign)]
    if hud.source:
        head.append(Cell(cut_text(hud.source, size, width)))
    yield from wrapped(head, size, width)
    numbers = list(_numbers(hud, size))
    yield from wrapped(numbers, size, width)
    stages = {name: ms for name, ms in hud.stage_ms.items() if ms > 0}
    if stages:
        colors = [_STAGES[i % len(_STAGES)] for i in range(len(stages))]
        yield Bar(tuple(zip(stages.values(), colors, strict=True)))
        cells = [
            Cell(_value(f"{name} ", f"{ms:.1f}" if ms < 10 else f"{ms:.0f}", "", size), color)
            for (name, ms), color in zip(stages.items(), colors, strict=True)
        ]
        yield from wrapped(cells, size, width)


def _numbers(hud: Hud, size: int) -> Iterator[Cell]:
    if hud.fps is not None:
        yield Cell(_value("", f"{hud.fps:.1f}", " FPS", size))
    if hud.latency_ms is not None:
        yield Cell(_value("", f"{hud.latency_ms:.0f}", " ms", size))
    if hud.instances is not None:
        yield Cell(_value("", str(hud.instances), " found", size))
    if hud.dropped:
        yield Cell(_value("", str(hud.dropped), " dropped", size))


def _value(before: str, value: str, after: str, size: int) -> Coverage:
    pieces = (cut_text(before, size), number(value, size), cut_text(after, size))
    return np.concatenate(pieces, axis=1)


def _broken(text: str, size: int, width: int) -> list[Coverage]:
    """`text` in lines of at most `width` pixels, broken between words; the last one is cut with "…"."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        full = len(lines) == _MOST_LINES
        if lines and not full and cut_text(longer, size).shape[1] > width:
            lines.append(word)
        else:
            lines[-1:] = [longer]
    return [cut_text(line, size, width) for line in lines or [""]]
