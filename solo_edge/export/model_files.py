"""The files of an engine folder beside its manifest: what the backend loads."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from solo_edge.config import PostprocessConfig
from solo_edge.errors import UsageError
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.manifest import (
    MODEL_FILES,
    Backend,
    Graph,
    Measurement,
    Precision,
    Quantization,
)

if TYPE_CHECKING:
    from solo_edge.calibration.ranges import Ranges
    from solo_edge.checkpoint import Checkpoint
    from solo_edge.export.int8 import Int8Build, Verdict
    from solo_edge.export.tensorrt_progress import Progress

__all__ = ["Accept", "ModelRequest", "check_topk", "write_graph", "write_model_files"]

Accept = Callable[["Int8Build"], "Verdict"]
TENSORRT_MAX_TOPK = 3840  # the largest K of its TopK layer


@dataclass(frozen=True)
class ModelRequest:
    """What to make of a checkpoint."""

    backend: Backend
    precision: Precision
    graph: Graph
    config: PostprocessConfig
    batch: int = 1  # images for each run
    ranges: Path | None = None  # of int8
    accept: Accept | None = None  # decides which layers of an INT8 engine stay in float
    tensorrt: TensorRTOptions | None = None
    report: Callable[[str], None] = lambda line: None
    progress: Progress | None = None


def write_model_files(
    folder: Path, scratch: Path, checkpoint_file: Path, loaded: Checkpoint, request: ModelRequest
) -> tuple[Quantization | None, Measurement | None]:
    """Write what the backend loads into `folder`.

    Args:
        scratch: a folder for files on the way.
        checkpoint_file: that `loaded` was read from; ranges name it.

    Returns:
        For the manifest: how INT8 came about and what it reached.

    Raises:
        As `solo_edge.export.build.build_engine`.
    """
    path = folder / MODEL_FILES[request.backend]
    if request.backend == "torch":
        from solo_edge.checkpoint import save_checkpoint

        save_checkpoint(path, loaded)
        return None, None
    with_plugins = _wants_plugins(request)
    if request.backend != "tensorrt":
        return write_graph(path, scratch, checkpoint_file, loaded, request)
    finished = scratch / "finished.onnx"
    known = write_graph(
        finished, scratch, checkpoint_file, loaded, request, with_plugins=with_plugins
    )
    if with_plugins:
        _add_plugins(finished, loaded, request)
    _build_plan(finished, path, loaded, request)
    return known


def write_graph(
    path: Path,
    scratch: Path,
    checkpoint_file: Path,
    loaded: Checkpoint,
    request: ModelRequest,
    *,
    with_plugins: bool = False,
) -> tuple[Quantization | None, Measurement | None]:
    """Write the ONNX file that the backend loads or builds from, with types and INT8 pairs in it.

    Args:
        with_plugins: the network alone; plugins follow it.
        Others: as for `write_model_files`, which also says what comes back.
    """
    exported = scratch / "exported.onnx"
    ranges = None
    if request.ranges is not None:  # before the export, which takes its time
        from solo_edge.export.int8 import read_fitting_ranges

        ranges = read_fitting_ranges(request.ranges, checkpoint_file, loaded)
    _export(exported, loaded, request, with_plugins)
    if ranges is not None:
        build = _int8_build(exported, scratch, ranges, loaded, request, with_plugins)
        return _quantise(path, build, request.accept)
    from solo_edge.export.group_norm import suit_file

    suit_file(exported, request.backend, request.precision)
    shutil.move(exported, path)
    return None, None


def _export(path: Path, loaded: Checkpoint, request: ModelRequest, with_plugins: bool) -> None:
    """Types are written into the file for TensorRT alone: OpenVINO computes an fp32 file in bf16."""
    from solo_edge.export.onnx import export_onnx

    types: Precision = "fp32"
    if request.backend == "tensorrt" and request.precision != "fp32":
        types = "fp16"  # of INT8 engines, too, what is not INT8
    export_onnx(
        loaded.model,
        path,
        graph="network" if with_plugins else request.graph,
        precision=types,
        postprocess_config=request.config,
        batch=request.batch,
    )


def _int8_build(
    exported: Path,
    scratch: Path,
    ranges: Ranges,
    loaded: Checkpoint,
    request: ModelRequest,
    with_plugins: bool,
) -> Int8Build:
    from solo_edge.export.int8 import Int8Build, cpu_opener

    # A plan for each candidate would take minutes: what INT8 costs is measured on the CPU.
    runs_on: Backend = "onnxruntime" if request.backend == "tensorrt" else request.backend
    return Int8Build(
        float_file=exported,
        ranges=ranges,
        checkpoint=loaded,
        graph="network" if with_plugins else request.graph,
        config=request.config,
        backend=runs_on,
        open_runner=cpu_opener(runs_on),
        folder=scratch,
    )


def _quantise(
    path: Path, build: Int8Build, accept: Accept | None
) -> tuple[Quantization, Measurement | None]:
    """Write the INT8 graph; what is known about it."""
    verdict = None if accept is None else accept(build)
    excluded = build.ranges.excluded if verdict is None else verdict.excluded
    build.write(path, excluded)
    quantization = Quantization(
        method=build.ranges.method,
        images=len(build.ranges.images),
        images_sha256=build.ranges.images_digest,
        excluded=excluded,
        float_share=build.float_share(excluded),
        float_ap=None if verdict is None else verdict.float_ap,
        mask_iou=None if verdict is None else verdict.mask_iou,
    )
    if verdict is None:
        return quantization, None
    return quantization, Measurement(verdict.data, verdict.split, verdict.int8_ap, verdict.images)


def _wants_plugins(request: ModelRequest) -> bool:
    """Whether the post-processing becomes plugins; says why not where they were asked for."""
    if request.backend != "tensorrt":
        return False
    wanted = request.tensorrt is not None and request.tensorrt.plugins
    if wanted and request.graph != "full":
        raise UsageError("plugins are for the graph full", fix="add --graph full")
    if wanted:
        from solo_edge.export.tensorrt_plugins import why_unsupported
        from solo_edge.runtime.tensorrt_runner import import_tensorrt

        reason = why_unsupported(import_tensorrt())
        if reason is None:
            return True
        request.report(f"standard operators instead of plugins: {reason}")
    check_topk(request)
    return False


def check_topk(request: ModelRequest) -> None:
    """Raise UsageError if a full graph has more candidates than TensorRT's layer sorts."""
    largest = request.config.max_candidates
    if request.graph == "full" and largest > TENSORRT_MAX_TOPK:
        what = f"max_candidates is {largest}, TensorRT takes {TENSORRT_MAX_TOPK}"
        raise UsageError(what, fix="lower --max-candidates, or use --graph network")


def _add_plugins(path: Path, loaded: Checkpoint, request: ModelRequest) -> None:
    from solo_edge.export.plugins import write_plugin_graph
    from solo_edge.export.tensorrt_plugins import plugin_target, register_plugins
    from solo_edge.kernels.tiles import load_tiles
    from solo_edge.runtime.cuda_driver import open_cuda
    from solo_edge.runtime.tensorrt_runner import import_tensorrt

    spec = write_plugin_graph(path, path, loaded.config, request.config, batch=request.batch)
    driver = open_cuda()
    driver.close()
    target = plugin_target(driver.compute_capability)
    register_plugins(import_tensorrt(), spec, target, tiles=load_tiles(driver.device_name))


def _build_plan(onnx_path: Path, path: Path, loaded: Checkpoint, request: ModelRequest) -> None:
    """The plan, and with the graph "network" the kernels that go before and after it."""
    from solo_edge.export.tensorrt_builder import build_plan

    build_plan(onnx_path, path, request.tensorrt, progress=request.progress)
    if request.graph == "full":
        return
    if request.batch > 1:
        request.report("batch above 1: frames are prepared and finished on the CPU")
        return
    if importlib.util.find_spec("triton") is None:
        request.report(
            "Triton is not installed here: frames are prepared and finished on the CPU"
            " (pip install triton, then build again)"
        )
        return
    from solo_edge.export.device_files import write_kernels
    from solo_edge.kernels.aot_targets import target_for
    from solo_edge.runtime.cuda_driver import open_cuda

    driver = open_cuda()
    driver.close()
    target = target_for(driver.compute_capability)
    write_kernels(path.parent, loaded.config, request.config, target, report=request.report)
