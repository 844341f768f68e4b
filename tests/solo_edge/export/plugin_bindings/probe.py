"""What TensorRT's bindings make of our operators: everything up to the C++ that needs a GPU. See `make.py`.

    python probe.py sm_87 ANSWERS < spec

registers the operators of the spec and writes, for each, the answers that TensorRT would get, as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import tensorrt_bindings as trt

sys.modules["tensorrt"] = trt
sys.modules["tensorrt.plugin"] = importlib.import_module("tensorrt_bindings.plugin")

from solo_edge.export.plugins import NAMESPACE  # noqa: E402
from solo_edge.export.plugins_chain import PluginSpec, make_chain, tensor_of  # noqa: E402
from solo_edge.export.tensorrt_plugins import register_plugins, why_unsupported  # noqa: E402
from solo_edge.kernels.aot_targets import find_target  # noqa: E402


class Size(int):
    """Stands in for a symbolic size, of which C++ makes the real ones. All of ours are known."""

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return int(self)


class Sizes(list[Any]):
    def __init__(self, count: int):
        super().__init__([None] * count)


class Builder:
    """Stands in for IExprBuilder. Nothing of ours calculates with sizes: there is no `operation`."""

    def constant(self, value: int) -> Size:
        return Size(value)


class Arguments(dict[int, Any]):
    """Stands in for the setter of extra arguments."""

    nbSymExprs = -1  # noqa: N815 (TensorRT's name)


class Launch:
    """Stands in for the setter of launch parameters."""


def stand_in() -> None:
    trt.IDimensionExpr, trt.DimsExprs = Size, Sizes
    tensor = importlib.import_module("tensorrt_bindings.plugin._tensor")
    tensor.SymInt32.__call__ = lambda self: self._expr


def described(tensor: Any) -> Any:
    """A tensor as TensorRT describes it to a plugin."""
    shape = trt.Dims(tensor.shape)
    inner, outer = trt.PluginTensorDesc(), trt.DynamicPluginTensorDesc()
    inner.dims, inner.format = shape, trt.TensorFormat.LINEAR
    inner.type = getattr(trt, tensor.dtype)
    outer.desc, outer.min, outer.max, outer.opt = inner, shape, shape, shape
    return outer


def probe(chain: Any, name: str) -> dict[str, Any]:
    operator, buffers = chain.operators[name], chain.plan.buffers
    creator = trt.get_plugin_registry().get_creator(name, "1", NAMESPACE)
    plugin = creator.create_plugin(
        name,
        NAMESPACE,
        trt.PluginFieldCollection([]),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )
    inputs, outputs = (
        [described(tensor_of(buffers[each])) for each in names]
        for names in (operator.inputs, operator.outputs)
    )
    types = plugin.get_output_data_types(
        [each.desc.type for each in inputs], [len(each.desc.dims) for each in inputs]
    )
    sizes = [[Size(size) for size in each.desc.dims] for each in inputs]
    shapes = plugin.get_output_shapes(sizes, [], Builder())
    combination = plugin.get_supported_format_combinations([*inputs, *outputs], len(inputs))
    plugin.configure_plugin(inputs, outputs)
    (tactic,) = plugin.get_valid_tactics()
    plugin.set_tactic(tactic)
    launch, arguments = Launch(), Arguments()
    plugin.get_launch_params(sizes, [*inputs, *outputs], len(inputs), launch, arguments, Builder())
    entry, ptx = plugin.get_kernel([e.desc for e in inputs], [e.desc for e in outputs])
    return {
        "class": type(plugin).__name__,
        "fields": len(creator.field_names),
        "outputs": plugin.get_num_outputs(),
        "types": [each.name for each in types],
        "shapes": shapes,
        "combination": [[each.type.name, each.format.name] for each in combination],
        "tactic": tactic,
        "launch": vars(launch),
        "arguments": arguments.nbSymExprs,
        "entry": entry,
        "ptx": ptx.decode(),
    }


def main(target: str, out: Path, text: str) -> None:
    assert why_unsupported(trt) is None
    stand_in()
    spec = PluginSpec.from_text(text)
    for _ in range(2):  # the second time changes nothing
        register_plugins(trt, spec, find_target(target))
    chain = make_chain(spec)
    answers = {name: probe(chain, name) for name in chain.operators}
    out.write_text(json.dumps({"version": trt.__version__, "operators": answers}), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.stdin.read())
