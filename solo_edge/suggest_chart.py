"""Why a configuration was suggested, as a picture or a page with the picture in it."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from solo_edge.config import PRESETS
from solo_edge.errors import UsageError
from solo_edge.files import atomic_file
from solo_edge.suggest import GRID_HEADER, INPUT_HEADER, Suggestion

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

__all__ = ["check_suffix", "draw_chart", "draw_report"]

SUFFIXES = (".png", ".html")
WIDTH = 1280
LEFT, RIGHT = 190, 60  # margins of all panels, pixels
SIZES_TOP, BARS_TOP, BAR, GAP = 80, 700, 36, 70
BLUE, ORANGE, GRAY, LIGHT, BLACK = "#0072b2", "#e69f00", "#999999", "#dddddd", "#222222"
BINS_PER_DOUBLING = 4

Rows = Sequence[tuple[str, float, float]]  # name, first part and second part of a bar, shares


def check_suffix(file: Path) -> None:
    """
    Raises:
        UsageError: the name says neither PNG nor HTML.
    """
    if file.suffix.lower() not in SUFFIXES:
        fix = f"choose a name that ends in {' or '.join(SUFFIXES)}"
        raise UsageError(f"no kind of report for {file.suffix!r}", where=file, fix=fix)


def draw_report(found: Suggestion, file: Path, command: str) -> None:
    """Write the picture, or a page of its own with the picture and the tables.

    Raises:
        UsageError: the name says neither PNG nor HTML.
        ResourceError: it cannot be written.
    """
    check_suffix(file)
    buffer = io.BytesIO()
    draw_chart(found).save(buffer, "PNG")
    content = buffer.getvalue()
    if file.suffix.lower() == ".html":
        content = _page(found, content, command).encode("utf-8")
    with atomic_file(file) as temporary:
        temporary.write_bytes(content)


def draw_chart(found: Suggestion) -> Image:
    """Three panels: sizes with the scale ranges below them, lost objects by grid, shapes by input."""
    from PIL import Image, ImageDraw

    grids = [
        (
            " ".join(map(str, option.grid_sizes)) + " *" * option.is_preset,
            option.figures.outside,
            option.figures.crowded,
        )
        for option in found.compared()
    ]
    inputs = [(f"{o.input_size[0]} x {o.input_size[1]}", 0.0, o.kept) for o in found.inputs]
    inputs_top = BARS_TOP + BAR * len(grids) + GAP
    image = Image.new("RGB", (WIDTH, inputs_top + BAR * len(inputs) + GAP), "white")
    draw = ImageDraw.Draw(image)
    title = f"{found.data}: {found.instances} objects in {found.images} images"
    draw.text((LEFT, 20), title, BLACK, _font(26))
    size = f"{found.config.input_size[0]} x {found.config.input_size[1]}"
    heading = f"square roots of box areas at {size} pixels, and the scale ranges"
    _draw_sizes(draw, found, SIZES_TOP, heading)
    heading = "objects lost (* the preset): in no range or too small (orange), crowded out (blue)"
    _draw_bars(draw, BARS_TOP, heading, grids)
    heading = "objects whose masks keep their shape at a quarter of the input (height x width)"
    _draw_bars(draw, inputs_top, heading, inputs)
    return image


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _draw_sizes(draw: ImageDraw, found: Suggestion, top: int, heading: str) -> None:
    """A histogram over doublings of size, the preset's ranges below it in gray, the chosen in blue."""
    draw.text((LEFT, top), heading, BLACK, _font(20))
    bottom, height = top + 300, 250
    last = max(float(found.sizes.max()), found.config.scale_ranges[-1][0] * 2)
    doublings = math.ceil(math.log2(last))
    scale = (WIDTH - LEFT - RIGHT) / doublings

    def x(size: float) -> float:
        return LEFT + scale * min(math.log2(max(size, 1.0)), doublings)

    edges = 2.0 ** (np.arange(doublings * BINS_PER_DOUBLING + 1) / BINS_PER_DOUBLING)
    counts, _ = np.histogram(np.clip(found.sizes, 1.0, edges[-1]), bins=edges)
    for count, low, high in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        above = bottom - height * count / max(int(counts.max()), 1)
        draw.rectangle((x(low) + 1, above, x(high) - 1, bottom), fill=GRAY)
    draw.text((20, bottom - height), f"{int(counts.max())}", BLACK, _font(18))
    draw.text((20, bottom - 22), "objects", BLACK, _font(18))
    for power in range(doublings + 1):
        draw.line((x(2**power), bottom, x(2**power), bottom + 6), BLACK)
        draw.text((x(2**power), bottom + 10), str(2**power), BLACK, _font(18), anchor="ma")
    own = PRESETS[found.config.name]
    rows = zip(own.scale_ranges, found.config.scale_ranges, found.config.grid_sizes, strict=True)
    for place, (before, now, grid) in enumerate(rows):
        y = bottom + 50 + 42 * place
        draw.text((20, y - 4), f"grid {grid}", BLACK, _font(20))
        for part, (low, high), colour in ((0, before, LIGHT), (14, now, BLUE)):
            draw.rectangle(
                (x(low), y + part - 4, max(x(high), x(low) + 2), y + part + 6), fill=colour
            )
    draw.text(
        (LEFT, bottom + 260), "gray: the preset's ranges; blue: the suggested ones", GRAY, _font(18)
    )


def _draw_bars(draw: ImageDraw, top: int, heading: str, rows: Rows) -> None:
    draw.text((LEFT, top), heading, BLACK, _font(20))
    longest = max(max(first + second for _, first, second in rows), 0.01)
    scale = (WIDTH - LEFT - RIGHT - 80) / longest
    for place, (name, first, second) in enumerate(rows):
        y = top + 34 + BAR * place
        draw.text((20, y + 3), name, BLACK, _font(18))
        middle, end = LEFT + scale * first, LEFT + scale * (first + second)
        draw.rectangle((LEFT, y, middle, y + 26), fill=ORANGE if first else None)
        draw.rectangle((middle, y, end, y + 26), fill=BLUE if second else None)
        draw.text((end + 8, y + 3), f"{100 * (first + second):.1f}%", BLACK, _font(18))


def _page(found: Suggestion, picture: bytes, command: str) -> str:
    encoded = base64.b64encode(picture).decode("ascii")
    reasons = "".join(f"<li>{html.escape(line)}</li>" for line in found.reasons)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>solo-edge suggest: {html.escape(found.data)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 2em auto; padding: 0 1em }}
pre {{ background: #eee; padding: 1em; white-space: pre-wrap }} img {{ max-width: 100% }}
table {{ border-collapse: collapse; margin: 1em 0 }} td, th {{ padding: .2em .8em; text-align: right }}
td:first-child, th:first-child {{ text-align: left }} tr {{ border-bottom: 1px solid #ddd }}
</style></head><body>
<h1>{html.escape(found.data)}</h1>
<pre>{html.escape(command)}</pre>
<ul>{reasons}</ul>
<img alt="sizes of the objects and what is lost" src="data:image/png;base64,{encoded}">
{_table(INPUT_HEADER, found.input_rows())}
{_table(GRID_HEADER, found.grid_rows(all_options=True))}
</body></html>
"""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line('th', header)}{''.join(line('td', row) for row in rows)}</table>"
