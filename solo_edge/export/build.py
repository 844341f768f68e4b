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
from solo_edge.errors import ArtifactError, ResourceError, SoloEdgeError, UsageError, did_you_mean
from solo_edge.files import sha256_of
from solo_edge.manifest import (
    MODEL_FILES,
    SCHEMA,
    Backend,
    Graph,
    Manifest,
    Measurement,
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
    from solo_edge.runtime.engine import Engine

__all__ = ["AUTO_ORDER", "PRECISIONS", "BuildReport", "build_engine", "choose_backend"]

# What "auto" tries, fastest first. PyTorch is taken for a GPU only: on a CPU the other two are faster.
AUTO_ORDER: tuple[Backend, ...] = ("tensorrt", "torch", "openvino", "onnxruntime")
PRECISIONS: dict[Backend, tuple[Precision, ...]] = {
    "tensorrt": ("fp32", "fp16"),
    "torch": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
}
Accept = Callable[["Engine", "Engine"], Measurement]  # float engine, INT8 engine -> accuracy
TENSORRT_MAX_TOPK = 3840  # the largest K of its TopK layer


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
    ranges: str | Path | None = None,
    accept: Accept | None = None,
    report: Callable[[str], None] | None = None,
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
        ranges: for int8, a file of `solo-edge calibrate`.
        accept: for int8, is called with the float engine and the INT8 engine before that takes its
            name, and returns the accuracy for the manifest or raises.
        report: is called with one line about each decision and result.
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
    wanted: Graph = _one_of("graph", graph, get_args(Graph))
    kind: Precision = _one_of("precision", precision, get_args(Precision))
    if _one_of("backend", backend, ("auto", *AUTO_ORDER)) != "auto":
        _check_precision(backend, kind)
    if (kind == "int8") != (ranges is not None):
        what = "int8 needs the ranges of a calibration, and nothing else does"
        raise UsageError(what, fix="use --precision int8 together with --calib")
    with engine_folder(out) as folder, tempfile.TemporaryDirectory(prefix="float-") as scratch:
        # Only now: loading PyTorch takes seconds, which a mistyped option need not wait for.
        from solo_edge.export.self_check import check_runner
        from solo_edge.runtime.engine import open_runner
        from solo_edge.runtime.torch_runner import open_checkpoint

        loaded = open_checkpoint(checkpoint)
        chosen, reason = choose_backend(
            backend, kind, deformable=loaded.config.conv == "deformable"
        )
        say(f"backend {chosen}: {reason}")
        if chosen == "tensorrt" and wanted == "full" and config.max_candidates > TENSORRT_MAX_TOPK:
            what = f"max_candidates is {config.max_candidates}, TensorRT takes {TENSORRT_MAX_TOPK}"
            raise UsageError(what, fix="lower --max-candidates, or use --graph network")
        _write_model(folder, loaded, chosen, kind, wanted, config)
        if ranges is not None:
            float_file = Path(scratch, MODEL_FILES[chosen])
            _quantise(folder / MODEL_FILES[chosen], float_file, Path(ranges), checkpoint, loaded)
        manifest = _describe(out, checkpoint, loaded, chosen, kind, wanted, config)
        manifest = dataclasses.replace(manifest, files=record_files(folder))
        write_manifest(folder, manifest)
        with open_runner(folder, manifest, config, None) as runner:
            agreement = check_runner(runner, loaded.model, kind, config, out)
        say(f"self-check: {agreement}")
        if agreement.instances == 0:
            say(
                "self-check: the model finds nothing in the test images; only the shapes were compared"
            )
        if ranges is not None and accept is not None:
            measured = _measure(folder, float_file, manifest, accept)
            write_manifest(folder, dataclasses.replace(manifest, measured=measured))
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
        chosen: Backend = _one_of("backend", backend, AUTO_ORDER)
        _check_precision(chosen, precision)
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


def _check_precision(backend: str, precision: Precision) -> None:
    known = PRECISIONS[_one_of("backend", backend, AUTO_ORDER)]
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


def _write_model(
    folder: Path,
    loaded: Checkpoint,
    backend: Backend,
    precision: Precision,
    graph: Graph,
    config: PostprocessConfig,
) -> None:
    """Write the file that the backend loads."""
    path = folder / MODEL_FILES[backend]
    if backend == "torch":
        from solo_edge.checkpoint import save_checkpoint

        save_checkpoint(path, loaded)
        return
    from solo_edge.export.onnx import export_onnx

    # Types are written into the file for TensorRT alone: OpenVINO computes an fp32 file in bf16.
    types: Precision = precision if backend == "tensorrt" else "fp32"
    onnx_path = folder / "model.onnx"
    export_onnx(loaded.model, onnx_path, graph=graph, precision=types, postprocess_config=config)
    if backend == "tensorrt":
        from solo_edge.export.tensorrt_builder import build_plan

        build_plan(onnx_path, path)
        onnx_path.unlink()


def _quantise(
    path: Path, float_file: Path, ranges: Path, checkpoint: Path, loaded: Checkpoint
) -> None:
    """Keep the file at `path` as `float_file`, and write its INT8 form in its place."""
    import onnx

    from solo_edge.calibration.qdq import insert_pairs, problems
    from solo_edge.calibration.ranges import read_ranges
    from solo_edge.checkpoint import find_checkpoint

    read = read_ranges(ranges)
    digest = sha256_of(find_checkpoint(checkpoint))
    read.require_fit(digest, loaded.preprocess, ranges)
    path.replace(float_file)
    model = insert_pairs(onnx.load(float_file), read.limits, read.excluded)
    if found := problems(model):
        raise ArtifactError(f"the INT8 graph has mistakes ({found[0]})", where=path)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _measure(folder: Path, float_file: Path, manifest: Manifest, accept: Accept) -> Measurement:
    """The accuracy of the INT8 engine in `folder`; raises what `accept` raises."""
    from solo_edge.runtime.engine import load_engine
    from solo_edge.runtime.onnx_runner import OnnxRunner
    from solo_edge.runtime.openvino_runner import OpenVINORunner

    runner = OpenVINORunner if manifest.backend == "openvino" else OnnxRunner
    with load_engine(folder) as small:
        exact = dataclasses.replace(small, precision="fp32", runner=runner(float_file))
        with exact:
            return accept(exact, small)


def _describe(
    out: Path,
    checkpoint: Path,
    loaded: Checkpoint,
    backend: Backend,
    precision: Precision,
    graph: Graph,
    config: PostprocessConfig,
) -> Manifest:
    from solo_edge.checkpoint import find_checkpoint

    inputs, outputs = describe_tensors(loaded.config, graph, config)
    return Manifest(
        schema=SCHEMA,
        name=out.name.removesuffix(".engine"),
        backend=backend,
        precision=precision,
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
        versions=_versions(backend),
        machine=_machine(backend),
        checkpoint_sha256=sha256_of(find_checkpoint(checkpoint)),
        measured=None,
        files={},
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


def _machine(backend: Backend) -> dict[str, str]:
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


def _one_of(what: str, value: str, known: tuple[str, ...]) -> Any:
    if value not in known:
        raise UsageError(f"unknown {what} {value!r}", fix=did_you_mean(value, known))
    return value
