"""OpenVINO on the CPU: the default engine where there is no GPU."""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.manifest import OUTPUTS, REBUILD, Precision, TensorSpec
from solo_edge.runtime.base import Runner

__all__ = ["OpenVINORunner", "supports_bfloat16"]

log = logging.getLogger(__name__)

_NAMES = {"image", *OUTPUTS["network"], *OUTPUTS["full"]}
_DTYPES = {"f32": "float32", "i64": "int64"}


class OpenVINORunner(Runner):
    """An ONNX file on OpenVINO's CPU device.

    Args:
        path: the ONNX file; its inputs and outputs are float32 whatever the precision.
        precision: "fp32" or "bf16", in which the network computes. OpenVINO's own default is bf16 wherever
            the processor has it, so it is always set here. On a processor without bf16 instructions the
            network computes in fp32, with a warning in the log. "int8" is written into the file; what
            is not INT8 there computes in fp32.
        threads: CPU threads; None is one for each core.

    Raises:
        ResourceError: OpenVINO is not installed.
        ArtifactError: it cannot load the file.
    """

    def __init__(self, path: Path, *, precision: Precision = "fp32", threads: int | None = None):
        openvino = _openvino(path)
        core = openvino.Core()
        if precision == "bf16" and not supports_bfloat16():
            log.warning("%s: this CPU has no bf16 instructions; the engine runs in fp32", path)
            precision = self.fallback = "fp32"
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16", "int8": "f32"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            # From memory, so that the file cannot point to data outside it.
            model = core.read_model(path.read_bytes(), b"")
            self._channels_last = precision != "bf16" and _keep_channels_last(openvino, model)
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            what = f"OpenVINO cannot load this file ({error})"
            raise ArtifactError(what, where=path, fix=REBUILD) from error
        # Two take turns, so that what one found can be worked on while the other computes.
        self._requests = deque(compiled.create_infer_request() for _ in range(2))
        self.lasting = True
        swapped = self._channels_last
        self.inputs = tuple(_spec(port, swapped and _is_map(port)) for port in compiled.inputs)
        self.outputs = tuple(_spec(port, swapped and _is_map(port)) for port in compiled.outputs)

    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if self._channels_last:
            inputs = {name: value.transpose(0, 2, 3, 1) for name, value in inputs.items()}
        # Without copies: the arrays of the result are the request's own memory.
        self._requests.rotate()
        found = self._requests[0].infer(inputs, share_inputs=True, share_outputs=True)
        outputs = {spec.name: found[i] for i, spec in enumerate(self.outputs)}
        if self._channels_last:
            name = "mask_features"
            outputs[name] = outputs[name].transpose(0, 3, 1, 2)
        return outputs

    def close(self) -> None:
        self.__dict__.pop("_requests", None)


def _keep_channels_last(openvino: Any, model: Any) -> bool:
    """Let image and mask features lie channels last in memory, as float32 and INT8 convolutions want it.

    Else both are converted at each run, the features in as much time as a tenth of the network. Only
    the graph "network" has them; False for another one.
    """
    if not any("mask_features" in port.names for port in model.outputs):
        return False
    from openvino.preprocess import PrePostProcessor

    steps, layout = PrePostProcessor(model), openvino.Layout
    for port in (steps.input(), steps.output("mask_features")):
        port.model().set_layout(layout("NCHW"))
        port.tensor().set_layout(layout("NHWC"))
    steps.build()
    return True


def _is_map(port: Any) -> bool:
    """Whether it has pixels."""
    return len(port.partial_shape) == 4


def supports_bfloat16() -> bool:
    """Whether this CPU computes in bf16 by itself (AMX, AVX512-BF16, SVE)."""
    capabilities = _openvino(None).Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


def _openvino(path: Path | None) -> Any:
    try:
        import openvino
    except ImportError as error:
        fix = "pip install openvino"
        raise ResourceError("this engine needs OpenVINO", where=path, fix=fix) from error
    return openvino


def _spec(port: Any, channels_last: bool) -> TensorSpec:
    """The port as [B, C, H, W], however it lies in memory."""
    shape = port.partial_shape
    sizes = tuple(shape.to_shape()) if shape.is_static else (-1,)
    if channels_last and len(sizes) == 4:
        sizes = (sizes[0], sizes[3], sizes[1], sizes[2])
    kind = port.element_type.get_type_name()
    dtype: Any = _DTYPES.get(kind, kind)
    # A port keeps the names of all tensors that OpenVINO found to be the same; ours is one of them.
    ours = sorted(port.names.intersection(_NAMES))
    name = ours[0] if ours else port.any_name
    return TensorSpec(name, dtype, tuple(int(size) for size in sizes))
