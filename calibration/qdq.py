"""INT8 as ONNX says it: pairs of QuantizeLinear and DequantizeLinear, by the rules of TensorRT.

One file serves TensorRT 10.3 and later, TensorRT-RTX, OpenVINO and ONNX Runtime: symmetric, zero point
0, activations with one scale for each tensor, weights with one for each output channel, no pairs on
biases. Pairs stand on the *inputs* of convolutions, and on the skip input of a residual addition, so
that convolution, addition and activation stay one kernel (NVIDIA's "Working with quantized types").

In floating point remain: norms, everything behind the prediction convolutions and these themselves,
and convolutions that read coordinates. CoordConv's channels lie in [-1, 1] beside features that may
be ten times as large: one scale for both leaves too few steps for a position.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from solo_edge.calibration.observers import weight_scales
from solo_edge.errors import ArtifactError

__all__ = ["Placement", "insert_pairs", "placement", "problems"]

LEVELS = 127  # of each sign; -128 is never used, which keeps the range symmetric
PREDICTIONS = ("category_out", "kernel_out", "mask_feature_branch.out")


@dataclass(frozen=True)
class Placement:
    """Where the pairs go in one graph."""

    convolutions: tuple[str, ...]  # names of the nodes that become INT8
    activations: tuple[str, ...]  # tensors with a pair
    weights: tuple[str, ...]  # initializers with a pair


def placement(model: onnx.ModelProto, excluded: Collection[str] = ()) -> Placement:
    """Which convolutions become INT8, and which tensors get a pair for that.

    Args:
        model: the exported `network` or `full` graph, batch norms folded.
        excluded: names of weights whose convolutions stay in floating point.

    Raises:
        ArtifactError: the graph has pairs already, or `excluded` names no weight.
    """
    graph = model.graph
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        raise ArtifactError("this graph is quantised already", fix="start from a float export")
    constants = {each.name for each in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = [
        node for node in graph.node if node.op_type == "Conv" and node.input[1] in constants
    ]
    known = {node.input[1] for node in convolutions}
    for name in excluded:
        if name not in known:
            raise ArtifactError(f"no convolution has the weight {name!r}")
    chosen = [
        node
        for node in convolutions
        if node.input[1] not in excluded
        and not any(part in node.input[1] for part in PREDICTIONS)
        and not _reads_coordinates(node.input[0], makers)
    ]
    activations = dict.fromkeys(node.input[0] for node in chosen)
    outputs = {node.output[0] for node in chosen}
    for node in graph.node:
        skip = _skip_input(node, makers, outputs)
        if skip is not None:
            activations[skip] = None
    weights = dict.fromkeys(node.input[1] for node in chosen)
    return Placement(tuple(node.name for node in chosen), tuple(activations), tuple(weights))


def insert_pairs(
    model: onnx.ModelProto, ranges: Mapping[str, float], excluded: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of `model` with pairs; the same arguments give the same bytes.

    Args:
        ranges: for each tensor of `placement(...).activations`, the absolute value that becomes 127.
        excluded: as for `placement`.

    Raises:
        ArtifactError: a range is missing, or not a positive number.
    """
    where = placement(model, excluded)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    pairs: dict[str, list[onnx.NodeProto]] = {}
    for name in where.activations:
        limit = ranges.get(name)
        if limit is None or not np.isfinite(limit) or limit <= 0:
            raise ArtifactError(
                f"the range of {name} is {limit}", fix="calibrate this checkpoint again"
            )
        scale = np.asarray(np.float32(limit) / np.float32(LEVELS), dtype=np.float32)
        pairs[name] = _pair(graph, name, scale, axis=None)
    for name in where.weights:
        pairs[name] = _pair(graph, name, weight_scales(values[name]), axis=0)

    chosen = set(where.convolutions)
    makers = {name: node for node in model.graph.node for name in node.output}
    outputs = {node.output[0] for node in model.graph.node if node.name in chosen}
    nodes: list[onnx.NodeProto] = []
    pending = dict(pairs)
    available = {each.name for each in graph.input} | set(values)
    for node in graph.node:
        if node.name in chosen:
            node.input[0], node.input[1] = _paired(node.input[0]), _paired(node.input[1])
        else:
            skip = _skip_input(node, makers, outputs)
            if skip is not None:
                node.input[:] = [_paired(name) if name == skip else name for name in node.input]
    # Each pair stands right behind what it reads, so the order stays a topological one.
    for name in [name for name in pairs if name in available]:
        nodes += pending.pop(name)
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += pending.pop(name, [])
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def problems(model: onnx.ModelProto) -> list[str]:
    """What TensorRT would refuse in the graph's pairs; empty if nothing."""
    values = {each.name: each for each in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = values.get(node.input[1])
        if scale is None:
            found.append(f"{node.name}: the scale is no constant")
        elif not (numpy_helper.to_array(scale) > 0).all():
            found.append(f"{node.name}: a scale is not positive")
        if len(node.input) < 3 or node.input[2] not in values:
            found.append(f"{node.name}: the zero point is no constant")
            continue
        zero = numpy_helper.to_array(values[node.input[2]])
        if zero.dtype != np.int8:
            found.append(f"{node.name}: {zero.dtype} instead of int8")
        if zero.any():
            found.append(f"{node.name}: the zero point is not 0")
    return found


def _pair(
    graph: onnx.GraphProto, name: str, scale: np.ndarray[Any, Any], axis: int | None
) -> list[onnx.NodeProto]:
    """Adds the constants of a pair to the graph; its two nodes."""
    zero = np.zeros(scale.shape, dtype=np.int8)
    names = (f"{name}.scale", f"{name}.zero_point")
    for key, value in zip(names, (scale, zero), strict=True):
        graph.initializer.append(numpy_helper.from_array(value, key))
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    make = onnx.helper.make_node
    quantised = f"{name}.int8"
    return [
        make("QuantizeLinear", [name, *names], [quantised], f"{name}.quantize", **options),
        make(
            "DequantizeLinear",
            [quantised, *names],
            [_paired(name)],
            f"{name}.dequantize",
            **options,
        ),
    ]


def _paired(name: str) -> str:
    return f"{name}.dequantized"


def _reads_coordinates(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the tensor is a concatenation, perhaps resized: the exported graphs join coordinates only."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Resize", "Slice"):
        if node.op_type == "Slice":
            return False  # the category branch cuts the coordinates off again
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "Concat"


def _skip_input(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], int8_outputs: Iterable[str]
) -> str | None:
    """The input of a residual addition that is not the INT8 convolution before it."""
    if node.op_type != "Add" or len(node.input) != 2:
        return None
    direct: list[str] = [name for name in node.input if name in int8_outputs]
    others: list[str] = [name for name in node.input if name not in int8_outputs]
    if len(direct) == 1 and len(others) == 1:
        other = makers.get(others[0])
        return others[0] if other is not None and other.op_type != "Resize" else None
    if len(direct) == 2:  # a convolution on the way round: the first in the graph is the skip
        return direct[1]
    return None
