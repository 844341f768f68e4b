"""Single convolutions of a graph, in float and with their weights in INT8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnx import numpy_helper

from solo_edge.calibration.observers import LEVELS, weight_scales
from solo_edge.calibration.qdq import placement

__all__ = ["Probe", "fake_quantise", "probes_of"]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """One call of a convolution that becomes INT8."""

    call: str  # as in `Placement.calls`
    tensor: str  # that it reads
    weight: torch.Tensor
    int8_weight: torch.Tensor  # rounded to its steps
    bias: torch.Tensor | None
    with_relu: bool  # its output is read by a ReLU alone
    stride: tuple[int, ...]
    pads: tuple[int, int, int, int]  # as torch pads: left, right, top, bottom
    dilation: tuple[int, ...]
    groups: int

    @torch.no_grad()
    def output(self, value: Array, *, int8: bool, relu: bool) -> Array:
        """[1, O, H', W'] for [1, I, H, W].

        Args:
            int8: with the weight in INT8.
            relu: behind the ReLU, if only that reads the output.
        """
        tensor = torch.from_numpy(np.ascontiguousarray(value))
        left, right, top, bottom = self.pads
        padding = (top, left)
        if (left, top) != (right, bottom):  # only then a copy is needed
            tensor, padding = F.pad(tensor, self.pads), (0, 0)
        weight = self.int8_weight if int8 else self.weight
        result = F.conv2d(
            tensor, weight, self.bias, self.stride, padding, self.dilation, self.groups
        )
        found: Array = (result.relu_() if relu and self.with_relu else result).numpy()
        return found


def fake_quantise(value: Array, limit: float) -> Array:
    """What QuantizeLinear and DequantizeLinear make of it: half to even, clipped to +-127 steps."""
    scale = np.float32(limit) / np.float32(LEVELS)
    rounded: Array = value / scale
    np.rint(rounded, out=rounded)
    np.clip(rounded, -LEVELS, LEVELS, out=rounded)
    rounded *= scale
    return rounded


def probes_of(model: onnx.ModelProto) -> list[Probe]:
    """Every call that becomes INT8, in the graph's order. The graph is float32."""
    where = placement(model)
    chosen = set(where.convolutions)
    values = {each.name: each for each in model.graph.initializer}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    return [
        _probe(node, where.calls[node.name], values, readers.get(node.output[0], []))
        for node in model.graph.node
        if node.name in chosen
    ]


def _probe(
    node: onnx.NodeProto, call: str, values: dict[str, onnx.TensorProto], readers: list[str]
) -> Probe:
    weight = numpy_helper.to_array(values[node.input[1]])
    scales = weight_scales(weight).reshape(-1, 1, 1, 1)
    rounded = (np.rint(weight / scales).clip(-LEVELS, LEVELS) * scales).astype(np.float32)
    bias = numpy_helper.to_array(values[node.input[2]]) if len(node.input) > 2 else None
    options: dict[str, Any] = {
        each.name: onnx.helper.get_attribute_value(each) for each in node.attribute
    }
    top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
    return Probe(
        call=call,
        tensor=node.input[0],
        weight=torch.from_numpy(np.array(weight)),
        int8_weight=torch.from_numpy(rounded),
        bias=None if bias is None else torch.from_numpy(np.array(bias)),
        with_relu=readers == ["Relu"],
        stride=tuple(options.get("strides", (1, 1))),
        pads=(left, right, top, bottom),
        dilation=tuple(options.get("dilations", (1, 1))),
        groups=int(options.get("group", 1)),
    )
