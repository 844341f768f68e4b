"""Runs the exported graph on images and watches the tensors that are to become INT8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.calibration.histogram import Histogram
from solo_edge.errors import ArtifactError, ResourceError

__all__ = ["collect"]


def collect(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    images: Iterable[NDArray[np.float32]],
    *,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Histogram]:
    """A histogram of each of `tensors` over all `images`; memory does not grow with their number.

    Args:
        model: the float graph, whose input is `image` [1, 3, H, W].
        images: prepared as for the network.
        progress: is called with 1 after each image.

    Raises:
        ResourceError: ONNX Runtime is not installed.
        ArtifactError: an activation is not finite; the message names it.
    """
    session = _session(model, tensors, threads)
    histograms = {name: Histogram() for name in tensors}
    for image in images:
        for name, values in zip(tensors, session.run(list(tensors), {"image": image}), strict=True):
            try:
                histograms[name].update(values)
            except ValueError as error:
                raise ArtifactError(f"the activation {name} is not finite ({error})") from error
        progress(1)
    return histograms


def _session(model: onnx.ModelProto, tensors: Sequence[str], threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        what = "calibration runs the network on ONNX Runtime, which is not installed"
        raise ResourceError(what, fix="pip install onnxruntime") from error
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for name in tensors:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        watched.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        watched.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
