"""ONNX files of the two graphs: static shapes, standard operators, and nothing of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.files import atomic_file
from solo_edge.manifest import Graph, Precision, TensorSpec, describe_tensors

if TYPE_CHECKING:
    from solo_edge.models.solov2 import SOLOv2
    from solo_edge.runtime.graphs import NetworkGraph

__all__ = ["OPSET", "export_onnx"]

# Every reader knows it (TensorRT 10.3, OpenVINO, ONNX Runtime), and GroupNorm becomes
# InstanceNormalization there, which all of them compute in one kernel.
OPSET = 18


def export_onnx(
    model: SOLOv2,
    path: Path,
    *,
    graph: Graph = "network",
    precision: Precision = "fp32",
    postprocess_config: PostprocessConfig | None = None,
    batch: int = 1,
) -> None:
    """Write `model` as an ONNX file with the names and shapes of `solo_edge.manifest.describe_tensors`.

    Args:
        model: is left as it is.
        path: written atomically.
        graph: "network" (to category scores, mask kernels and mask features) or "full" (to instances).
        precision: "fp32", or "fp16": half weights and activations with the types written into the graph, as
            TensorRT's strongly typed networks need it. Inputs and outputs, norm statistics and all
            that follows the network stay in float32.
        postprocess_config: thresholds that are built into the full graph.
        batch: images for each run.

    Raises:
        UsageError: another precision, or a network with operators that this ONNX version has not.
        ResourceError: onnx or onnxscript is not installed.
        ArtifactError: the exported graph breaks its promises (a bug here, or a backbone that needs shapes at
            run time).
    """
    from solo_edge.runtime.graphs import graph_module

    if precision not in ("fp32", "fp16"):
        raise UsageError(f"ONNX files cannot have precision {precision!r}", fix="use fp32 or fp16")
    if model.config.conv == "deformable":
        what = "deformable convolutions have no form in ONNX files of this version"
        raise UsageError(what, where=f"model {model.config.name}", fix="use --backend torch")
    config = postprocess_config or PostprocessConfig()
    module = graph_module(model, graph, precision, config)
    inputs, outputs = describe_tensors(model.config, graph, config, batch)
    _require_exporter()
    from solo_edge.export.coordinates import fold_coordinates

    proto = _trace(module, inputs, outputs)
    _strip(proto)
    fold_coordinates(proto)
    _check(proto, inputs, outputs, path)
    with atomic_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def _require_exporter() -> None:
    try:
        import onnx  # noqa: F401  (asked for by name, to say what is missing)
        import onnxscript  # noqa: F401
    except ImportError as error:
        fix = "pip install 'solo-edge[train]'"
        raise ResourceError(f"exporting needs {error.name}", fix=fix) from error


def _trace(
    module: NetworkGraph, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> Any:
    import torch

    device = next(module.parameters()).device
    example = tuple(torch.zeros(spec.shape, device=device) for spec in inputs)
    with torch.no_grad(), _silenced():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in inputs],
            output_names=[spec.name for spec in outputs],
            external_data=False,
            verbose=False,
            custom_translation_table={torch.ops.aten.div.Tensor_mode: _integer_division()},
        )
    if program is None:
        raise ArtifactError("the exporter returned nothing", fix="report this with --debug")
    return program.model_proto


def _integer_division() -> Any:
    """How to write torch.div(index, cells, rounding_mode="trunc"), the one rounding division in our graphs.

    The exporter's own way is a division of floats, which a GPU may round below the whole number
    that it should be: then a candidate gets another class and a cell that does not exist. ONNX
    divides integers exactly.
    """
    from onnxscript import opset18

    def divide(dividend: Any, divisor: Any, rounding_mode: str | None = None) -> Any:
        assert rounding_mode == "trunc", "only index arithmetic rounds"
        assert dividend.dtype.is_integer(), "only index arithmetic rounds"
        return opset18.Div(dividend, divisor)

    return divide


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without the exporter's progress and advice. What it raises still comes through."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(proto: Any) -> None:
    """Remove what says nothing about the graph: source lines and paths of the machine that exported it."""
    proto.producer_name, proto.producer_version, proto.doc_string = "solo-edge", "", ""
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    proto.graph.doc_string = ""
    for group in (
        proto.graph.node,
        proto.graph.value_info,
        proto.graph.input,
        proto.graph.output,
        proto.graph.initializer,
    ):
        for item in group:
            item.doc_string = ""
            del item.metadata_props[:]


def _check(
    proto: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], path: Path
) -> None:
    """Valid ONNX; the promised inputs and outputs; every size known; operators of the standard alone."""
    import onnx

    def require(ok: bool, what: str) -> None:
        if not ok:
            raise ArtifactError(what, where=path, fix="choose another backbone, or --backend torch")

    try:
        onnx.checker.check_model(proto, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ArtifactError(f"the exported graph is invalid ({error})", where=path) from error
    foreign = {node.domain for node in proto.graph.node} - {"", "ai.onnx"}
    require(not foreign, f"operators of the domain {sorted(foreign)} are not standard")
    require(not proto.functions, "the graph holds functions, which OpenVINO does not read")
    require(
        all(t.data_location == onnx.TensorProto.DEFAULT for t in proto.graph.initializer),
        "weights lie outside the file",
    )
    found = {value.name: value for value in inferred.graph.value_info}
    for value in found.values():
        require(
            -1 not in _spec(value).shape, f"the size of {value.name!r} is known at run time only"
        )
    for node in proto.graph.node:
        for name in node.output:
            known = name in found or any(name == spec.name for spec in outputs)
            require(known or not name, f"nothing is known about the tensor {name!r}")
    actual = tuple(map(_spec, proto.graph.input)), tuple(map(_spec, proto.graph.output))
    require(actual == (inputs, outputs), f"inputs and outputs are not the promised ones: {actual}")


def _spec(value: Any) -> TensorSpec:
    import onnx

    tensor = value.type.tensor_type
    dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
    return TensorSpec(value.name, dtype, tuple(sizes))
