"""From a checkpoint to an engine folder that was run once and agrees with the model."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import solo_edge
from solo_edge import environment
from solo_edge.config import PostprocessConfig, from_dict
from solo_edge.errors import ResourceError, SoloEdgeError, UsageError, did_you_mean
from solo_edge.export.model_files import Accept, ModelRequest, write_model_files
from solo_edge.files import sha256_of
from solo_edge.manifest import (
    MAX_BATCH,
    SCHEMA,
    Backend,
    Graph,
    Manifest,
    Precision,
    describe_tensors,
    engine_folder,
    grids_of,
    record_files,
    write_manifest,
)

if TYPE_CHECKING:
    from solo_edge.checkpoint import Checkpoint
    from solo_edge.export.self_check import Agreement
    from solo_edge.export.tensorrt_options import TensorRTOptions
    from solo_edge.export.tensorrt_progress import Progress

__all__ = [
    "AUTO_ORDER",
    "PRECISIONS",
    "BuildReport",
    "build_engine",
    "check_precision",
    "check_ranges",
    "choose_backend",
    "describe",
    "describe_machine",
    "one_of",
]

# What "auto" tries, fastest first. PyTorch is taken for a GPU only: on a CPU the other two are faster.
AUTO_ORDER: tuple[Backend, ...] = ("tensorrt", "torch", "openvino", "onnxruntime")
PRECISIONS: dict[Backend, tuple[Precision, ...]] = {
    "tensorrt": ("fp32", "fp16", "int8"),
    "torch": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
}


@dataclass(frozen=True)
class BuildReport:
    """What was built and why; usable as the path of the engine folder."""

    path: Path
    backend: Backend
    reason: str  # why this backend
    precision: Precision
    graph: Graph
    agreement: Agreement  # with the PyTorch model, on a test image
    seconds: float

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)


def build_engine(
    checkpoint: str | Path,
    out: str | Path,
    *,
    backend: str = "auto",
    precision: str = "fp32",
    graph: str = "network",
    batch: int = 1,
    ranges: str | Path | None = None,
    accept: Accept | None = None,
    tensorrt: TensorRTOptions | None = None,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    **thresholds: Any,
) -> BuildReport:
    """Build the engine folder `out` for this machine.

    The engine is loaded and run on a test image before it takes its name; if it disagrees with the
    PyTorch model, nothing is left of it, and an older engine stays.

    Args:
        checkpoint: a `.safetensors` file or the folder of a training run.
        out: the folder to write, NAME.engine. An engine there is replaced, anything else is refused.
        backend: one of `AUTO_ORDER`, or "auto": the first of them that works here.
        precision: "fp32", "fp16", "bf16" or "int8"; `PRECISIONS` says which backend has which.
        graph: "network", with post-processing outside, or "full", with all of it in the graph.
        batch: images that go through the network at once, one for each camera that shares the engine.
        ranges: for int8, a file of `solo-edge calibrate`.
        accept: for int8, decides which layers stay in float, or raises; without it, those that the
            ranges exclude do.
        tensorrt: how TensorRT builds; only together with `backend="tensorrt"`.
        report: is called with one line about each decision and result.
        progress: is called with (stage, done, total) while TensorRT builds.
        thresholds: fields of `PostprocessConfig`, stored in the engine; built into a full graph.

    Raises:
        UsageError: an unknown or impossible choice, nothing at `checkpoint`, or `out` is not an engine.
        ArtifactError: the checkpoint is damaged, a backend refuses the graph, or the engine disagrees
            with the model.
        ResourceError: the backend or the precision does not work on this machine.
    """
    started = time.perf_counter()
    checkpoint, out = Path(checkpoint), Path(out)
    say = report or (lambda line: None)
    config = from_dict(PostprocessConfig, thresholds)
    wanted: Graph = one_of("graph", graph, get_args(Graph))
    kind: Precision = one_of("precision", precision, get_args(Precision))
    if one_of("backend", backend, ("auto", *AUTO_ORDER)) != "auto":
        check_precision(backend, kind)
    if not 1 <= batch <= MAX_BATCH:
        raise UsageError(f"batch must be from 1 to {MAX_BATCH}, got {batch}", fix="change it")
    if tensorrt is not None:
        if backend != "tensorrt":
            what = f"the backend is {backend}, and TensorRT's options were given"
            raise UsageError(what, fix="use --backend tensorrt")
        tensorrt.require_runnable()
    check_ranges(kind, ranges)
    if backend == "tensorrt":
        _require_working("tensorrt", kind)
    with engine_folder(out) as folder, tempfile.TemporaryDirectory(prefix="build-") as scratch:
        # Only now: loading PyTorch takes seconds, which a mistyped option need not wait for.
        from solo_edge.checkpoint import find_checkpoint
        from solo_edge.export.self_check import check_frames, check_runner
        from solo_edge.runtime.engine import load_engine
        from solo_edge.runtime.torch_runner import open_checkpoint

        loaded = open_checkpoint(checkpoint)
        chosen, reason = choose_backend(
            backend, kind, deformable=loaded.config.conv == "deformable"
        )
        say(f"backend {chosen}: {reason}")
        request = ModelRequest(
            backend=chosen,
            precision=kind,
            graph=wanted,
            config=config,
            batch=batch,
            ranges=None if ranges is None else Path(ranges),
            accept=accept,
            tensorrt=tensorrt,
            report=say,
            progress=progress,
        )
        file = find_checkpoint(checkpoint)
        quantization, measured = write_model_files(folder, Path(scratch), file, loaded, request)
        manifest = dataclasses.replace(
            describe(
                out.name.removesuffix(".engine"),
                file,
                loaded,
                request,
                versions=_versions(chosen),
                machine=describe_machine(chosen),
            ),
            quantization=quantization,
            measured=measured,
            files=record_files(folder),
        )
        write_manifest(folder, manifest)
        with load_engine(folder) as engine:
            agreement = check_runner(engine.runner, loaded.model, kind, config, out)
            on_device = check_frames(engine, out)
        say(f"self-check: {agreement}")
        if on_device is not None:
            say(f"self-check: {on_device} instances found by the device's kernels as by the host's")
        if agreement.instances == 0:
            say(
                "self-check: the model finds nothing in the test images; only the shapes were compared"
            )
    return BuildReport(out, chosen, reason, kind, wanted, agreement, time.perf_counter() - started)


def choose_backend(
    backend: str, precision: Precision, *, deformable: bool = False
) -> tuple[Backend, str]:
    """The backend to build for, and why.

    Args:
        backend: one of `AUTO_ORDER` or "auto".
        deformable: the network has deformable convolutions, which only PyTorch runs.

    Raises:
        UsageError: the backend has no such precision. ResourceError: it does not work here, or none does.
    """
    if backend != "auto":
        chosen: Backend = one_of("backend", backend, AUTO_ORDER)
        check_precision(chosen, precision)
        _require_working(chosen, precision)
        return chosen, "as asked for"
    if deformable:
        _require_working("torch", precision)
        return "torch", "only PyTorch runs deformable convolutions"
    refused = []
    for candidate in AUTO_ORDER:
        try:
            if precision not in PRECISIONS[candidate]:
                raise ResourceError(f"no {precision}")
            _require_working(candidate, precision, for_auto=True)
        except SoloEdgeError as error:
            refused.append(f"{candidate}: {error.what}")
            continue
        why = f" ({'; '.join(refused)})" if refused else ""
        return candidate, f"the first that works here{why}"
    what = f"no backend works here with precision {precision} ({'; '.join(refused)})"
    raise ResourceError(what, fix="pip install openvino, or use --precision fp32")


def check_ranges(precision: Precision, ranges: str | Path | None) -> None:
    """Raise UsageError unless there are ranges just where they are needed."""
    if (precision == "int8") != (ranges is not None):
        what = "int8 needs the ranges of a calibration, and nothing else does"
        raise UsageError(what, fix="use --precision int8 together with --calib")


def check_precision(backend: str, precision: Precision) -> None:
    """Raise UsageError unless there are such engines."""
    known = PRECISIONS[one_of("backend", backend, AUTO_ORDER)]
    if precision not in known:
        fix = f"{backend} engines can be {' or '.join(known)}"
        raise UsageError(f"{backend} engines have no precision {precision!r}", fix=fix)


def _require_working(backend: Backend, precision: Precision, *, for_auto: bool = False) -> None:
    """Raise ResourceError unless an engine of this kind could run on this machine."""
    if backend == "tensorrt":
        from solo_edge.runtime.cuda_driver import open_cuda
        from solo_edge.runtime.tensorrt_runner import import_tensorrt

        import_tensorrt()
        open_cuda().close()
    elif backend == "torch":
        from solo_edge.runtime.torch_runner import cuda_works

        if (for_auto or precision == "fp16") and not cuda_works():
            raise ResourceError("there is no CUDA GPU", fix="use --precision fp32 or bf16")
    elif backend == "openvino":
        from solo_edge.runtime.openvino_runner import supports_bfloat16

        # Asked in every case: it also says whether OpenVINO can be loaded.
        if not supports_bfloat16() and precision == "bf16":
            fix = "use --precision fp32"
            raise ResourceError("this CPU has no bf16 instructions", fix=fix)
    else:
        try:
            import onnxruntime  # noqa: F401  (whether it can be loaded)
        except ImportError as error:
            fix = environment.INSTALL["onnxruntime"]
            raise ResourceError("ONNX Runtime is not installed", fix=fix) from error


def describe(
    name: str,
    checkpoint_file: Path,
    loaded: Checkpoint,
    request: ModelRequest,
    *,
    versions: dict[str, str],
    machine: dict[str, str],
) -> Manifest:
    """The manifest of an engine of that name, but for its files and what was measured."""
    graph, config = request.graph, request.config
    inputs, outputs = describe_tensors(loaded.config, graph, config, request.batch)
    return Manifest(
        schema=SCHEMA,
        name=name,
        backend=request.backend,
        precision=request.precision,
        graph=graph,
        class_names=loaded.class_names,
        category_ids=loaded.category_ids,
        preprocess=loaded.preprocess,
        preprocess_digest=loaded.preprocess.digest,
        postprocess=config,
        model=loaded.config,
        grids=grids_of(loaded.config),
        inputs=inputs,
        outputs=outputs,
        versions=versions,
        machine=machine,
        checkpoint_sha256=sha256_of(checkpoint_file),
        measured=None,
        files={},
        batch=request.batch,
    )


def _versions(backend: Backend) -> dict[str, str]:
    names = ["torch"] if backend == "torch" else ["torch", "onnx", "onnxscript"]
    found = {"solo-edge": solo_edge.__version__}
    if backend == "tensorrt":
        from solo_edge.runtime.tensorrt_runner import import_tensorrt

        # Of the module itself: what JetPack installs is not always known to Python's packaging.
        found["tensorrt"] = import_tensorrt().__version__
    elif backend != "torch":
        names.append(backend)
    return found | {name: importlib.metadata.version(name) for name in names}


def describe_machine(backend: Backend | None) -> dict[str, str]:
    """This machine as far as it matters for engines of `backend`; without one, the processor alone."""
    machine = {"architecture": platform.machine(), "cpu": environment.cpu_model()}
    if backend == "tensorrt":
        from solo_edge.runtime.cuda_driver import open_cuda

        driver = open_cuda()
        driver.close()
        machine["gpu"], machine["compute_capability"] = (
            driver.device_name,
            driver.compute_capability,
        )
    elif backend == "torch":
        import torch

        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
            machine["compute_capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
    return machine


def one_of(what: str, value: str, known: tuple[str, ...]) -> Any:
    """`value`, or a UsageError that names the nearest known one."""
    if value not in known:
        raise UsageError(f"unknown {what} {value!r}", fix=did_you_mean(value, known))
    return value
