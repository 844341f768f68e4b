"""TensorRT for RTX as a proving ground: NVIDIA's own parser and builder, on a machine without a GPU.

TensorRT for RTX builds ahead of time for a named GPU, on the CPU, and its packages on PyPI are complete:

    pip install --no-deps tensorrt-rtx-cu13-bindings==1.7.1.116 \\
        onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0

(the second is a plugin of ONNX Runtime that brings the libraries). It is a sibling of the TensorRT
on a Jetson and not the same: that it takes a graph is strong evidence and no proof. Its plans run on
GeForce and RTX GPUs.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any

from solo_edge.errors import ResourceError
from solo_edge.export.tensorrt_builder import serialize_network
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.export.tensorrt_progress import Progress

__all__ = ["INSTALL", "build_for_rtx", "load_tensorrt_rtx"]

INSTALL = (
    "pip install --no-deps tensorrt-rtx-cu13-bindings==1.7.1.116"
    " onnxruntime-ep-nv-tensorrt-rtx-cu13==0.5.0"
)
_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"


@functools.cache
def load_tensorrt_rtx() -> Any:
    """The module `tensorrt_rtx_bindings`, with the same names as `tensorrt`.

    Raises:
        ResourceError: it is not installed, or its libraries cannot be loaded.
    """
    # Only its folder: importing the plugin itself would need a GPU driver.
    spec = importlib.util.find_spec(_LIBRARIES)
    if spec is None or spec.origin is None:
        raise ResourceError("TensorRT for RTX is not installed", fix=INSTALL)
    folder = Path(spec.origin).parent
    try:
        for pattern in ("libtensorrt_rtx.so.*.*", "libtensorrt_onnxparser_rtx.so.*.*"):
            library = min(folder.glob(pattern), default=None)
            if library is None:
                raise OSError(f"no {pattern}")
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module("tensorrt_rtx_bindings")
    except (OSError, ImportError) as error:
        what = f"TensorRT for RTX cannot be loaded ({error})"
        raise ResourceError(what, where=folder, fix=INSTALL) from error


def build_for_rtx(
    onnx_path: Path,
    compute_capability: str = "SM86",
    *,
    options: TensorRTOptions | None = None,
    progress: Progress | None = None,
) -> bytes:
    """The plan of an ONNX file for RTX GPUs of one compute capability; no GPU is needed.

    Args:
        compute_capability: "SM75", "SM86", "SM89" or "SM120".
        options, progress: as for `build_plan`. Not all options work without a GPU.

    Raises:
        ResourceError: TensorRT for RTX is not installed.
        ArtifactError: its parser or builder refuses the graph; the message names the node.
    """
    trt = load_tensorrt_rtx()

    def choose_target(config: Any) -> None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, compute_capability), 0)

    return serialize_network(trt, onnx_path, options, progress=progress, configure=choose_target)
