"""The window of `--show`: the newest picture of each source, in the thread that made it."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solo_edge.draw import Hud, draw_hud, draw_waiting
from solo_edge.errors import ResourceError
from solo_edge.video.result import ProcessedFrame, Sink, StreamStatus
from solo_edge.video.sink import letterbox, write_image
from solo_edge.video.states import SourceState, StateChange

__all__ = ["Window", "check_display"]

TITLE = "solo-edge"
KEYS = "q or Esc ends, space holds the picture, s saves it"
GRID_SIZE = (1080, 1920)  # (height, width) that several sources share
QUIT_KEYS = (ord("q"), 27)

Picture = NDArray[np.uint8]  # [H, W, 3] RGB


class Window(Sink):
    """Several sources share the window as a grid. Call `refresh` often, also while no frame comes.

    Args:
        sources: their names.
        snapshots: the folder for pictures saved with the key "s".

    Raises:
        ResourceError: no window can be opened here.
    """

    name = "show"

    def __init__(self, sources: Sequence[str], snapshots: Path):
        check_display()
        self.left = False  # somebody closed it
        self.saved: Path | None = None  # the latest snapshot
        self._snapshots = snapshots
        self._pictures: list[Picture | None] = [None] * len(sources)
        self._huds = [Hud(source=name, state=SourceState.OPENING.value) for name in sources]
        self._reasons = [""] * len(sources)
        self._held = self._changed = self._is_open = False
        self._canvas: Picture | None = None

    @property
    def wants_overlay(self) -> bool:
        return not self._held

    def write(self, result: ProcessedFrame) -> None:
        if result.overlay is not None and not self._held:
            self._pictures[result.source_index] = result.overlay
            self._changed = True

    def source_changed(self, source_index: int, change: StateChange) -> None:
        waits = change.state in (SourceState.WAITING, SourceState.ENDED)
        self._reasons[source_index] = change.message if waits else ""
        self._changed = True

    def status(self, statuses: tuple[StreamStatus, ...]) -> None:
        self._huds = [
            Hud(
                source=status.source,
                state=status.state,
                fps=status.fps,
                latency_ms=status.latency_ms,
                stage_ms=status.stage_ms,
                dropped=status.dropped,
                instances=status.instances,
            )
            for status in statuses
        ]
        self._changed = True

    def refresh(self) -> None:
        """Show what has come, and do what the keys say."""
        import cv2

        if self._changed and not self._held and any(p is not None for p in self._pictures):
            self._canvas, self._changed = self._grid(), False
            if not self._is_open:
                cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                self._is_open = True
            cv2.imshow(TITLE, cv2.cvtColor(self._canvas, cv2.COLOR_RGB2BGR))
        if not self._is_open:
            return
        key = cv2.waitKey(1) & 0xFF
        if key in QUIT_KEYS or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self.left = True
        elif key == ord(" "):
            self._held = not self._held
        elif key == ord("s") and self._canvas is not None:
            self.saved = _free_name(self._snapshots)
            write_image(self.saved, self._canvas)

    def close(self) -> None:
        if self._is_open:
            import cv2

            cv2.destroyWindow(TITLE)
            self._is_open = False

    def _grid(self) -> Picture:
        """All pictures with their status."""
        if len(self._pictures) == 1:
            picture = self._pictures[0]
            assert picture is not None
            return self._with_status(0, picture)
        columns = math.ceil(math.sqrt(len(self._pictures)))
        rows = math.ceil(len(self._pictures) / columns)
        height, width = GRID_SIZE[0] // rows, GRID_SIZE[1] // columns
        grid = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
        for index, picture in enumerate(self._pictures):
            if picture is None:
                picture = np.zeros((height, width, 3), dtype=np.uint8)
            top, left = index // columns * height, index % columns * width
            cell = self._with_status(index, letterbox(picture, (height, width)))
            grid[top : top + height, left : left + width] = cell
        return grid

    def _with_status(self, index: int, picture: Picture) -> Picture:
        if self._reasons[index]:
            picture = draw_waiting(picture, self._reasons[index])
        return draw_hud(picture, self._huds[index])


def check_display() -> None:
    """Raise ResourceError unless this OpenCV can open a window here."""
    import cv2

    lines = [line.split() for line in cv2.getBuildInformation().splitlines()]
    toolkit = next(
        (words[1] for words in lines if words[:1] == ["GUI:"] and len(words) > 1), "NONE"
    )
    if toolkit == "NONE":
        what = "this OpenCV was built without windows"
        fix = (
            "use --serve to watch in a browser, or replace opencv-python-headless by opencv-python"
        )
        raise ResourceError(what, where="--show", fix=fix)
    on_linux = sys.platform == "linux"
    if on_linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        fix = "use --serve to watch in a browser, or set DISPLAY"
        raise ResourceError("there is no screen here", where="--show", fix=fix)


def _free_name(folder: Path) -> Path:
    """A name for a snapshot that nothing has yet."""
    stem = time.strftime("snapshot-%Y%m%d-%H%M%S")
    names = (f"{stem}{f'-{number}' if number else ''}.png" for number in range(1_000_000))
    return next(path for name in names if not (path := folder / name).exists())
