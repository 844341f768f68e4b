"""When a run saves its state within an epoch."""

from __future__ import annotations

import time

__all__ = ["SaveTimer"]


class SaveTimer:
    """Says when it is time again.

    Args:
        every: steps ("500") or minutes ("10m"); "0" for never.
    """

    def __init__(self, every: str):
        self._steps = self._seconds = 0.0
        if every.endswith("m"):
            self._seconds = 60.0 * float(every.removesuffix("m"))
        else:
            self._steps = int(every)
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` steps."""
        if self._steps:
            return step % self._steps == 0
        now = time.monotonic()
        if not self._seconds or now - self._last < self._seconds:
            return False
        self._last = now
        return True
