"""The method "auto": for each tensor, the range that disturbs the layers behind it least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.calibration.histogram import Histogram
from solo_edge.calibration.observers import choose_range
from solo_edge.calibration.probes import Probe, fake_quantise, probes_of
from solo_edge.calibration.qdq import placement
from solo_edge.calibration.session import tensors_of

__all__ = ["CANDIDATES", "candidates", "choose_by_output"]

Array = NDArray[np.float32]

# Method and percentile. The percentiles span what is usual, from a hard cut to almost none.
CANDIDATES: tuple[tuple[str, float], ...] = (
    ("max", 100.0),
    ("percentile", 99.999),
    ("percentile", 99.99),
    ("percentile", 99.9),
    ("entropy", 100.0),
    ("mse", 100.0),
)
TINY = float(np.finfo(np.float32).tiny)


def candidates(histogram: Histogram) -> dict[str, float]:
    """The range that each of CANDIDATES gives, by its name; equal ranges once."""
    found: dict[str, float] = {}
    for method, percentile in CANDIDATES:
        limit = choose_range(histogram, method, percentile=percentile)  # type: ignore[arg-type]
        name = f"{method} {percentile:g}" if method == "percentile" else method
        if limit > 0 and limit not in found.values():
            found[name] = limit
    return found


def choose_by_output(
    model: onnx.ModelProto,
    histograms: Mapping[str, Histogram],
    images: Iterable[Array],
    *,
    threads: int | None = None,
) -> dict[str, str]:
    """For each tensor, which of `candidates` gives the convolutions that read it the least error.

    The error is that of the convolution's output (behind its ReLU, if only that reads it) with both
    activation and weight in INT8, relative to the output's power; a tensor that is added to another
    counts with its own error. Tensors that are always 0 are left out.

    Args:
        model: the float graph.
        histograms: of its tensors with a pair.
        images: [1, 3, H, W] each; a dozen is enough.

    Returns:
        Tensor -> name of the candidate; of equal ones the first in CANDIDATES.
    """
    options = {name: candidates(histogram) for name, histogram in histograms.items()}
    options = {name: found for name, found in options.items() if found}
    readers: dict[str, list[Probe]] = {name: [] for name in options}
    for probe in probes_of(model):
        if probe.tensor in readers:
            readers[probe.tensor].append(probe)
    added = set(placement(model).skips.values())
    errors = {name: dict.fromkeys(found, 0.0) for name, found in options.items()}
    for tensor, value in tensors_of(model, list(options), list(images), threads):
        found = _errors(value, readers[tensor], tensor in added, options[tensor])
        for name, error in found.items():
            errors[tensor][name] += error
    return {tensor: min(found, key=found.__getitem__) for tensor, found in errors.items()}


def _errors(
    value: Array, readers: Sequence[Probe], is_added: bool, limits: Mapping[str, float]
) -> dict[str, float]:
    """Candidate -> relative squared errors of all that reads the tensor, together."""
    wanted = [probe.output(value, int8=False, relu=True) for probe in readers]
    errors = {}
    for name, limit in limits.items():
        rounded = fake_quantise(value, limit)
        errors[name] = _relative_error(rounded, value) if is_added else 0.0
        for probe, exact in zip(readers, wanted, strict=True):
            errors[name] += _relative_error(probe.output(rounded, int8=True, relu=True), exact)
    return errors


def _relative_error(found: Array, wanted: Array) -> float:
    difference = (found - wanted).reshape(-1)
    flat = wanted.reshape(-1)
    return float(difference @ difference) / max(float(flat @ flat), TINY)
