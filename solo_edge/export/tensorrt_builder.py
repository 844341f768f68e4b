"""From an ONNX file to a TensorRT plan: one way for TensorRT 10.3 to 11.4.

The network is strongly typed: precision is what the types in the ONNX file say, and no builder flag
changes it. Only names that exist in every one of these versions are used; what a version may lack is
asked for with `hasattr`, so nothing here compares version numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from solo_edge.errors import ArtifactError, ResourceError, SoloEdgeError, UsageError
from solo_edge.export.tensorrt_cache import BuildCache, TimingCacheFile
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.export.tensorrt_parser import parse_onnx
from solo_edge.export.tensorrt_progress import (
    BuildProgress,
    Progress,
    interruptible,
    make_monitor,
)
from solo_edge.files import atomic_file
from solo_edge.runtime.tensorrt_runner import import_tensorrt, make_logger

__all__ = ["build_plan", "serialize_network"]

log = logging.getLogger(__name__)


def build_plan(
    onnx_path: Path,
    plan_path: Path,
    options: TensorRTOptions | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Build the plan of an ONNX file for the GPU of this machine; takes minutes.

    A plan that was built before from the same file and options, by this TensorRT on this GPU, is
    taken from the cache; if another process is building it, this one waits and takes that. Ctrl-C
    stops at the builder's next step.

    Args:
        onnx_path: a file of `solo_edge.export.onnx.export_onnx`, of any batch. Every size is fixed.
        plan_path: written atomically; `trtexec --loadEngine` reads it too.
        progress: is called with (stage, done, total) as the build goes on.

    Raises:
        UsageError: this TensorRT or GPU does not have what an option asks for.
        ResourceError: TensorRT or a GPU is missing, or memory is short.
        ArtifactError: TensorRT refuses the graph; the message names the node.
    """
    from solo_edge.runtime.cuda_driver import open_cuda

    options = options or TensorRTOptions()
    trt = import_tensorrt()
    # Opened first for its clear message where there is no GPU; TensorRT has none.
    with open_cuda() as driver, driver.active():
        machine = (trt.__version__, driver.device_name, driver.compute_capability)
        files = BuildCache(options.cache_path, *machine)
        timings = files.timings if options.timing_cache and files.open() else None

        def build() -> bytes:
            return serialize_network(trt, onnx_path, options, timings=timings, progress=progress)

        # Kernels of plugins are in no file that a plan could be recognised by.
        shared = timings is not None and not options.plugins
        plan = files.plan(onnx_path, options, build) if shared else build()
    with atomic_file(plan_path) as temporary:
        temporary.write_bytes(plan)


def serialize_network(
    trt: Any,
    onnx_path: Path,
    options: TensorRTOptions | None = None,
    *,
    timings: TimingCacheFile | None = None,
    progress: Progress | None = None,
    configure: Callable[[Any], None] | None = None,
) -> bytes:
    """The plan of an ONNX file, always built anew.

    Args:
        trt: the module `tensorrt`, or `tensorrt_rtx_bindings`, which has the same names.
        timings: measurements of earlier builds, used and extended.
        configure: is given the builder configuration last.
        Others: as for `build_plan`.

    Raises:
        As `build_plan`.
    """
    options = options or TensorRTOptions()
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a constructor that gave nothing
        what = f"TensorRT cannot start ({logger.last_error or error})"
        raise ResourceError(what, fix="check NVIDIA's driver and the GPU") from error
    network, _parser = parse_onnx(trt, builder, logger, onnx_path)
    config = builder.create_builder_config()
    _set_options(trt, config, options)
    if options.dla_core >= 0:
        _use_dla(trt, builder, network, config, options.dla_core)
    cache = None if timings is None else timings.load(config)
    if configure is not None:
        configure(config)
    reporter = BuildProgress(progress)
    monitor = make_monitor(trt, reporter)  # TensorRT does not keep it alive
    config.progress_monitor = monitor
    try:
        with interruptible(reporter):
            plan = builder.build_serialized_network(network, config)
    finally:
        if timings is not None:  # worth keeping, too, when the build was stopped
            timings.save(config, cache)
    reporter.raise_failure()
    if plan is None:
        raise _explain_failure(f"TensorRT {trt.__version__}", onnx_path, logger.last_error)
    return bytes(plan)


def _set_options(trt: Any, config: Any, options: TensorRTOptions) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.builder_optimization_level = options.optimization_level
    if options.aux_streams >= 0:
        config.max_aux_streams = options.aux_streams
    verbosities = {
        "none": trt.ProfilingVerbosity.NONE,
        "layer_names_only": trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
        "detailed": trt.ProfilingVerbosity.DETAILED,
    }
    config.profiling_verbosity = verbosities[options.profiling_verbosity]
    # On by default, it would multiply float32 with 10 bits of precision; fp16 graphs never need it.
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    flags = {
        trt.BuilderFlag.DISABLE_TIMING_CACHE: not options.timing_cache,
        trt.BuilderFlag.SPARSE_WEIGHTS: options.sparsity,
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
        trt.BuilderFlag.STRIP_PLAN: options.strip_weights,
        trt.BuilderFlag.REFIT: options.refit,
    }
    for flag, wanted in flags.items():
        if wanted:
            config.set_flag(flag)
    if options.hardware_compatible == "ampere_plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif options.hardware_compatible == "same_compute_capability":
        if not hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"):
            what = f"TensorRT {trt.__version__} cannot build for all GPUs of one compute capability"
            raise UsageError(what, fix="leave hardware_compatible out, or take ampere_plus")
        level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        config.hardware_compatibility_level = level


def _use_dla(trt: Any, builder: Any, network: Any, config: Any, core: int) -> None:
    """Run on a deep learning accelerator what can run there, and the rest on the GPU.

    Experimental: it was never run on one. An accelerator computes fp16 and int8 only, and neither group
    norm nor the post-processing.
    """
    if core >= builder.num_DLA_cores:
        have = f"{builder.num_DLA_cores} deep learning accelerators (DLA)"
        what = f"TensorRT {trt.__version__} finds {have} here, and core {core} was asked for"
        fix = (
            "leave dla_core out; DLA needs a Jetson AGX or NX, with TensorRT 10.3 to 10.7, or an"
            " AGX Orin with 11.4.1"
        )
        raise UsageError(what, fix=fix)
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    count = network.num_layers
    able = sum(config.can_run_on_DLA(network.get_layer(i)) for i in range(count))
    if able == 0:
        what = "no layer of this graph can run on a deep learning accelerator"
        raise UsageError(what, fix="leave dla_core out, or build with precision fp16 or int8")
    log.info("DLA core %d takes %d of %d layers, the GPU the others", core, able, count)


# What TensorRT logs when a build fails -> what helps. Whether it is memory or the graph is in the first.
_MEMORY = ("OutOfMemory", "out of memory", "cudaErrorMemoryAllocation", "Requested size was")
_ADVICE = {
    "Could not find any implementation": "raise workspace_mib, or optimization_level",
    "K exceeds the maximum value": "lower max_candidates, or use the graph network",
    "libnvinfer_lean": "install TensorRT's lean runtime, or leave version_compatible out",
}


def _explain_failure(version: str, onnx_path: Path, message: str) -> SoloEdgeError:
    what = f"{version} cannot build this graph ({message or 'it does not say why'})"
    if any(sign in message for sign in _MEMORY):
        fix = "close other programs on the GPU, or lower workspace_mib"
        return ResourceError(what, where=onnx_path, fix=fix)
    fixes = [fix for sign, fix in _ADVICE.items() if sign in message]
    return ArtifactError(what, where=onnx_path, fix=(fixes or ["see the log with --debug"])[0])
