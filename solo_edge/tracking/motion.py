"""Where things will be: a Kalman filter of constant velocity, for all tracks at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Motion"]

# Deviations as shares of a thing's size, so that near and far, large and small images need no other
# numbers; found on rendered films (see docs/tracking.md).
_MEASURED = 0.05  # a measured place
_FIRST_SPEED = 1.0  # sizes per second, of what has been seen once
_JOLT = 0.7  # change of speed within a second, in sizes per second
_CALM_S = 1.0  # time after which an unseen thing has lost most of its speed


class Motion:
    """Places and speeds of T things in D independent directions.

    Time is in seconds and may advance in steps of any length, so dropped frames and changing frame
    rates need no special case. Of what is not seen, the speed fades: people stop and turn.

    Args:
        directions: D.
    """

    def __init__(self, directions: int):
        self.place = np.zeros((0, directions))  # [T, D]
        self.speed = np.zeros((0, directions))  # [T, D] per second
        # [T, 3] variances of place and speed and their covariance; the same in all directions,
        # because the noise is.
        self._spread = np.zeros((0, 3))

    def __len__(self) -> int:
        return len(self.place)

    def add(self, place: NDArray[Any], size: NDArray[Any]) -> None:
        """More things, at rest as far as is known. place: [M, D]. size: [M], in the same unit."""
        self.place = np.concatenate([self.place, place])
        self.speed = np.concatenate([self.speed, np.zeros_like(place, dtype=np.float64)])
        spread = np.zeros((len(place), 3))
        spread[:, 0] = (_MEASURED * size) ** 2
        spread[:, 1] = (_FIRST_SPEED * size) ** 2
        self._spread = np.concatenate([self._spread, spread])

    def keep(self, index: NDArray[Any]) -> None:
        """Only the things at `index`, in that order."""
        self.place, self.speed = self.place[index], self.speed[index]
        self._spread = self._spread[index]

    def scale(self, factors: NDArray[Any]) -> None:
        """Another unit in each direction, [D]."""
        self.place = self.place * factors
        self.speed = self.speed * factors
        self._spread = self._spread * np.mean(np.square(factors))

    def advance(self, elapsed_s: float, size: NDArray[Any], seen: NDArray[np.bool_]) -> None:
        """Let time pass. size: [T]. seen: [T], whether it was there in the latest frame."""
        fade = np.where(seen, 1.0, np.exp(-elapsed_s / _CALM_S))
        # The way of a speed that fades by itself: the integral of exp(-t / calm).
        reach = np.where(seen, elapsed_s, _CALM_S * (1.0 - fade))
        self.place = self.place + reach[:, None] * self.speed
        self.speed = fade[:, None] * self.speed
        place, speed, both = self._spread.T
        jolt = np.square(_JOLT * size)
        self._spread = np.stack(
            [
                place + 2 * reach * both + reach**2 * speed + jolt * elapsed_s**3 / 3,
                fade**2 * speed + jolt * elapsed_s,
                fade * (both + reach * speed) + jolt * elapsed_s**2 / 2,
            ],
            axis=1,
        )

    def correct(self, index: NDArray[Any], place: NDArray[Any], size: NDArray[Any]) -> None:
        """Take measured places into account. index: [M]. place: [M, D]. size: [M]."""
        before, speed, both = self._spread[index].T
        total = before + np.square(_MEASURED * size)
        surprise = place - self.place[index]
        self.place[index] += (before / total)[:, None] * surprise
        self.speed[index] += (both / total)[:, None] * surprise
        left = 1.0 - before / total
        self._spread[index] = np.stack(
            [left * before, speed - both**2 / total, left * both], axis=1
        )
