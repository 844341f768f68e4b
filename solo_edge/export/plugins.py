"""The `full` graph with our own operators: the network, then one node for each launch of the kernels.

Only TensorRT reads such a file, and only where `tensorrt_plugins` has told it the operators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from solo_edge.config import ModelConfig, PostprocessConfig
from solo_edge.errors import ArtifactError
from solo_edge.export.plugins_chain import PluginSpec, make_chain, plugin_spec
from solo_edge.files import atomic_file
from solo_edge.manifest import OUTPUTS, cell_strides, describe_tensors

__all__ = ["NAMESPACE", "VERSION", "write_plugin_graph"]

NAMESPACE = "solo_edge"  # the nodes' domain, and the plugins' namespace
VERSION = "1"  # what TensorRT gives to every quickly deployable plugin

# Tensors of the file: buffer of the plan -> name. The others get a prefix, since the exporter's
# names are not known here.
NAMES = {
    **{name: name for name in OUTPUTS["network"]},
    "instance_scores": "scores",
    "probabilities": "masks",
}
CASTS = {"instance_labels": "labels", "instance_count": "valid_count"}  # int32 to int64


def write_plugin_graph(
    network_path: Path,
    out_path: Path,
    model: ModelConfig,
    config: PostprocessConfig,
    *,
    batch: int = 1,
) -> PluginSpec:
    """Write the network of an ONNX file followed by post-processing in our operators.

    Inputs and outputs are those of the graph `full`. Mask kernels and features that the network has in
    half precision go into the post-processing as they are.

    Args:
        network_path: graph `network` of `solo_edge.export.onnx.export_onnx`, fp32 or fp16.
        out_path: written atomically; may be the same.
        model: what `network_path` was exported from.
        config: thresholds, which become part of the file.
        batch: images for each run, as exported.

    Returns:
        What `solo_edge.export.tensorrt_plugins.register_plugins` needs to make the operators.

    Raises:
        ArtifactError: `network_path` is not the graph `network` of `model`.
        UsageError: more candidates or instances than the kernels can sort.
    """
    import onnx

    proto = onnx.load(network_path)
    _require_network(proto, model, config, batch, network_path)
    cast = _cast_from_half(proto)
    dtype = "float32" if cast is None else "float16"
    spec = plugin_spec(model, config, dtype=dtype, batch=batch)
    names = {**NAMES, **({} if cast is None else _stay_half(proto.graph, cast))}
    _append_nodes(proto.graph, spec, names)
    _set_strides(proto.graph, model)
    _set_outputs(proto.graph, model, config, batch)
    proto.opset_import.append(onnx.helper.make_opsetid(NAMESPACE, int(VERSION)))
    onnx.checker.check_model(proto)
    with atomic_file(out_path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return spec


def _require_network(
    proto: Any, model: ModelConfig, config: PostprocessConfig, batch: int, path: Path
) -> None:
    """Raise ArtifactError unless the outputs are those of the network, in names and shapes."""
    _, outputs = describe_tensors(model, "network", config, batch)
    found = [
        (value.name, tuple(d.dim_value for d in value.type.tensor_type.shape.dim))
        for value in proto.graph.output
    ]
    if found != [(spec.name, spec.shape) for spec in outputs]:
        what = f"this is not the graph 'network' of {model.name}: its outputs are {found}"
        raise ArtifactError(what, where=path, fix="export it again")


def _cast_from_half(proto: Any) -> Any:
    """The node that makes the mask features float32 from half, if there is one."""
    import onnx

    source = next((node for node in proto.graph.node if "mask_features" in node.output), None)
    if source is None or source.op_type != "Cast":
        return None
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in inferred}
    return source if types.get(source.input[0]) == onnx.TensorProto.FLOAT16 else None


def _stay_half(graph: Any, cast: Any) -> dict[str, str]:
    """Names of mask features and mask kernels in half: without the cast, and with one back."""
    import onnx

    graph.node.remove(cast)
    name, kind = _prefixed("mask_kernels"), onnx.TensorProto.FLOAT16
    graph.node.append(onnx.helper.make_node("Cast", ["mask_kernels"], [name], name=name, to=kind))
    return {"mask_kernels": name, "mask_features": cast.input[0]}


def _append_nodes(graph: Any, spec: PluginSpec, names: dict[str, str]) -> None:
    import onnx

    def tensors(buffers: tuple[str, ...]) -> list[str]:
        return [names.get(buffer, _prefixed(buffer)) for buffer in buffers]

    for operator in make_chain(spec).operators.values():
        name = _prefixed(operator.launch.kernel.removesuffix("_kernel"))
        graph.node.append(
            onnx.helper.make_node(
                operator.name,
                tensors(operator.inputs),
                tensors(operator.outputs),
                name=name,
                domain=NAMESPACE,
                # The parser looks into the domain from TensorRT 10.10 on, and here in 10.9.
                plugin_namespace=NAMESPACE,
                plugin_version=VERSION,
                aot=1,
                spec=spec.to_text(),  # for people and tools; TensorRT does not look at it
            )
        )
    for buffer, name in CASTS.items():
        kind = onnx.TensorProto.INT64
        graph.node.append(
            onnx.helper.make_node("Cast", tensors((buffer,)), [name], name=name, to=kind)
        )


def _set_strides(graph: Any, model: ModelConfig) -> None:
    """The one constant that the post-processing needs."""
    import onnx

    strides = cell_strides(model)
    graph.initializer.append(onnx.numpy_helper.from_array(strides, _prefixed("cell_strides")))


def _set_outputs(graph: Any, model: ModelConfig, config: PostprocessConfig, batch: int) -> None:
    import onnx

    _, outputs = describe_tensors(model, "full", config, batch)
    del graph.output[:]
    for spec in outputs:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
        graph.output.append(onnx.helper.make_tensor_value_info(spec.name, kind, spec.shape))


def _prefixed(name: str) -> str:
    return f"postprocess/{name}"
