"""ONNX Runtime, which runs the graphs that calibration looks at."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from solo_edge.errors import ResourceError

__all__ = ["open_session", "tensors_of"]


def open_session(
    model: onnx.ModelProto, threads: int | None = None, *, watched: Collection[str] = ()
) -> Any:
    """An `onnxruntime.InferenceSession` of `model` on the CPU.

    Args:
        threads: None is one for each core.
        watched: tensors to have as the outputs instead of the graph's own.

    Raises:
        ResourceError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        what = "calibration runs the network on ONNX Runtime, which is not installed"
        raise ResourceError(what, fix="pip install onnxruntime") from error
    if watched:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        model = copy
        del model.graph.output[:]
        for name in watched:
            value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            model.graph.output.append(value)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # One block for all that is alive at once takes a third more memory here and is no faster.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False  # nor keep what a run has given back
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def tensors_of(
    model: onnx.ModelProto,
    names: Sequence[str],
    images: Sequence[NDArray[np.float32]],
    threads: int | None = None,
    *,
    at_once: int = 6,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each tensor for each image [1, 3, H, W], in groups: all together take hundreds of megabytes.

    Args:
        at_once: tensors of one session, which holds all that it watches until its run ends.
    """
    for start in range(0, len(names), at_once):
        group = list(names[start : start + at_once])
        session = open_session(model, threads, watched=group)
        for image in images:
            values = session.run(group, {"image": image})
            for name in group:
                yield name, values.pop(0)
