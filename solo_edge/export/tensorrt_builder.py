"""From an ONNX file to a TensorRT plan: one way for TensorRT 10.3 to 11.4.

The network is strongly typed: precision is what the types in the ONNX file say, and no builder flag
changes it. Only names that exist in every one of these versions are used, so nothing here asks for
the version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.files import atomic_file
from solo_edge.runtime.tensorrt_runner import import_tensorrt, make_logger

__all__ = ["WORKSPACE_BYTES", "build_plan", "serialize_network"]

log = logging.getLogger(__name__)

WORKSPACE_BYTES = 1 << 30  # what a convolution may use beside its inputs and outputs while it runs


def build_plan(
    onnx_path: Path,
    plan_path: Path,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
    optimization_level: int = 3,
    timing_cache: Path | None = None,
) -> None:
    """Build the plan of an ONNX file for the GPU of this machine; takes minutes.

    Args:
        onnx_path: a file of `solo_edge.export.onnx.export_onnx`.
        plan_path: written atomically; `trtexec --loadEngine` reads it too.
        workspace_bytes: upper limit of scratch memory.
        optimization_level: 0 (quick) to 5 (tries everything); 3 is TensorRT's default.
        timing_cache: file with measurements of earlier builds on this GPU; made or extended.

    Raises:
        ResourceError: TensorRT or a GPU is missing, or memory is short.
        ArtifactError: TensorRT refuses the graph; the message names the node.
    """
    from solo_edge.runtime.cuda_driver import open_cuda

    trt = import_tensorrt()
    # Opened first for its clear message where there is no GPU; TensorRT has none.
    with open_cuda() as driver, driver.active():
        plan = serialize_network(
            trt,
            onnx_path,
            workspace_bytes=workspace_bytes,
            optimization_level=optimization_level,
            timing_cache=timing_cache,
        )
    with atomic_file(plan_path) as temporary:
        temporary.write_bytes(plan)


def serialize_network(
    trt: Any,
    onnx_path: Path,
    *,
    workspace_bytes: int = WORKSPACE_BYTES,
    optimization_level: int = 3,
    timing_cache: Path | None = None,
    configure: Callable[[Any], None] | None = None,
) -> bytes:
    """The plan of an ONNX file.

    Args:
        trt: the module `tensorrt`, or `tensorrt_rtx_bindings`, which has the same names.
        configure: is given the builder configuration last.
        Others: as for `build_plan`.

    Raises:
        As `build_plan`.
    """
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a constructor that gave nothing
        what = f"TensorRT cannot start ({logger.last_error or error})"
        raise ResourceError(what, fix="check NVIDIA's driver and the GPU") from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # GroupNorm as TensorRT's own layer instead of a plugin that the device would have to load.
    parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if not parser.parse(onnx_path.read_bytes()):
        problems = [_describe(parser.get_error(i)) for i in range(parser.num_errors)]
        what = f"TensorRT {trt.__version__} cannot read this graph: {'; '.join(problems[:3])}"
        raise ArtifactError(what, where=onnx_path, fix="choose another backend with --backend")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    config.builder_optimization_level = optimization_level
    # On by default, it would multiply float32 with 10 bits of precision; fp16 graphs never need it.
    config.clear_flag(trt.BuilderFlag.TF32)
    cache = None if timing_cache is None else _load_cache(config, timing_cache)
    if configure is not None:
        configure(config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        what = f"TensorRT {trt.__version__} cannot build this graph ({logger.last_error})"
        raise ArtifactError(what, where=onnx_path, fix="see the log with --debug")
    if cache is not None and timing_cache is not None:
        with atomic_file(timing_cache) as temporary:
            temporary.write_bytes(memoryview(cache.serialize()))
    return bytes(plan)


def _load_cache(config: Any, path: Path) -> Any:
    """The timing cache that is now in use: of `path`, or empty where that is absent or foreign."""
    content = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, False):
        log.warning("%s: timing cache of another TensorRT or GPU; starting a new one", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _describe(problem: Any) -> str:
    if problem.node() < 0:  # not about a node, but the file
        return str(problem.desc())
    node = problem.node_name() or f"number {problem.node()}"
    return f"node {node} ({problem.node_operator()}): {problem.desc()}"
