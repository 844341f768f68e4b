"""Timestamps that never go back, whatever a stream says."""

from __future__ import annotations

import math

__all__ = ["FALLBACK_FPS", "MAX_FPS", "Timeline", "plausible_fps"]

FALLBACK_FPS = 25.0  # of video that tells neither times nor a rate
LARGEST_S = 1e11  # thousands of years; more, and what is not finite, is no time
LARGEST_GAP_S = 10.0  # a live stream that leaps further has set its clock
SMALLEST_STEP_S = 1e-3  # between the last frame of a connection and the first of the next
MAX_FPS = 1000.0  # more is a broken header: 90000 is common


class Timeline:
    """Seconds since the first frame of a source.

    Args:
        fps: of frames without a time; None for live ones, which then have the time of their arrival.
    """

    def __init__(self, fps: float | None = None):
        self._fps = fps
        self._last_s: float | None = None  # of the latest frame, as it was told
        self._arrived_s = self._began_s = 0.0  # the latest and the first frame, on our clock
        self._restarted = False
        # A stream time and what it was told as.
        self._anchor: tuple[float, float] | None = None

    def restart(self) -> None:
        """The next frame comes from another connection, whose clock has nothing to do with the last."""
        self._anchor, self._restarted = None, True

    def at(self, stream_s: float | None, arrived_s: float) -> float:
        """The timestamp of the next frame.

        Args:
            stream_s: what the stream says; None if it says nothing.
            arrived_s: on our clock.
        """
        known = stream_s is not None and abs(stream_s) < LARGEST_S
        if self._last_s is None:
            told_s, self._began_s = 0.0, arrived_s
        elif self._restarted:
            # Measured from the beginning, so that many gaps do not add up to an error.
            told_s = max(arrived_s - self._began_s, self._last_s + SMALLEST_STEP_S)
        else:
            since_s = 1.0 / self._fps if self._fps else max(arrived_s - self._arrived_s, 0.0)
            told_s = self._last_s + since_s
            if known and self._anchor is not None:
                assert stream_s is not None
                moved_s = self._anchor[1] + (stream_s - self._anchor[0])
                if self._is_plausible(moved_s - self._last_s, since_s):
                    told_s = moved_s
                else:
                    self._anchor = None
            told_s = max(told_s, self._last_s)
        if not known:
            self._anchor = None
        elif self._anchor is None:
            assert stream_s is not None
            self._anchor = (stream_s, told_s)
        self._last_s, self._arrived_s, self._restarted = told_s, arrived_s, False
        return told_s

    def _is_plausible(self, step_s: float, since_s: float) -> bool:
        if step_s < 0.0:
            return False
        return self._fps is not None or step_s <= since_s + LARGEST_GAP_S


def plausible_fps(rate: object) -> float | None:
    """A declared rate as a number; None if it is missing or nonsense."""
    try:
        fps = float(rate or 0.0)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return fps if math.isfinite(fps) and 0.0 < fps <= MAX_FPS else None
