"""A streaming histogram of magnitudes: one pass, bounded memory, the same in any order.

The upper end of the histogram is the smallest power of two above the largest magnitude so far and the
number of bins is a power of two, hence so is the width of a bin. Scaling a float by a power of two is
exact, and floor(floor(m / w) / 2) = floor(m / 2w): doubling the range by adding neighbouring bins
gives the very counts that one pass with the final width gives, whatever the batches were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "check_finite"]

# Of math.frexp. Activations are float32 or narrower: below lie its subnormals, above its infinity.
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -148, 128

_MOST_BINS = 1 << 24  # so that a damaged file cannot ask for all the memory

_CHUNK = 1 << 16  # values binned at a time: the temporaries stay in the cache

_FIELDS = {"bins", "exponent", "count", "zeros", "maximum", "negative", "counts"}


class Histogram:
    """Counts of |x|: bin k holds the magnitudes in [k * width, (k + 1) * width).

    Between half and all of the bins lie at or below the largest magnitude, so that the resolution is
    1 / bins to 2 / bins of it. One wild outlier thus costs resolution for all the rest.

    Args:
        bins: a power of two from 2 to 2**24.

    Raises:
        ValueError: `bins` is something else.
    """

    def __init__(self, bins: int = 2048) -> None:
        if not 2 <= bins <= _MOST_BINS or bins & (bins - 1):
            raise ValueError(f"bins must be a power of two from 2 to {_MOST_BINS}, not {bins}")
        self._counts = np.zeros(bins, dtype=np.int64)
        self._exponent = _LOWEST_EXPONENT
        self._count = 0
        self._zeros = 0
        self._maximum = 0.0
        self._negative = False

    @property
    def bins(self) -> int:
        """The number of bins."""
        return len(self._counts)

    @property
    def counts(self) -> NDArray[np.int64]:
        """[bins], a copy; exact zeros are in bin 0."""
        return self._counts.copy()

    @property
    def count(self) -> int:
        """Values seen."""
        return self._count

    @property
    def zeros(self) -> int:
        """Values seen that are exactly 0."""
        return self._zeros

    @property
    def maximum(self) -> float:
        """The exact largest |x|; 0 before any."""
        return self._maximum

    @property
    def negative(self) -> bool:
        """Whether a value below 0 was seen (-0.0 is none)."""
        return self._negative

    @property
    def width(self) -> float:
        """Of a bin, in the unit of the values; a power of two."""
        return math.ldexp(1.0, self._exponent) / self.bins

    @property
    def upper(self) -> float:
        """The end of the last bin: the smallest power of two above `maximum`."""
        return math.ldexp(1.0, self._exponent)

    def update(self, array: NDArray[Any]) -> None:
        """Count the values of an array of any shape, float or integer; it may be empty.

        Raises:
            TypeError: the array holds neither floats nor integers.
            ValueError: a NaN, an infinity or a magnitude that float32 cannot hold; nothing is counted.
        """
        values = np.ravel(array, order="K")  # as they lie in memory: no copy of a transposed array
        if values.dtype.kind not in "fiu":
            raise TypeError(f"activations must be floats or integers, not {values.dtype}")
        if not values.size:
            return
        check_finite(values, "activations")
        low, high = float(values.min()), float(values.max())
        maximum = max(-low, high)
        if maximum >= math.ldexp(1.0, _HIGHEST_EXPONENT):
            raise ValueError(f"activations reach {maximum}, which float32 cannot hold")
        self._widen(_exponent_above(maximum))
        per_width = 1.0 / self.width
        zeros = 0
        for start in range(0, values.size, _CHUNK):
            magnitudes = values[start : start + _CHUNK].astype(np.float64)
            np.abs(magnitudes, out=magnitudes)
            zeros += magnitudes.size - int(np.count_nonzero(magnitudes))
            magnitudes *= per_width
            self._counts += np.bincount(magnitudes.astype(np.intp), minlength=self.bins)
        self._count += values.size
        self._zeros += zeros
        self._maximum = max(self._maximum, maximum)
        self._negative |= low < 0

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram, as if its values had been seen here.

        Raises:
            ValueError: it has another number of bins.
        """
        if other.bins != self.bins:
            raise ValueError(f"a histogram of {other.bins} bins cannot join one of {self.bins}")
        self._widen(other._exponent)
        self._counts += _folded(other._counts, self._exponent - other._exponent)
        self._count += other._count
        self._zeros += other._zeros
        self._maximum = max(self._maximum, other._maximum)
        self._negative |= other._negative

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers for JSON; empty bins at the end are left out."""
        occupied = int(self._counts.nonzero()[0].max(initial=-1)) + 1
        return {
            "bins": self.bins,
            "exponent": self._exponent,
            "count": self._count,
            "zeros": self._zeros,
            "maximum": self._maximum,
            "negative": self._negative,
            "counts": self._counts[:occupied].tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Histogram:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is missing, unknown, of another type, or contradicts another one.
        """
        if set(state) != _FIELDS:
            raise ValueError(f"a histogram has the fields {sorted(_FIELDS)}, not {sorted(state)}")
        numbers = [state[name] for name in ("bins", "exponent", "count", "zeros")]
        counts, maximum, negative = state["counts"], state["maximum"], state["negative"]
        if (
            not isinstance(counts, list)
            or any(type(number) is not int for number in [*numbers, *counts])
            or type(maximum) not in (int, float)
            or type(negative) is not bool
        ):
            raise ValueError("a field of the histogram has the wrong type")
        bins, exponent, count, zeros = numbers
        result = cls(bins)
        if (
            not 0 <= maximum < math.ldexp(1.0, _HIGHEST_EXPONENT)
            or exponent != _exponent_above(maximum)
            or len(counts) > bins
            or min(counts, default=0) < 0
            or sum(counts) != count
            or not 0 <= count < 2**63
            or not 0 <= zeros <= (counts[0] if counts else 0)
            or (zeros == count) != (maximum == 0)
            or (negative and maximum == 0)
        ):
            raise ValueError("the fields of the histogram contradict each other")
        result._counts[: len(counts)] = counts
        result._exponent, result._count, result._zeros = exponent, count, zeros
        result._maximum, result._negative = float(maximum), negative
        last = int(result._counts.nonzero()[0].max(initial=0))
        if last != int(maximum / result.width):
            raise ValueError("the fields of the histogram contradict each other")
        return result

    def _widen(self, exponent: int) -> None:
        """Let the range reach at least 2**exponent."""
        if exponent > self._exponent:
            self._counts = _folded(self._counts, exponent - self._exponent)
            self._exponent = exponent


def check_finite(values: NDArray[Any], name: str) -> None:
    """Refuse a NaN or an infinity.

    Raises:
        ValueError: says which, and how many.
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    nans, infinities = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    found = [f"{nans} NaN"] * (nans > 0) + [f"{infinities} infinite"] * (infinities > 0)
    raise ValueError(f"{name} hold {' and '.join(found)} of {values.size} values")


def _exponent_above(magnitude: float) -> int:
    """The smallest allowed e with magnitude < 2**e."""
    return max(math.frexp(magnitude)[1], _LOWEST_EXPONENT) if magnitude else _LOWEST_EXPONENT


def _folded(counts: NDArray[np.int64], doublings: int) -> NDArray[np.int64]:
    """The counts [bins] after the range was doubled so many times; for 0 doublings the same."""
    if not doublings:
        return counts
    # More doublings than bins have bits still leave everything in bin 0.
    group = 1 << min(doublings, len(counts).bit_length() - 1)
    result = np.zeros_like(counts)
    result[: len(counts) // group] = counts.reshape(-1, group).sum(axis=1)
    return result
