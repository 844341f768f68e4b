"""The method "auto": for each tensor, the range that disturbs the layers behind it least."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from solo_edge.calibration.histogram import Histogram
from solo_edge.calibration.observers import LEVELS, choose_range, weight_scales
from solo_edge.calibration.qdq import placement
from solo_edge.calibration.session import open_session

__all__ = ["CANDIDATES", "candidates", "choose_by_output"]

# Method and percentile. The percentiles span what is usual, from a hard cut to almost none.
CANDIDATES: tuple[tuple[str, float], ...] = (
    ("max", 100.0),
    ("percentile", 99.999),
    ("percentile", 99.99),
    ("percentile", 99.9),
    ("entropy", 100.0),
    ("mse", 100.0),
)


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
    images: Iterable[NDArray[np.float32]],
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
    probes = _probes(model, options, threads)
    errors = {name: dict.fromkeys(found, 0.0) for name, found in options.items()}
    session = open_session(model, threads, watched=list(options))
    for image in images:
        values = dict(zip(options, session.run(list(options), {"image": image}), strict=True))
        for probe in probes:
            for name, error in probe.errors(values[probe.tensor], options[probe.tensor]).items():
                errors[probe.tensor][name] += error
    return {tensor: min(found, key=found.__getitem__) for tensor, found in errors.items()}


TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class _Probe:
    """One reader of a tensor."""

    tensor: str
    exact: Any  # session of the reader, or None for the tensor itself
    quantised: Any  # session of the reader with the weight in INT8

    def errors(self, value: NDArray[np.float32], limits: Mapping[str, float]) -> dict[str, float]:
        """Candidate -> squared error of the reader's output, relative to its squares."""
        wanted = _output(self.exact, value)
        power = max(float(np.square(wanted, dtype=np.float64).sum()), TINY)
        errors = {}
        for name, limit in limits.items():
            found = _output(self.quantised, _fake_quantise(value, limit))
            errors[name] = float(np.square(found - wanted, dtype=np.float64).sum()) / power
        return errors


def _fake_quantise(value: NDArray[np.float32], limit: float) -> NDArray[np.float32]:
    """What QuantizeLinear and DequantizeLinear make of it: half to even, clipped to +-127."""
    scale = np.float32(limit) / np.float32(LEVELS)
    rounded: NDArray[np.float32] = np.rint(value / scale)
    np.clip(rounded, -LEVELS, LEVELS, out=rounded)
    rounded *= scale
    return rounded


def _output(session: Any, value: NDArray[np.float32]) -> NDArray[np.float32]:
    if session is None:
        return value
    found: NDArray[np.float32] = session.run(None, {"x": value})[0]
    return found


def _probes(
    model: onnx.ModelProto, tensors: Mapping[str, Any], threads: int | None
) -> list[_Probe]:
    """Every reader of every tensor."""
    where = placement(model)
    chosen = set(where.convolutions)
    weights = {
        each.name: numpy_helper.to_array(each)
        for each in model.graph.initializer
        if each.name in where.weights
    }
    biases = {
        node.input[2]: numpy_helper.to_array(each)
        for node in model.graph.node
        if node.name in chosen and len(node.input) > 2
        for each in model.graph.initializer
        if each.name == node.input[2]
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    probes = []
    for tensor in tensors:
        for node in readers.get(tensor, []):
            if node.name in chosen:
                with_relu = [each.op_type for each in readers[node.output[0]]] == ["Relu"]
                parts = (node, weights[node.input[1]], biases.get(_bias_name(node)), with_relu)
                exact, quantised = (_session_of(*parts, int8, threads) for int8 in (False, True))
                probes.append(_Probe(tensor, exact, quantised))
            elif node.op_type == "Add":
                probes.append(_Probe(tensor, None, None))
    return probes


def _bias_name(node: onnx.NodeProto) -> str:
    return node.input[2] if len(node.input) > 2 else ""


def _session_of(
    node: onnx.NodeProto,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    with_relu: bool,
    int8_weight: bool,
    threads: int | None,
) -> Any:
    """The convolution alone: x -> y."""
    if int8_weight:
        scales = weight_scales(weight).reshape(-1, *[1] * (weight.ndim - 1))
        weight = (np.rint(weight / scales).clip(-LEVELS, LEVELS) * scales).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "weight")]
    names = ["x", "weight"]
    if bias is not None:
        constants.append(numpy_helper.from_array(bias, "bias"))
        names.append("bias")
    convolution = onnx.NodeProto()
    convolution.CopyFrom(node)
    convolution.input[:] = names
    convolution.output[:] = ["before" if with_relu else "y"]
    nodes: Sequence[onnx.NodeProto] = [convolution]
    if with_relu:
        nodes = [convolution, onnx.helper.make_node("Relu", ["before"], ["y"])]
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    shape = [None] * weight.ndim
    graph = onnx.helper.make_graph(
        nodes, "probe", [make("x", kind, shape)], [make("y", kind, shape)], constants
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    return open_session(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), threads)
