"""Group norm for CPU engines: statistics by channel instead of a reshape to groups.

The exporter writes a group norm as Reshape, InstanceNormalization, Reshape, Mul, Add. OpenVINO keeps
the channels of a pixel together in memory, where a group is no contiguous piece: each such norm costs a
conversion of the whole tensor. Sums over the map by channel, averaged over the group's channels
([1, C, 1, 1], a few numbers), and one multiply-add for each value need none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from solo_edge.export.coordinates import drop_unused_constants
from solo_edge.manifest import Backend, Precision

__all__ = ["rewrite_group_norms", "suit_backend", "suit_file"]


def suit_backend(model: onnx.ModelProto, backend: Backend, precision: Precision) -> None:
    """Give a graph, in place, the form in which `backend` computes it fastest."""
    if backend == "openvino" and precision != "bf16":
        rewrite_group_norms(model)


def suit_file(path: Path, backend: Backend, precision: Precision) -> None:
    """`suit_backend` on an ONNX file."""
    model = onnx.load(path)
    suit_backend(model, backend, precision)
    path.write_bytes(model.SerializeToString(deterministic=True))


class _Norm(NamedTuple):
    """One group norm of the exporter's form."""

    nodes: tuple[onnx.NodeProto, ...]  # in the order in which they are computed
    groups: int
    weight: NDArray[np.float32]  # [C]
    bias: NDArray[np.float32]  # [C]
    epsilon: float

    @property
    def input(self) -> str:
        return str(self.nodes[0].input[0])

    @property
    def output(self) -> str:
        return str(self.nodes[-1].output[0])


def rewrite_group_norms(model: onnx.ModelProto) -> int:
    """Replace, in place, the group norms of a float32 graph; returns how many there were.

    The variance is the mean square less the square of the mean. In float32 that is exact enough while
    the mean is not hundreds of times the standard deviation; in bfloat16 it is not.
    """
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    norms = {norm.nodes[-1].name: norm for norm in _find(model)}
    replaced = {node.name for norm in norms.values() for node in norm.nodes}
    nodes = []
    for node in model.graph.node:
        if node.name in norms:
            norm = norms[node.name]
            height, width = sizes[norm.input][2:]
            nodes += _by_channel(model.graph, norm, height * width)
        elif node.name not in replaced:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    drop_unused_constants(model.graph)
    return len(norms)


def _find(model: onnx.ModelProto) -> list[_Norm]:
    values = {each.name: each for each in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for norm in model.graph.node:
        if norm.op_type != "InstanceNormalization":
            continue
        chain = [makers[norm.input[0]], norm]
        for _ in range(3):
            after = readers.get(chain[-1].output[0], [])
            if len(after) != 1:
                break
            chain.append(after[0])
        if [node.op_type for node in chain] != _FORM:
            continue
        split, _, _, scale, shift = chain
        weight, bias = (
            numpy_helper.to_array(values[node.input[1]]).reshape(-1) for node in (scale, shift)
        )
        groups = int(numpy_helper.to_array(values[split.input[1]])[1])
        epsilon = next(a.f for a in norm.attribute if a.name == "epsilon")
        if weight.dtype == np.float32 and len(readers[split.output[0]]) == 1:
            found.append(_Norm(tuple(chain), groups, weight, bias, epsilon))
    return found


_FORM = ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]


def _by_channel(graph: onnx.GraphProto, norm: _Norm, pixels: int) -> list[onnx.NodeProto]:
    """The nodes in its place."""
    prefix, channels = norm.output, len(norm.weight)
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: NDArray[np.generic]) -> str:
        if all(each.name != name for each in graph.initializer):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def compute(kind: str, what: str, *inputs: str, **options: Any) -> str:
        name = f"{prefix}.{what}"
        nodes.append(onnx.helper.make_node(kind, inputs, [name], name, **options))
        return name

    # [C, C, 1, 1]: every channel gets the average of its group's sums, for each pixel.
    share = norm.groups / (channels * pixels)
    block = np.full((channels // norm.groups,) * 2, share, dtype=np.float32)
    average = np.kron(np.eye(norm.groups, dtype=np.float32), block)[:, :, None, None]
    averaging = constant(f"group_average.{channels}.{norm.groups}.{pixels}", average)
    axes = constant("group_average.axes", np.array([2, 3]))
    epsilon = constant(f"{prefix}.epsilon", np.float32(norm.epsilon).reshape(1))
    weight, bias = (
        constant(f"{prefix}.{name}", value.reshape(1, -1, 1, 1))
        for name, value in (("weight", norm.weight), ("bias", norm.bias))
    )
    x = norm.input
    sums = compute("ReduceSum", "sums", x, axes, keepdims=1)
    squares = compute("ReduceSumSquare", "squares", x, axes, keepdims=1)
    mean = compute("Conv", "mean", sums, averaging)
    power = compute("Conv", "power", squares, averaging)
    difference = compute("Sub", "difference", power, compute("Mul", "mean_square", mean, mean))
    variance = compute("Relu", "variance", difference)  # rounding can take it below 0
    deviation = compute("Sqrt", "deviation", compute("Add", "positive", variance, epsilon))
    scale = compute("Div", "scale", weight, deviation)
    shift = compute("Sub", "shift", bias, compute("Mul", "mean_scaled", mean, scale))
    scaled = compute("Mul", "scaled", x, scale)
    nodes.append(onnx.helper.make_node("Add", [scaled, shift], [prefix], f"{prefix}.shifted"))
    return nodes
