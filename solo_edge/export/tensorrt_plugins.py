"""Our operators for TensorRT: kernels that are compiled before the build and lie in the plan.

`tensorrt.plugin` (quickly deployable plugins, ahead-of-time form, from TensorRT 10.9 on) takes for each
operator a function that says its shapes and one that gives its kernel as PTX. Whoever builds needs
Triton and these functions; whoever runs the plan needs neither, nor Python.

Some things are as they are because of what others met with this interface:
- No scalars ("extra arguments") are passed to the kernels; all numbers are compiled in.
- One tactic for each operator: on newer GPUs TensorRT 10.14 keeps only one kernel for all of them.
- No attributes: up to TensorRT 10.13, its bindings misread all that are longer than one number where
  NumPy 2 is installed. What an operator is for is part of its name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from solo_edge.errors import ResourceError
from solo_edge.export.plugins import NAMESPACE
from solo_edge.export.plugins_chain import Chain, Operator, PluginSpec, make_chain, tensor_of
from solo_edge.kernels.aot import CompiledKernel, compile_kernels, specialize
from solo_edge.kernels.aot_targets import TARGETS, Target
from solo_edge.kernels.plan import Buffer
from solo_edge.kernels.tiles import Tiles

__all__ = ["MAX_SHARED_BYTES", "plugin_target", "register_plugins", "why_unsupported"]

FIRST_VERSION = (10, 9)
MAX_SHARED_BYTES = 48 * 1024  # more needs a call before the launch, which TensorRT may not make
TACTIC = 1  # custom tactics are positive numbers

TYPE_NAMES = {"float32": "FP32", "float16": "FP16", "int32": "INT32"}  # of AutoTuneCombination


@dataclass(frozen=True)
class _Prepared:
    chain: Chain
    kernels: dict[str, CompiledKernel]  # by operator


# TensorRT's registry belongs to the process, and so does what it calls.
_prepared: dict[PluginSpec, _Prepared] = {}


def why_unsupported(trt: Any) -> str | None:
    """Why this TensorRT cannot take the operators, as a phrase; None if it can.

    Args:
        trt: the module `tensorrt`.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < FIRST_VERSION:
        return f"TensorRT {trt.__version__} has no ahead-of-time plugins, which came with 10.9"
    if not hasattr(trt, "QuickPluginCreationRequest"):
        return f"this TensorRT {trt.__version__} comes without ahead-of-time plugins"
    return None


def plugin_target(compute_capability: str) -> Target:
    """What to compile for on a GPU of that compute capability ("8.7").

    Raises:
        ResourceError: the kernels are not written for it.
    """
    name = "sm_" + compute_capability.replace(".", "")
    if name not in TARGETS:
        what = f"there are no kernels for compute capability {compute_capability}"
        raise ResourceError(what, fix="leave the plugins out")
    return TARGETS[name]


def register_plugins(
    trt: Any, spec: PluginSpec, target: Target, *, tiles: Tiles | None = None
) -> None:
    """Compile the kernels of `spec` and tell TensorRT the operators; before its parser reads the file.

    May be called again, for other specs or another target. Takes about half a minute.

    Args:
        trt: the module `tensorrt`, of which `why_unsupported` says nothing.
        spec: of `solo_edge.export.plugins.write_plugin_graph`.
        target: the GPU that TensorRT builds for.
        tiles: those tuned for the GPU; the defaults without.

    Raises:
        ResourceError: `trt` is too old, Triton is not installed or cannot compile a kernel.
    """
    if reason := why_unsupported(trt):
        raise ResourceError(reason, fix="leave the plugins out")
    import tensorrt.plugin as trtp

    _prepared[spec] = prepared = _prepare(spec, target, tiles)
    for operator in prepared.chain.operators.values():
        if not hasattr(getattr(trtp.op, NAMESPACE, None), operator.name):
            _register(trt, trtp, spec, operator)


def _prepare(spec: PluginSpec, target: Target, tiles: Tiles | None) -> _Prepared:
    chain = make_chain(spec, tiles)
    wanted = {
        name: specialize(chain.plan, operator.launch) for name, operator in chain.operators.items()
    }
    compiled = compile_kernels(list(wanted.values()), target)
    kernels = {name: compiled[each] for name, each in wanted.items()}
    for name, kernel in kernels.items():
        if kernel.parameters != tuple(chain.operators[name].launch.arguments):
            raise ValueError(f"{kernel.entry} and the plan do not agree on {kernel.parameters}")
        if kernel.shared_bytes > MAX_SHARED_BYTES:
            what = f"{kernel.entry} needs {kernel.shared_bytes} bytes of shared memory"
            raise ResourceError(what, fix="leave out the tiles that were tuned")
    return _Prepared(chain, kernels)


def _register(trt: Any, trtp: Any, spec: PluginSpec, operator: Operator) -> None:
    """Give TensorRT the three functions of an operator. Each asks for what was prepared last."""
    identifier = f"{NAMESPACE}::{operator.name}"
    inputs, outputs = operator.inputs, operator.outputs

    def tensor(buffer: str) -> Buffer:
        return tensor_of(_prepared[spec].chain.plan.buffers[buffer])

    def describe(*_: Any) -> Any:
        found = map(tensor, outputs)
        return tuple(trtp.from_shape_expr(x.shape, getattr(trt, x.dtype)) for x in found)

    def combinations(*_: Any) -> Any:
        types = ", ".join(TYPE_NAMES[tensor(buffer).dtype] for buffer in (*inputs, *outputs))
        return [trtp.AutoTuneCombination(types, "LINEAR", [TACTIC])]

    def implement(*_: Any) -> Any:
        prepared = _prepared[spec]
        kernel = prepared.kernels[operator.name]
        x, y, z = prepared.chain.operators[operator.name].launch.grid
        launch = trtp.KernelLaunchParams(
            grid_x=x, grid_y=y, grid_z=z, block_x=kernel.threads, shared_mem=kernel.shared_bytes
        )
        return kernel.entry, kernel.ptx, launch, trtp.SymIntExprs(0)

    several: Any = tuple[(trtp.TensorDesc,) * len(outputs)]  # type: ignore[misc]
    made = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    given = {f"input_{buffer}": trtp.TensorDesc for buffer in inputs}
    both = {**given, "outputs": several}
    trtp.register(identifier)(_signed(describe, given, several))
    trtp.autotune(identifier)(_signed(combinations, both, list[trtp.AutoTuneCombination]))
    trtp.aot_impl(identifier)(_signed(implement, {**both, "tactic": int}, made))


def _signed(function: Callable[..., Any], parameters: dict[str, Any], returned: Any) -> Any:
    """`function` with the signature that TensorRT reads: it depends on the operator."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=parameters[name]) for name in parameters],
        return_annotation=returned,
    )
    return function
