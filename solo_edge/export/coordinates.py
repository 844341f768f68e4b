"""CoordConv without coordinates: what constants contribute to a convolution is computed when exporting.

A convolution that reads [x, coordinates] is the sum of one that reads x and one that reads the
coordinates, and with static shapes the second is a constant map. So the graph needs no concatenation,
which on most devices means a copy of x and layouts converted there and back; and INT8 needs no scale
that serves coordinates in [-1, 1] and features of ten times that at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

__all__ = ["drop_unused_constants", "fold_coordinates"]

Array = NDArray[Any]


@dataclass(frozen=True)
class _Joined:
    """A tensor that is a variable part and, behind it, constant channels."""

    variable: str
    constant: Array  # [1, C, H, W]


def fold_coordinates(model: onnx.ModelProto) -> None:
    """Replace, in place, every convolution of a tensor that was joined with constant channels.

    Followed through resizes and depthwise convolutions; a slice that cuts the constant channels off
    disappears. Where anything else reads the joined tensor, it is left as it is. The result is that of
    before up to the order of additions.
    """
    _Folding(model).run()


class _Folding:
    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.graph = model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in self.graph.initializer}
        self.joined: dict[str, _Joined] = {}
        self.same: dict[str, str] = {}  # tensors that are now another one
        self.nodes: list[onnx.NodeProto] = []
        self.shortened: dict[str, Array] = {}  # weights without the channels of the coordinates

    def run(self) -> None:
        wanted = self._foldable()
        if not wanted:
            return
        handlers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Concat": self._concat,
            "Resize": self._resize,
            "Slice": self._slice,
            "Conv": self._conv,
        }
        for node in self.graph.node:
            node.input[:] = [self.same.get(name, name) for name in node.input]
            if node.name in wanted:
                handlers[node.op_type](node)
            else:
                self.nodes.append(node)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        for tensor in self.graph.initializer:
            if tensor.name in self.shortened:
                value = np.ascontiguousarray(self.shortened[tensor.name])
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        drop_unused_constants(self.graph)
        # Some sizes have changed; whoever needs them infers them.
        del self.graph.value_info[:]

    def _foldable(self) -> set[str]:
        """Names of the nodes from concatenations with constants up to the convolutions behind them."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        outputs = {output.name for output in self.graph.output}
        found: set[str] = set()
        for node in self.graph.node:
            if node.op_type != "Concat" or not self._is_join(node):
                continue
            chain, pending = [node], [node]
            while pending:
                current = pending.pop()
                after = readers.get(current.output[0], [])
                if current.output[0] in outputs or not all(map(self._is_linear, after)):
                    chain = []
                    break
                chain += after
                pending += [each for each in after if self._keeps_channels(each)]
            found.update(each.name for each in chain)
        # A weight keeps its name, so all that use it have to change together.
        users = [node for node in self.graph.node if node.op_type == "Conv"]
        changed = {node.input[1] for node in users if node.name in found}
        others = {node.input[1] for node in users if node.name not in found}
        return set() if changed & others else found

    def _is_join(self, node: onnx.NodeProto) -> bool:
        first, *others = node.input
        return (
            _attribute(node, "axis", 0) == 1
            and first not in self.constants
            and len(others) > 0
            and all(name in self.constants for name in others)
        )

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Slice":
            return self._cuts_end(node)
        if node.op_type == "Conv":
            return node.input[1] in self.constants
        return node.op_type == "Resize"

    def _keeps_channels(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Resize" or self._is_depthwise(node)

    def _is_depthwise(self, node: onnx.NodeProto) -> bool:
        if node.op_type != "Conv":
            return False
        weight = self.constants[node.input[1]]
        return bool(weight.shape[1] == 1 and _attribute(node, "group", 1) == len(weight))

    def _cuts_end(self, node: onnx.NodeProto) -> bool:
        """Whether a slice takes the first channels."""
        if any(name not in self.constants for name in node.input[1:]):
            return False
        starts, ends, *rest = (self.constants[name].tolist() for name in node.input[1:])
        axes, steps, *_ = [*rest, [1]] if rest else ([0], [1])
        return bool((starts, axes, steps) == ([0], [1], [1]) and ends[0] < 0)

    def _concat(self, node: onnx.NodeProto) -> None:
        constant = np.concatenate([self.constants[name] for name in node.input[1:]], axis=1)
        self.joined[node.output[0]] = _Joined(node.input[0], constant)

    def _resize(self, node: onnx.NodeProto) -> None:
        joined = self.joined[node.input[0]]
        sizes = np.array(self.constants[node.input[3]])
        sizes[1] = joined.constant.shape[1]
        extra = {name: self.constants[name] for name in node.input[1:3] if name}
        constant = self._evaluate(node, joined.constant, {**extra, node.input[3]: sizes})
        node.input[0] = joined.variable
        # The number of channels stands in the sizes as well.
        name = f"{node.input[3]}.without_coordinates"
        if name not in self.constants:
            fewer = np.array(self.constants[node.input[3]])
            fewer[1] -= constant.shape[1]
            self._add_constant(name, fewer)
        node.input[3] = name
        self.nodes.append(node)
        self.joined[node.output[0]] = _Joined(node.output[0], constant)

    def _slice(self, node: onnx.NodeProto) -> None:
        joined = self.joined[node.input[0]]
        assert self.constants[node.input[2]].tolist() == [-joined.constant.shape[1]]
        self.same[node.output[0]] = joined.variable

    def _conv(self, node: onnx.NodeProto) -> None:
        joined = self.joined[node.input[0]]
        weight = self.constants[node.input[1]]
        count = joined.constant.shape[1]
        depthwise = self._is_depthwise(node)
        part = weight[-count:] if depthwise else weight[:, -count:]
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        del alone.input[2:]
        if depthwise:
            _set_attribute(alone, "group", count)
        constant = self._evaluate(alone, joined.constant, {node.input[1]: part})
        self.shortened[node.input[1]] = weight[:-count] if depthwise else weight[:, :-count]
        node.input[0] = joined.variable
        self.nodes.append(node)
        if depthwise:
            _set_attribute(node, "group", len(weight) - count)
            self.joined[node.output[0]] = _Joined(node.output[0], constant)
            return
        output = node.output[0]
        node.output[0] = f"{output}.without_coordinates"
        self._add_constant(f"{output}.coordinates", constant)
        names = [node.output[0], f"{output}.coordinates"]
        self.nodes.append(onnx.helper.make_node("Add", names, [output], f"{node.name}.coordinates"))

    def _evaluate(
        self, node: onnx.NodeProto, constant: Array, constants: dict[str, Array]
    ) -> Array:
        """One node on constants, in float32; the result has the type of the first."""
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        alone.input[0], alone.output[0] = "constant", "result"
        values = {
            name: value.astype(np.float32) if value.dtype.kind == "f" else value
            for name, value in constants.items()
        }
        feeds = {"constant": constant.astype(np.float32), **values}
        make = onnx.helper.make_tensor_value_info
        kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(v.dtype) for name, v in feeds.items()}
        graph = onnx.helper.make_graph(
            [alone],
            "constant",
            [make(name, kind, None) for name, kind in kinds.items()],
            [make("result", onnx.TensorProto.FLOAT, None)],
        )
        single = onnx.helper.make_model(graph, opset_imports=self.model.opset_import)
        results: Any = ReferenceEvaluator(single).run(None, feeds)
        return np.asarray(results[0], dtype=constant.dtype)

    def _add_constant(self, name: str, value: Array) -> None:
        self.constants[name] = value
        self.graph.initializer.append(numpy_helper.from_array(value, name))


def drop_unused_constants(graph: onnx.GraphProto) -> None:
    """Remove, in place, the initializers that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for each in node.attribute:
        if each.name == name:
            return onnx.helper.get_attribute_value(each)
    return default


def _set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    for each in list(node.attribute):
        if each.name == name:
            node.attribute.remove(each)
    node.attribute.append(onnx.helper.make_attribute(name, value))
