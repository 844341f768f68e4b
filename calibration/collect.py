"""Runs the exported graph on images and watches the tensors that are to become INT8."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.calibration.histogram import Histogram
from solo_edge.calibration.session import open_session
from solo_edge.errors import ArtifactError

__all__ = ["collect"]


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images: Iterable[NDArray[np.float32]],
    *,
    threads: int | None = None,
) -> dict[str, Histogram]:
    """A histogram of each of `tensors` over all `images`; memory does not grow with their number.

    Args:
        model: the float graph, whose input is `image` [1, 3, H, W].
        images: prepared as for the network.

    Raises:
        ResourceError: ONNX Runtime is not installed.
        ArtifactError: an activation is not finite; the message names it.
    """
    session = open_session(model, threads, watched=tensors)
    histograms = {name: Histogram() for name in tensors}
    for image in images:
        found = session.run(list(tensors), {"image": image})
        for name in reversed(tensors):
            try:
                histograms[name].update(found.pop())  # all of them take hundreds of megabytes
            except ValueError as error:
                raise ArtifactError(f"the activation {name} is not finite ({error})") from error
    return histograms
