"""Which calls of a PyTorch model the pairs of its Q/DQ graph stand at.

Nothing here decides where pairs belong: `solo_edge.calibration.qdq` does, and its graph is read. The
calls of the model and the nodes of its export come in the same order. Whether they really do is
checked with what both know: weights by name and by value, sizes, and what each addition adds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from solo_edge.errors import ArtifactError
from solo_edge.models.solov2 import SOLOv2

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Addition",
    "CallOrder",
    "Convolution",
    "Pair",
    "Plan",
    "folded",
    "make_plan",
    "parameter_names",
]

PREFIX = "model."  # the exported module holds the network under this name
FIX = "calibrate this checkpoint again; if it stays, this backbone cannot be trained with --qat"


@dataclass(frozen=True)
class Pair:
    """QuantizeLinear and DequantizeLinear on an activation."""

    output: str  # the tensor behind them, in the graph
    scale: float


@dataclass(frozen=True)
class Convolution:
    """One call of a convolution. Without a pair on its input, it stays in floating point."""

    weight: str  # name of the parameter
    norm: str | None  # the batch norm that the export folds into it
    input: Pair | None
    coordinates: int  # of its last input channels, which stay in floating point in any case


@dataclass(frozen=True)
class Addition:
    """One addition of two maps."""

    inputs: tuple[Pair | None, Pair | None]


@dataclass(frozen=True)
class Plan:
    """What is quantised in one run of the network, in the order of the calls."""

    convolutions: tuple[Convolution, ...]
    additions: tuple[Addition, ...]


class CallOrder(TorchFunctionMode):
    """While it is active, convolutions, batch norms and additions of maps go through its methods."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            return self.convolution(*args, **kwargs)
        if func is F.batch_norm:
            return self.batch_norm(*args, **kwargs)
        if getattr(func, "__name__", "") in ("add", "add_") and all(map(_is_map, args[:2])):
            return self.addition(func, *args, **kwargs)
        return func(*args, **kwargs)

    def convolution(self, x: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        raise NotImplementedError

    def batch_norm(self, x: Tensor, running_mean: Tensor, *rest: Any, **named: Any) -> Tensor:
        raise NotImplementedError

    def addition(self, add: Callable[..., Tensor], a: Tensor, b: Tensor, **named: Any) -> Tensor:
        raise NotImplementedError


def make_plan(model: SOLOv2, quantised: onnx.ModelProto) -> Plan:
    """Where `model` must round to compute what its Q/DQ graph does.

    Args:
        model: in float32 on the CPU, in evaluation mode; is left as it is.
        quantised: what `insert_pairs` made of its float32 export.

    Raises:
        ArtifactError: calls of the model and nodes of the graph do not belong together.
    """
    convolutions, additions = _read_graph(quantised)
    calls = _Recorder(model)
    with torch.no_grad(), calls:
        model(torch.zeros(1, 3, *model.config.input_size))
    ours, theirs = [c.weight for c in calls.convolutions], [c.weight for c in convolutions]
    if ours != theirs:
        pairs = itertools.zip_longest(ours, theirs, fillvalue="none")
        ours_first, theirs_first = next(pair for pair in pairs if pair[0] != pair[1])
        _refuse(f"convolution {ours_first} of the model is {theirs_first} in the graph")
    if calls.additions != [node.sources for node in additions]:
        _refuse("the model adds other maps than the graph")
    return Plan(
        tuple(map(functools.partial(_matched, model), calls.convolutions, convolutions)),
        tuple(Addition(node.pairs) for node in additions),
    )


def folded(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution with `norm` behind it, which keeps its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.affine:
        scale = scale * norm.weight
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    shift = -mean * scale
    if norm.affine:
        shift = shift + norm.bias
    return weight * scale.view(-1, 1, 1, 1), shift


Size = tuple[int, ...]
Sources = tuple[int | None, int | None]  # number of the convolution that made each input


@dataclass
class _Call:
    weight: str
    size: Size  # of the input
    norm: str | None = None


class _Recorder(CallOrder):
    """Notes the calls of one run."""

    def __init__(self, model: SOLOv2):
        super().__init__()
        self.names = parameter_names(model)
        self.convolutions: list[_Call] = []
        self.additions: list[Sources] = []
        # Tensors are kept, so that no id is used twice; the version tells of changes in place.
        self.made: dict[int, tuple[int, Tensor, int]] = {}

    def convolution(self, x: Tensor, weight: Tensor, *rest: Any, **named: Any) -> Tensor:
        output = F.conv2d(x, weight, *rest, **named)
        self._note(output, len(self.convolutions))
        self.convolutions.append(_Call(self.names[id(weight)], tuple(x.shape)))
        return output

    def batch_norm(self, x: Tensor, running_mean: Tensor, *rest: Any, **named: Any) -> Tensor:
        output = F.batch_norm(x, running_mean, *rest, **named)
        # Only right behind its convolution; elsewhere nothing could fold it.
        source = self._source(x)
        if source is not None and source == len(self.convolutions) - 1:
            name = self.names[id(running_mean)].removesuffix(".running_mean")
            self.convolutions[source].norm = name
            self._note(output, source)
        return output

    def addition(self, add: Callable[..., Tensor], a: Tensor, b: Tensor, **named: Any) -> Tensor:
        self.additions.append((self._source(a), self._source(b)))
        return add(a, b, **named)

    def _note(self, tensor: Tensor, source: int) -> None:
        self.made[id(tensor)] = (source, tensor, tensor._version)

    def _source(self, tensor: Tensor) -> int | None:
        source, _, version = self.made.get(id(tensor), (None, None, None))
        return source if version == tensor._version else None


@dataclass
class _ConvNode:
    weight: str
    values: np.ndarray[Any, Any]
    size: Size
    pair: Pair | None
    norm_stays: bool = False  # as a node of its own


@dataclass(frozen=True)
class _AddNode:
    sources: Sources
    pairs: tuple[Pair | None, Pair | None]


def _read_graph(model: onnx.ModelProto) -> tuple[list[_ConvNode], list[_AddNode]]:
    """The convolutions and the additions of two maps, in the order of the nodes."""
    from onnx import numpy_helper, shape_inference

    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    sizes = {
        value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    convolutions: list[_ConvNode] = []
    additions: list[_AddNode] = []
    made: dict[str, int] = {}
    for node in graph.node:
        pairs = [_pair(name, makers, values) for name in node.input]
        names = [_before_pair(name, makers) for name in node.input]
        if node.op_type == "Conv" and names[1] in values:
            if (pairs[0] is None) != (pairs[1] is None):
                _refuse(f"{node.name} has a pair on its input or on its weight, not on both")
            name = names[1].removeprefix(PREFIX)
            made[node.output[0]] = len(convolutions)
            convolutions.append(_ConvNode(name, values[names[1]], sizes[names[0]], pairs[0]))
        elif node.op_type == "Add" and all(len(sizes.get(name, ())) == 4 for name in names):
            sources = made.get(names[0]), made.get(names[1])
            additions.append(_AddNode(sources, (pairs[0], pairs[1])))
        elif any(pairs):
            _refuse(f"{node.name} ({node.op_type}) reads a pair")
        elif node.op_type == "BatchNormalization" and names[0] in made:
            # Behind a convolution that several levels share, the exporter leaves it alone.
            made[node.output[0]] = made[names[0]]
            convolutions[made[names[0]]].norm_stays = True
        elif node.op_type == "Add" and names[1] in values and names[0] in made:
            made[node.output[0]] = made[names[0]]  # what its coordinates contribute
    return convolutions, additions


def _pair(
    name: str, makers: Mapping[str, onnx.NodeProto], values: Mapping[str, Any]
) -> Pair | None:
    """The pair that made `name`; of a weight's scales the first."""
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    return Pair(name, float(values[node.input[1]].flat[0]))


def _before_pair(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    node = makers.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return name
    before: str = makers[node.input[0]].input[0]
    return before


def _matched(model: SOLOv2, call: _Call, node: _ConvNode) -> Convolution:
    """The two as one, if sizes and weights say that they are one."""
    weight = model.get_parameter(call.weight).detach()
    name = None if node.norm_stays else call.norm
    if name is not None:
        norm = cast(nn.BatchNorm2d, model.get_submodule(name))
        weight = folded(weight, None, norm)[0].detach()
    outputs, inputs = node.values.shape[:2]
    # A depthwise convolution loses filters with its coordinates, others lose channels of each.
    coordinates = max(weight.shape[0] - outputs, weight.shape[1] - inputs)
    channels = node.size[1] + coordinates
    if call.size != (node.size[0], channels, *node.size[2:]):
        _refuse(f"{call.weight} reads {call.size} in the model and {node.size} in the graph")
    values = weight[:outputs, :inputs].numpy()
    tolerance = 1e-5 * float(np.abs(values).max())
    if values.shape != node.values.shape or np.abs(values - node.values).max() > tolerance:
        _refuse(f"the graph holds other values of {call.weight} than the model")
    return Convolution(call.weight, name, node.pair, coordinates)


def parameter_names(model: nn.Module) -> dict[int, str]:
    """Of each parameter and buffer, by its id."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {id(tensor): name for name, tensor in tensors}


def _is_map(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4


def _refuse(what: str) -> NoReturn:
    raise ArtifactError(what, fix=FIX)
