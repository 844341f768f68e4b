"""INT8 as ONNX says it: pairs of QuantizeLinear and DequantizeLinear, by the rules of TensorRT.

One file serves TensorRT 10.3 and later, TensorRT-RTX, OpenVINO and ONNX Runtime: symmetric, zero point
0, activations with one scale for each tensor, weights with one for each output channel, no pairs on
biases. Pairs stand on the *inputs* of convolutions, and on the skip input of a residual addition, so
that convolution, addition and activation stay one kernel (NVIDIA's "Working with quantized types").

In floating point remain: norms, everything behind the prediction convolutions and these themselves,
and convolutions that still read coordinates (the exporter computes most of that in advance). Their
channels lie in [-1, 1] beside features that may be ten times as large: one scale for both leaves too
few steps for a position.

What is not INT8 keeps the type that it has in the graph, float32 or float16, and a pair takes the type
of what it stands on, as TensorRT demands. Ranges are known by *sites*, "weight[call]", not by the
exporter's tensor names: it counts those through, so they differ between float32 and float16, whose
batch norms are folded at different moments, and may differ with every version of the exporter. A name
may even exist in both and mean something else. Weights are called as in the checkpoint, and the
calls of a shared one come in the order in which the network makes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from solo_edge.calibration.observers import LEVELS, weight_scales
from solo_edge.calibration.qdq_rules import HALF_OPSET, problems
from solo_edge.errors import ArtifactError

__all__ = ["Placement", "insert_pairs", "placement", "problems"]

PREDICTIONS = ("category_out", "kernel_out", "mask_feature_branch.out")
# Operators that differ between opsets 18 and 19 in the types that they accept alone.
MORE_TYPES_IN_19 = {"Cast", "Equal", "Identity", "Reshape", "Resize"}


@dataclass(frozen=True)
class Placement:
    """Where the pairs go in one graph."""

    convolutions: tuple[str, ...]  # names of the nodes that become INT8
    activations: tuple[str, ...]  # tensors with a pair
    weights: tuple[str, ...]  # initializers with a pair
    skips: Mapping[str, str]  # name of an addition -> the one of its inputs that gets a pair
    sites: Mapping[str, str]  # activation -> its name in every graph of the model
    calls: Mapping[str, str]  # name of a convolution -> "weight[call]"


def placement(model: onnx.ModelProto, excluded: Collection[str] = ()) -> Placement:
    """Which convolutions become INT8, and which tensors get a pair for that.

    With layers excluded, no other activations get one than without.

    Args:
        model: the exported `network` or `full` graph, batch norms folded.
        excluded: names of weights whose convolutions stay in floating point.

    Raises:
        ArtifactError: the graph has pairs already, or `excluded` names no weight.
    """
    graph = model.graph
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        raise ArtifactError("this graph is quantised already", fix="start from a float export")
    makers = {name: node for node in graph.node for name in node.output}
    convolutions = _convolutions(graph)
    known = {node.input[1] for node in convolutions}
    for name in excluded:
        if name not in known:
            raise ArtifactError(f"no convolution has the weight {name!r}")
    suitable = [
        node
        for node in convolutions
        if not any(part in node.input[1] for part in PREDICTIONS)
        and not _reads_coordinates(node.input[0], makers)
    ]
    chosen = [node for node in suitable if node.input[1] not in excluded]
    outputs = {node.output[0] for node in chosen}
    skips = {
        node.name: pair[1]
        for node in graph.node
        if (pair := _residual(node, makers, outputs)) is not None
    }
    activations = dict.fromkeys([*(node.input[0] for node in chosen), *skips.values()])
    calls = _calls(convolutions)
    sites = _sites(graph, convolutions, calls, makers, {node.output[0] for node in suitable})
    return Placement(
        convolutions=tuple(node.name for node in chosen),
        activations=tuple(activations),
        weights=tuple(dict.fromkeys(node.input[1] for node in chosen)),
        skips=skips,
        sites={name: sites[name] for name in activations},
        calls={node.name: calls[node.name] for node in chosen},
    )


def insert_pairs(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    excluded: Collection[str] = (),
    bias_shifts: Mapping[str, Sequence[float] | NDArray[np.float32]] | None = None,
) -> onnx.ModelProto:
    """A copy of `model` with pairs; the same arguments give the same bytes.

    Args:
        model: as for `placement`, in float32 or float16.
        ranges: for each of `placement(...).sites`, the absolute value that becomes 127. They may have
            been measured on another graph of the same model.
        excluded: as for `placement`.
        bias_shifts: for each of `placement(...).calls`, what is added to the bias; absent ones stay.

    Raises:
        ArtifactError: a range is missing, or not a positive number that the graph's type can hold; or
            a shift is not one number for each channel.
    """
    where = placement(model, excluded)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    chosen = set(where.convolutions)
    weights = set(where.weights)
    values = {e.name: numpy_helper.to_array(e) for e in graph.initializer if e.name in weights}
    # All convolutions of our graphs compute in one type.
    kind = next((values[name].dtype for name in where.weights), np.dtype(np.float32))
    if kind == np.float16:
        _raise_opset(result)
    pairs: dict[str, list[onnx.NodeProto]] = {}
    for name in where.activations:
        limit = _range_of(name, where.sites[name], ranges)
        scale = np.asarray(np.float32(limit) / np.float32(LEVELS), dtype=np.float32)
        pairs[name] = _pair(graph, name, _held_in(kind, scale, name), axis=None)
    for name in where.weights:
        pairs[name] = _pair(graph, name, _held_in(kind, weight_scales(values[name]), name), axis=0)
    shifts = bias_shifts or {}
    for node in graph.node:
        if node.name in chosen:
            if where.calls[node.name] in shifts:
                _shift_bias(graph, node, shifts[where.calls[node.name]], kind)
            node.input[0], node.input[1] = _paired(node.input[0]), _paired(node.input[1])
        elif node.name in where.skips:
            skip = where.skips[node.name]
            node.input[:] = [_paired(name) if name == skip else name for name in node.input]
    _place(graph, pairs)
    onnx.checker.check_model(result, full_check=True)
    return result


def _convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Those with constant weights."""
    constants = {each.name for each in graph.initializer}
    return [node for node in graph.node if node.op_type == "Conv" and node.input[1] in constants]


def _shift_bias(
    graph: onnx.GraphProto,
    node: onnx.NodeProto,
    shift: Sequence[float] | NDArray[np.float32],
    kind: np.dtype[Any],
) -> None:
    """Give a convolution a bias of its own: the one that it has, or 0, and the shift."""
    constants = {each.name: each for each in graph.initializer}
    channels = constants[node.input[1]].dims[0]
    values = np.asarray(shift, dtype=np.float64)
    if values.shape != (channels,) or not np.isfinite(values).all():
        what = (
            f"the bias shift is {values.shape}, finite numbers for {channels} channels are needed"
        )
        raise ArtifactError(what, where=node.input[1], fix="calibrate this checkpoint again")
    if len(node.input) > 2:
        values = values + numpy_helper.to_array(constants[node.input[2]])
    name = f"{node.name}.shifted_bias"
    graph.initializer.append(numpy_helper.from_array(values.astype(kind), name))
    node.input[:] = [*node.input[:2], name]


def _calls(convolutions: list[onnx.NodeProto]) -> dict[str, str]:
    """Name of each -> its weight and the number of its call."""
    count: Counter[str] = Counter()
    calls = {}
    for node in convolutions:
        weight = node.input[1]
        calls[node.name] = f"{weight}[{count[weight]}]"
        count[weight] += 1
    return calls


def _sites(
    graph: onnx.GraphProto,
    convolutions: list[onnx.NodeProto],
    calls: Mapping[str, str],
    makers: Mapping[str, onnx.NodeProto],
    int8_outputs: Collection[str],
) -> dict[str, str]:
    """Tensor -> the call that reads it first, or with whose result it is added; whatever is excluded."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for node in convolutions:
        inputs.setdefault(node.input[0], calls[node.name])
        outputs[node.output[0]] = calls[node.name]
    for node in graph.node:
        pair = _residual(node, makers, int8_outputs)
        if pair is not None:
            inputs.setdefault(pair[1], f"{outputs[pair[0]]}.skip")
    return inputs


def _reads_coordinates(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether the tensor is a concatenation, perhaps resized: the exported graphs join coordinates only."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Resize", "Slice"):
        if node.op_type == "Slice":
            return False  # the category branch cuts the coordinates off again
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "Concat"


def _residual(
    node: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto], int8_outputs: Collection[str]
) -> tuple[str, str] | None:
    """Of a residual addition: the output of the INT8 convolution before it, and the skip beside it."""
    if node.op_type != "Add" or len(node.input) != 2:
        return None
    direct: list[str] = [name for name in node.input if name in int8_outputs]
    others: list[str] = [name for name in node.input if name not in int8_outputs]
    if len(direct) == 2:  # a convolution on the way round too: the second is the skip
        return direct[0], direct[1]
    if len(direct) == 1 and len(others) == 1:
        other = makers.get(others[0])
        if other is not None and other.op_type not in ("Resize", "Conv"):
            return direct[0], others[0]
    return None


def _range_of(tensor: str, site: str, ranges: Mapping[str, float]) -> float:
    limit = ranges.get(site)
    if limit is None or not np.isfinite(limit) or limit <= 0:
        what = f"the range of {tensor} is {limit}"
        raise ArtifactError(what, where=site, fix="calibrate this checkpoint again")
    return limit


def _held_in(kind: np.dtype[Any], scale: NDArray[np.float32], name: str) -> NDArray[Any]:
    """The scale in the type of what it scales: no smaller, so that nothing more is clipped.

    In float16 it is at least the smallest normal number, 2**-14: the reciprocal of a much smaller one
    is infinite there. A channel whose weights stay below 127 times that, 0.0078, has fewer steps.
    """
    if kind == np.float32:
        return scale
    with np.errstate(over="ignore"):
        held = scale.astype(kind)
    held = np.where(held < scale, np.nextafter(held, kind.type(np.inf)), held)
    if not np.isfinite(held).all():
        what = f"the scale of {name}, {scale.max()}, is too large for {kind}"
        raise ArtifactError(what, fix="export the network in float32")
    return np.maximum(held, np.finfo(kind).smallest_normal)  # type: ignore[no-any-return]


def _raise_opset(model: onnx.ModelProto) -> None:
    """Say that the graph is of opset 19 where it is of 18, which changes nothing else.

    Raises:
        ArtifactError: an operator might mean something else there.
    """
    opset = next(each for each in model.opset_import if not each.domain)
    if opset.version >= HALF_OPSET:
        return
    since = {
        node.op_type: [
            onnx.defs.get_schema(node.op_type, version).since_version
            for version in (opset.version, HALF_OPSET)
        ]
        for node in model.graph.node
    }
    changed = sorted(kind for kind, (old, new) in since.items() if old != new)
    unknown = [kind for kind in changed if kind not in MORE_TYPES_IN_19]
    if opset.version < HALF_OPSET - 1 or unknown:
        what = f"an opset {opset.version} graph with {', '.join(changed)} is no opset 19 graph"
        raise ArtifactError(what, fix="export the network in float32")
    opset.version = HALF_OPSET


def _pair(
    graph: onnx.GraphProto, name: str, scale: NDArray[Any], axis: int | None
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


def _place(graph: onnx.GraphProto, pairs: Mapping[str, list[onnx.NodeProto]]) -> None:
    """Put each pair right behind what it reads, so that the order stays a topological one."""
    made = {name for node in graph.node for name in node.output}
    nodes = [each for name, pair in pairs.items() if name not in made for each in pair]
    for node in graph.node:
        nodes.append(node)
        for name in node.output:
            nodes += pairs.get(name, [])
    del graph.node[:]
    graph.node.extend(nodes)
