"""TensorRT's ONNX parser, with errors that name the node and say what helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from solo_edge.errors import ArtifactError

__all__ = ["parse_onnx"]

PROBLEMS_SHOWN = 3
OTHER_BACKEND = "choose another backend with --backend"

# What the parser says -> what helps. The texts are those of 10.x to 11.4; the first that occurs counts.
_ADVICE = {
    "Failed to parse the ONNX model": "the file is cut off or no ONNX file; export it again",
    "Failed to import initializer": "export it again with all weights inside the file",
    "Plugin not found": f"TensorRT has no such operator, nor a plugin for it; {OTHER_BACKEND}",
    "not found in plugin registry": f"a plugin library is not loaded; {OTHER_BACKEND}",
    "has type Int32 but must have type": "quantise without biases, as solo-edge calibrate does",
    "Non-zero zero point": "quantise symmetrically, as solo-edge calibrate does",
    "must have same input types": "export it again; types are taken as they stand in the file",
}


def parse_onnx(trt: Any, builder: Any, logger: Any, path: Path) -> tuple[Any, Any]:
    """The strongly typed `INetworkDefinition` of an ONNX file whose sizes are all fixed, and its parser.

    The parser owns the weights: it must live until the network is built.

    Raises:
        ArtifactError: TensorRT cannot read the graph, or a size in it is open.
    """
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # GroupNorm as TensorRT's own layer instead of a plugin that the device would have to load.
    parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse(path.read_bytes()):
        problems = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
        text = "; ".join(problems[:PROBLEMS_SHOWN]) or logger.last_error
        hidden = len(problems) - PROBLEMS_SHOWN
        more = f"; and {hidden} more" if hidden > 0 else ""
        what = f"TensorRT {trt.__version__} cannot read this graph: {text}{more}"
        raise ArtifactError(what, where=path, fix=_advice("; ".join(problems)))
    _require_fixed_sizes(network, path)
    return network, parser


def _require_fixed_sizes(network: Any, path: Path) -> None:
    """Refuse open sizes.

    Our graphs hold their batch in the constants of reshapes: with the first size of the input left
    open, TensorRT would take any batch, and compute the first image alone without a word.
    """
    if network.num_outputs == 0:
        raise ArtifactError("the graph has no output", where=path, fix="export it again")
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if min(tensor.shape, default=1) < 0:
            what = f"input {tensor.name!r} has the open shape {list(tensor.shape)}"
            fix = "export it for a fixed batch (export_onnx has the argument batch)"
            raise ArtifactError(what, where=path, fix=fix)


def _describe(problem: Any) -> str:
    lines = [line for line in str(problem.desc()).splitlines() if line.strip()]
    # "Invalid Node - name" comes before what is wrong with it.
    detail = next(
        (line for line in lines if not line.startswith("Invalid Node")), "it says no more"
    )
    if problem.node() < 0:  # not about a node, but the file
        return detail
    node = problem.node_name() or f"number {problem.node()}"
    return f"node {node} ({problem.node_operator()}): {detail}"


def _advice(text: str) -> str:
    return next((fix for sign, fix in _ADVICE.items() if sign in text), OTHER_BACKEND)
