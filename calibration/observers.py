"""Symmetric INT8 ranges of activations and weights: q = clip(round(x / scale)), scale = range / 127.

The entropy method is that of TensorRT's calibrator (S. Migacz, 8-bit Inference with TensorRT, GTC 2017)
with the details of NVIDIA's open calibrator (pytorch-quantization, `_compute_amax_entropy`).
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from solo_edge.calibration.histogram import Histogram, check_finite

__all__ = [
    "LEVELS",
    "ZERO_CHANNEL_SCALE",
    "Histogram",
    "Method",
    "choose_range",
    "quantization_error",
    "weight_scales",
]

Method = Literal["max", "percentile", "entropy", "mse"]

LEVELS = 127  # of each sign; -128 is never used, which keeps the range symmetric

# Any scale maps 0 to 0. This one, the smallest normal float16, also stays positive where scales are
# held in float16 or bfloat16, and neither its reciprocal nor its product with the scale of an
# activation leaves the normal numbers of float32 (a bias may be divided by that product).
ZERO_CHANNEL_SCALE = 2.0**-14

_SMALLEST_NORMAL = 2.0**-126  # of float32

# Counts added to every bin so that the divergence stays finite; see `_divergences`.
_SMOOTHING = 1e-4

# The mse search: thresholds per halving of the range, and halvings; then as many thresholds on either
# side of the best as there are in a halving. The second search matters where the values have a sharp
# end, as after a sigmoid: there a threshold half a step below it is better by 1%.
_MSE_STEPS, _MSE_HALVINGS = 32, 8


def choose_range(
    histogram: Histogram, method: Method, *, percentile: float = 99.99, levels: int = LEVELS
) -> float:
    """The magnitude that maps to `levels`: larger ones are clipped.

    - "max": the largest |x|.
    - "percentile": `percentile` % of the values, exact zeros included, are at or below it; 99.9 to
      99.999 is usual. Within a bin the values count as spread evenly.
    - "entropy": the threshold whose quantised distribution has the least Kullback-Leibler divergence
      from the distribution clipped there; of equal ones the largest.
    - "mse": the threshold with the least `quantization_error`, of 257 from the largest |x| down to 1/256
      of it in equal ratios, then of 65 between the neighbours of the best; of equal ones the largest.

    Returns:
        In (0, maximum]; 0 if all values are 0.

    Raises:
        ValueError: the histogram is empty, the method is unknown, or a parameter is out of range.
    """
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}: choose from {get_args(Method)}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be in (0, 100], not {percentile}")
    _check_levels(levels)
    if not histogram.count:
        raise ValueError("no values were observed")
    if method == "max" or histogram.maximum == 0:
        return histogram.maximum
    # All three work in units of a bin, a power of two: data times 2**k has exactly 2**k the range.
    if method == "percentile":
        threshold = _percentile(histogram, percentile)
    elif method == "entropy":
        threshold = _least_divergence(histogram, levels)
    else:
        threshold = _least_error(histogram, levels)
    return min(threshold * histogram.width, histogram.maximum)


def quantization_error(histogram: Histogram, limit: float, *, levels: int = LEVELS) -> float:
    """The mean of (x - q * scale)**2 for scale = limit / levels, rounding and clipping included.

    Exact zeros have no error; the other values count as spread evenly within their bin, so that the
    result holds to about width**2, also where a step is finer than a bin.

    Args:
        limit: the magnitude that maps to `levels`, positive (any if all values are 0).

    Raises:
        ValueError: the histogram is empty, or a parameter is out of range.
    """
    _check_levels(levels)
    if not histogram.count:
        raise ValueError("no values were observed")
    if histogram.maximum == 0:
        return 0.0
    if not 0 < limit < math.inf:
        raise ValueError(f"limit must be positive and finite, not {limit}")
    width = histogram.width
    # Beyond these, all is clipped to nothing or rounded to 0, and the cubes would leave float64.
    bins = min(max(limit / width, 1e-60), 1e60)
    return _mean_error(_occupied(histogram), bins, levels, histogram.count) * width * width


def weight_scales(weights: NDArray[Any]) -> NDArray[np.float32]:
    """Scales of symmetric INT8 weights, per output channel: max |w| / 127.

    A channel of zeros gets `ZERO_CHANNEL_SCALE`. A scale that would be subnormal is raised to the
    smallest normal float32, since hardware may flush it to 0.

    Args:
        weights: [O, ...] floats, with at least one value per channel.

    Returns:
        [O] float32.

    Raises:
        ValueError: another shape or type, a NaN, an infinity, or values beyond float32.
    """
    if weights.dtype.kind != "f" or weights.ndim < 1 or (len(weights) and not weights[0].size):
        raise ValueError(f"weights must be floats [O, ...], not {weights.dtype} {weights.shape}")
    check_finite(weights, "weights")
    if not weights.size:
        return np.zeros(0, dtype=np.float32)
    flat = weights.reshape(len(weights), -1)
    largest = np.maximum(flat.max(axis=1), -flat.min(axis=1)).astype(np.float64)
    if largest.max() > np.finfo(np.float32).max:
        raise ValueError(f"weights reach {largest.max()}, which float32 cannot hold")
    scales = np.maximum(largest / LEVELS, _SMALLEST_NORMAL)
    return np.where(largest > 0, scales, ZERO_CHANNEL_SCALE).astype(np.float32)


def _check_levels(levels: int) -> None:
    if levels < 1:
        raise ValueError(f"levels must be at least 1, not {levels}")


def _percentile(histogram: Histogram, percentile: float) -> float:
    """In bins."""
    counts = histogram.counts
    until = np.cumsum(counts)
    rank = min(histogram.count * (percentile / 100), float(histogram.count))
    at = int(np.searchsorted(until, rank, side="left"))  # never an empty bin, as rank > 0
    before = float(until[at] - counts[at])
    return at + (rank - before) / float(counts[at])


def _occupied(histogram: Histogram) -> NDArray[np.float64]:
    """Counts of the values that are not 0, [bins up to that of the maximum]."""
    counts = histogram.counts[: int(histogram.maximum / histogram.width) + 1].astype(np.float64)
    counts[0] -= histogram.zeros
    return counts


def _least_error(histogram: Histogram, levels: int) -> float:
    """In bins."""
    counts, largest = _occupied(histogram), histogram.maximum / histogram.width

    def best(halvings: NDArray[np.float64]) -> float:
        limits = largest * np.exp2(-halvings)
        errors = [_mean_error(counts, float(x), levels, histogram.count) for x in limits]
        return float(halvings[int(np.argmin(errors))])

    coarse = best(np.arange(_MSE_STEPS * _MSE_HALVINGS + 1) / _MSE_STEPS)
    around = np.arange(-_MSE_STEPS, _MSE_STEPS + 1) / _MSE_STEPS**2
    fine = best(np.maximum(coarse + around, 0.0))
    return float(largest * np.exp2(-fine))


def _mean_error(counts: NDArray[np.float64], limit: float, levels: int, count: int) -> float:
    """In bins squared, of `counts` [n] and a limit in bins, as a mean over `count` values."""
    # The integral of the squared error from 0 to an edge: s**3 / 12 for each level up to the nearest
    # one, and the cube from there to the edge, which is negative below that level.
    step = limit / levels
    edges = np.arange(len(counts) + 1, dtype=np.float64)
    nearest = np.minimum(np.rint(edges / step), levels)
    integral = nearest * (step**3 / 12) + (edges - nearest * step) ** 3 / 3
    return float(counts @ np.diff(integral)) / count


def _least_divergence(histogram: Histogram, levels: int) -> float:
    """In bins. With no more bins than quantised levels there is nothing to choose: all of them."""
    counts = histogram.counts[: int(histogram.maximum / histogram.width) + 1].astype(np.float64)
    if len(counts) <= levels + 1:
        return float(len(counts))
    # As NVIDIA's: the pile of zeros after a ReLU would be smeared over the first level and drive the
    # threshold down to where a level is a bin, though 0 is exact at every scale.
    counts[0] = counts[1]
    divergences = _divergences(counts, levels + 1)
    largest = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    return float(levels + 1 + largest)


def _divergences(counts: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """KL(reference, candidate) [n - groups + 1] of clipping counts [n] to `groups`, ..., n bins.

    The reference is the counts with what is clipped added to the last bin kept. The candidate has the
    kept counts alone in `groups` levels, each spread evenly over those of its bins that are not empty.
    Both get `_SMOOTHING` per bin: the last bin may be empty but for what was clipped into it.
    """
    n = len(counts)
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    filled = counts > 0
    numbers = np.concatenate([[0], np.cumsum(filled)])
    result = np.empty(n - groups + 1)
    for i, kept in enumerate(range(groups, n + 1)):
        # Bin k belongs to level k * groups // kept: level g starts at ceil(g * kept / groups).
        starts = -(-np.arange(groups + 1) * kept // groups)
        heights = np.diff(sums[starts]) / np.maximum(np.diff(numbers[starts]), 1)
        candidate = np.repeat(heights, np.diff(starts)) * filled[:kept] + _SMOOTHING
        reference = counts[:kept] + _SMOOTHING
        reference[-1] += sums[-1] - sums[kept]
        reference /= reference.sum()
        candidate /= candidate.sum()
        result[i] = reference @ np.log(reference / candidate)
    return result
