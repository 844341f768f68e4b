"""How long each node of a graph takes on OpenVINO's CPU device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ResourceError

__all__ = ["node_times"]

# What OpenVINO appends to the name of a convolution whose bias it has merged.
MERGED_BIAS = "/WithoutBiases"


def node_times(
    path: Path, image: NDArray[np.float32], *, threads: int | None = None, rounds: int = 20
) -> dict[str, float]:
    """Median milliseconds of each node that the compiled graph still has, by its name in the ONNX file.

    What OpenVINO adds, such as conversions between layouts, is there under names of its own.

    Args:
        path: an ONNX file with the input `image`.
        image: [1, 3, H, W].
        rounds: timed runs, after a quarter as many others.

    Raises:
        ResourceError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ResourceError("OpenVINO is not installed", fix="pip install openvino") from error
    options: dict[str, object] = {
        "PERF_COUNT": "YES",
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    times: dict[str, list[float]] = {}
    warm_up = rounds // 4
    for done in range(warm_up + rounds):
        request.infer({"image": np.ascontiguousarray(image)})
        if done < warm_up:
            continue
        for node in request.get_profiling_info():
            name = node.node_name.removesuffix(MERGED_BIAS)
            times.setdefault(name, []).append(node.real_time.total_seconds() * 1e3)
    return {name: float(np.median(values)) for name, values in times.items()}
