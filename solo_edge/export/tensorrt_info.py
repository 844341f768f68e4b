"""What is inside a plan: its layers as TensorRT fused them, and how long each of them takes.

Only on the GPU that the plan is for, and only for plans that you built: loading one runs code.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.files import write_json
from solo_edge.manifest import REBUILD
from solo_edge.runtime.cuda_driver import CudaDriver, open_cuda
from solo_edge.runtime.tensorrt_runner import import_tensorrt, make_logger

__all__ = ["write_layers", "write_profile"]


def write_layers(plan_path: Path, out: Path) -> dict[str, Any]:
    """Write and return what TensorRT's engine inspector says, usually as `layers.json`.

    `layers` are objects with formats, tactics and more if the plan was built with the profiling
    verbosity "detailed", names with "layer_names_only"; with "none" there are none.

    Raises:
        ResourceError: TensorRT or a GPU is missing.
        ArtifactError: TensorRT refuses the plan.
    """
    trt = import_tensorrt()
    with open_cuda() as driver, driver.active():
        said = _inspect(trt, plan_path)
    tensors = said.get("I/O Tensors", said.get("Bindings", []))  # the names of 11 and of 10
    facts = {"tensorrt": trt.__version__, "layers": said.get("Layers", []), "tensors": tensors}
    write_json(out, facts)
    return facts


def write_profile(
    plan_path: Path, out: Path, *, runs: int = 100, warm_up: int = 10
) -> dict[str, Any]:
    """Run a plan on zeros, and write and return the time of each layer, usually as `profile.json`.

    Each layer is timed by itself, without the CUDA graph and the overlap of normal runs, so that the
    sum is longer than a run takes.

    Args:
        runs: that are measured; the median counts.
        warm_up: runs before them.

    Raises:
        UsageError: no run to measure.
        ResourceError: TensorRT or a GPU is missing, or memory is short.
        ArtifactError: TensorRT refuses the plan.
    """
    if runs < 1:
        raise UsageError(f"runs is {runs}", where=plan_path, fix="measure at least 1")
    trt = import_tensorrt()
    with open_cuda() as driver, driver.active():
        times = _measure(trt, driver, plan_path, runs, warm_up)
        gpu = driver.device_name
    facts = {"tensorrt": trt.__version__, "gpu": gpu, "runs": runs, **_summary(times)}
    write_json(out, facts)
    return facts


def _inspect(trt: Any, plan_path: Path) -> dict[str, Any]:
    logger = make_logger(trt)
    runtime = trt.Runtime(logger)
    engine = _load(trt, runtime, logger, plan_path)
    inspector = engine.create_engine_inspector()
    said = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    facts: dict[str, Any] = json.loads(said)
    return facts


def _measure(
    trt: Any, driver: CudaDriver, plan_path: Path, runs: int, warm_up: int
) -> dict[str, list[float]]:
    """Milliseconds of each run, by layer. All of TensorRT's objects are gone afterwards."""
    logger = make_logger(trt)
    runtime = trt.Runtime(logger)
    engine = _load(trt, runtime, logger, plan_path)
    context = engine.create_execution_context()
    if context is None:
        what = f"TensorRT cannot set the engine up ({logger.last_error})"
        raise ResourceError(what, where=plan_path, fix="close other programs on the GPU")
    _bind_zeros(trt, driver, engine, context)
    profiler = _make_profiler(trt)
    for run in range(warm_up + runs):
        if run == warm_up:
            context.profiler = profiler
        if not context.execute_async_v3(driver.stream):
            what = f"TensorRT failed to run ({logger.last_error})"
            raise ResourceError(what, where=plan_path, fix="free GPU memory and start again")
        driver.synchronize()
    times: dict[str, list[float]] = profiler.times
    return times


def _load(trt: Any, runtime: Any, logger: Any, plan_path: Path) -> Any:
    engine = runtime.deserialize_cuda_engine(plan_path.read_bytes())
    if engine is None:
        what = f"TensorRT {trt.__version__} refuses this plan ({logger.last_error})"
        raise ArtifactError(what, where=plan_path, fix=f"on this machine, {REBUILD}")
    return engine


def _summary(times: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    total = sum(medians.values())
    layers = [
        {
            "name": name,
            "median_ms": median,
            "lowest_ms": min(times[name]),
            "highest_ms": max(times[name]),
            "share": median / total if total else 0.0,
        }
        for name, median in medians.items()
    ]
    return {"sum_of_medians_ms": total, "layers": layers}


def _bind_zeros(trt: Any, driver: CudaDriver, engine: Any, context: Any) -> None:
    """Give every input and output memory of its own, full of zeros."""
    item_sizes = {
        trt.DataType.FLOAT: 4,
        trt.DataType.HALF: 2,
        trt.DataType.INT64: 8,
        trt.DataType.INT32: 4,
    }
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        size = item_sizes[engine.get_tensor_dtype(name)]
        for length in engine.get_tensor_shape(name):
            size *= length
        address = driver.allocate(size)
        driver.zero(address, size)
        context.set_tensor_address(name, address)


def _make_profiler(trt: Any) -> Any:
    """A `trt.IProfiler` that keeps every time in `times`, in milliseconds by layer."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()
