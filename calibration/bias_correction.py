"""Rounding shifts the mean of a convolution's output; its bias can shift it back.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019
(arXiv:1906.04721), section 4.2, with the means measured on images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.calibration.probes import Probe, fake_quantise, probes_of
from solo_edge.calibration.qdq import placement
from solo_edge.calibration.session import tensors_of

__all__ = ["bias_shifts"]


def bias_shifts(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    images: Iterable[NDArray[np.float32]],
    *,
    threads: int | None = None,
) -> dict[str, NDArray[np.float32]]:
    """What INT8 takes away from the mean of each channel of each convolution that becomes INT8.

    Each convolution gets the float network's activations, rounded as the pairs round them.

    Args:
        model: the float32 graph.
        ranges: as for `insert_pairs`.
        images: [1, 3, H, W] each, at least one; a dozen is enough.

    Returns:
        Call, as in `Placement.calls` -> [O], to be added to the bias.
    """
    sites = placement(model).sites
    readers: dict[str, list[Probe]] = {}
    for probe in probes_of(model):
        readers.setdefault(probe.tensor, []).append(probe)
    probes = [probe for group in readers.values() for probe in group]
    sums = {probe.call: np.zeros(len(probe.weight)) for probe in probes}
    images = list(images)
    for tensor, value in tensors_of(model, list(readers), images, threads):
        rounded = fake_quantise(value, ranges[sites[tensor]])
        for probe in readers[tensor]:
            difference = probe.output(value, int8=False, relu=False)
            difference -= probe.output(rounded, int8=True, relu=False)
            sums[probe.call] += difference.mean(axis=(0, 2, 3), dtype=np.float64)
    return {call: (total / len(images)).astype(np.float32) for call, total in sums.items()}
