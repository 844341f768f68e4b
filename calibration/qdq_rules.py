"""What TensorRT demands of the pairs in an INT8 graph, checked without TensorRT.

The rules are those of NVIDIA's "Working with quantized types" and of the layers Quantize and Dequantize.
TensorRT's parser refuses some violations, such as a zero point that is not 0. Others it takes in silence
and computes something else: unsigned values as signed, or a whole convolution in floating point. On a
scale that is computed from the image, TensorRT for RTX 1.7 crashes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["HALF_OPSET", "problems"]

HALF_OPSET = 19  # the first in which QuantizeLinear takes float16
PAIR = ("QuantizeLinear", "DequantizeLinear")


def problems(model: onnx.ModelProto) -> list[str]:
    """What TensorRT would refuse in the graph's pairs, or compute otherwise than meant; empty if nothing."""
    try:
        graph = _Graph(model)
    except onnx.shape_inference.InferenceError as error:
        return [f"its types contradict each other ({error})"]
    found: list[str] = []
    for node in model.graph.node:
        if node.op_type in PAIR:
            wrong = [*_constants(node, graph), *_types(node, graph), *_partner(node, graph)]
        elif node.op_type == "Conv":
            wrong = _convolution(node, graph)
        else:
            continue
        found += [f"{node.name}: {each}" for each in wrong]
    return found


class _Graph:
    """What is around a node."""

    def __init__(self, model: onnx.ModelProto):
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.opset = next(each.version for each in model.opset_import if not each.domain)
        self.constants = {each.name: each for each in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        values = (*graph.input, *graph.value_info, *graph.output)
        self._types = {value.name: value.type.tensor_type.elem_type for value in values}

    def kind(self, name: str) -> int:
        """The type of a tensor, one of onnx.TensorProto's; 0 if unknown."""
        constant = self.constants.get(name)
        return int(self._types.get(name, 0) if constant is None else constant.data_type)

    def maker(self, name: str) -> str:
        """The operator that makes a tensor, "" if none does."""
        node = self.makers.get(name)
        return "" if node is None else str(node.op_type)


def _constants(node: onnx.NodeProto, graph: _Graph) -> list[str]:
    """Scale and zero point."""
    if node.input[1] not in graph.constants:
        return ["the scale is no constant"]
    scale = numpy_helper.to_array(graph.constants[node.input[1]])
    found = _scale(node, scale, graph)
    if len(node.input) < 3 or node.input[2] not in graph.constants:
        return [*found, "the zero point is no constant"]  # without one it would be uint8
    zero = numpy_helper.to_array(graph.constants[node.input[2]])
    if zero.dtype != np.int8:
        found.append(f"{zero.dtype} instead of int8")
    if zero.any():
        found.append("the zero point is not 0")
    if zero.shape != scale.shape:
        found.append("the zero point has not the shape of the scale")
    return found


def _scale(node: onnx.NodeProto, scale: NDArray[Any], graph: _Graph) -> list[str]:
    found = []
    if scale.dtype not in (np.float32, np.float16):
        found.append(f"the scale is {scale.dtype}")
    elif not (np.isfinite(scale) & (scale > 0)).all():
        found.append("a scale is not positive")
    elif (scale < np.finfo(scale.dtype).smallest_normal).any():
        found.append("a scale is no normal number")
    name = node.input[0]
    if graph.maker(name) == "QuantizeLinear":
        name = graph.makers[name].input[0]
    weight = graph.constants.get(name)
    axis = next((each.i for each in node.attribute if each.name == "axis"), 1)
    if weight is None and scale.shape:
        found.append("an activation has more than one scale")
    if weight is not None and (axis != 0 or scale.shape != tuple(weight.dims[:1])):
        found.append("a constant has not one scale for each output channel")
    return found


def _types(node: onnx.NodeProto, graph: _Graph) -> list[str]:
    """TensorRT has one type for a scale and what it scales."""
    kind, scale = graph.kind(node.input[0]), graph.kind(node.input[1])
    if node.op_type == "DequantizeLinear":
        return [] if kind == onnx.TensorProto.INT8 else ["what it reads is not int8"]
    if scale == onnx.TensorProto.FLOAT16 and graph.opset < HALF_OPSET:
        return [f"float16 needs opset {HALF_OPSET}, the graph has {graph.opset}"]
    return [] if kind == scale else ["the scale has not the type of the tensor"]


def _partner(node: onnx.NodeProto, graph: _Graph) -> list[str]:
    if node.op_type == "QuantizeLinear":
        readers = {each.op_type for each in graph.readers.get(node.output[0], [])}
        return [] if readers == {"DequantizeLinear"} else ["there is no DequantizeLinear behind it"]
    if node.input[0] in graph.constants:
        return []  # a weight that is stored in INT8
    if graph.maker(node.input[0]) != "QuantizeLinear":
        return ["there is no QuantizeLinear before it"]
    first = graph.makers[node.input[0]]
    return [] if first.input[1:] == node.input[1:] else ["the pair has two scales"]


def _convolution(node: onnx.NodeProto, graph: _Graph) -> list[str]:
    paired = [graph.maker(name) == "DequantizeLinear" for name in node.input]
    found = []
    if len(paired) > 2 and paired[2]:
        found.append("the bias has a pair")
    if paired[0] != paired[1]:
        found.append(f"the {'weight' if paired[0] else 'activation'} has no pair")
    if len({graph.kind(name) for name in node.input if name}) > 1:
        found.append("its inputs have different types")
    return found
