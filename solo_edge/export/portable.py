"""The half of a TensorRT build that needs PyTorch, for a device that has none; `finish` is the other half."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

import solo_edge
from solo_edge.config import PostprocessConfig, from_dict
from solo_edge.errors import UsageError
from solo_edge.export.agreement import sample
from solo_edge.export.build import (
    check_precision,
    check_ranges,
    describe,
    describe_machine,
    one_of,
)
from solo_edge.export.model_files import Accept, ModelRequest, check_topk, write_graph
from solo_edge.kernels.aot_targets import find_target
from solo_edge.manifest import Graph, Precision, cell_strides, record_files
from solo_edge.portable_folder import CHECK, GRAPH, Portable, portable_folder, write_portable

if TYPE_CHECKING:
    from solo_edge.checkpoint import Checkpoint

__all__ = ["PortableReport", "build_portable"]


@dataclass(frozen=True)
class PortableReport:
    """What was written."""

    path: Path
    instances: int  # of the model in the test image, with which the device compares its engine


def build_portable(
    checkpoint: str | Path,
    out: str | Path,
    *,
    target: str,
    precision: str = "fp32",
    graph: str = "network",
    ranges: str | Path | None = None,
    accept: Accept | None = None,
    report: Callable[[str], None] | None = None,
    **thresholds: Any,
) -> PortableReport:
    """Write the folder `out`, of which the device builds an engine (`solo_edge.export.finish`).

    Needs neither TensorRT nor a GPU; with the graph "network" Triton, which compiles the kernels.

    Args:
        target: the device's GPU: "orin", "thor" or "sm_XX".
        Others: as for `solo_edge.export.build.build_engine`.

    Raises:
        UsageError: an unknown or impossible choice, nothing at `checkpoint`, or `out` is something else.
        ArtifactError: the checkpoint is damaged, or the graph cannot be written.
        ResourceError: Triton is not installed.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    say = report or (lambda line: None)
    config = from_dict(PostprocessConfig, thresholds)
    gpu = find_target(target)
    kind: Precision = one_of("precision", precision, get_args(Precision))
    check_precision("tensorrt", kind)
    wanted: Graph = one_of("graph", graph, get_args(Graph))
    check_ranges(kind, ranges)
    request = ModelRequest(
        backend="tensorrt",
        precision=kind,
        graph=wanted,
        config=config,
        ranges=None if ranges is None else Path(ranges),
        accept=accept,
        report=say,
    )
    check_topk(request)
    if wanted == "network":
        from solo_edge.kernels.aot import triton_tool

        triton_tool("ptxas")  # or say that there is no Triton, before minutes of other work
    with portable_folder(out) as folder, tempfile.TemporaryDirectory(prefix="build-") as scratch:
        # Only now: loading PyTorch takes seconds, which a mistyped option need not wait for.
        from solo_edge.checkpoint import find_checkpoint
        from solo_edge.runtime.torch_runner import open_checkpoint

        loaded, file = open_checkpoint(checkpoint), find_checkpoint(checkpoint)
        if loaded.config.conv == "deformable":
            what = "only PyTorch runs deformable convolutions"
            raise UsageError(what, where=checkpoint, fix="use --backend torch")
        known = write_graph(folder / GRAPH, Path(scratch), file, loaded, request)
        if wanted == "network":
            from solo_edge.export.device_files import write_kernels

            write_kernels(folder, loaded.config, config, gpu, report=say)
        found = _write_check(folder / CHECK, loaded, request)
        manifest = dataclasses.replace(
            describe(
                out.name.removesuffix(".portable"),
                file,
                loaded,
                request,
                versions=_versions(wanted),
                machine=describe_machine(None),
            ),
            quantization=known[0],
            measured=known[1],
            files=record_files(folder),
        )
        write_portable(folder, Portable(gpu.name, manifest))
    if found == 0 and wanted == "full":
        say("the model finds nothing in the test images: the device can only compare shapes")
    return PortableReport(out, found)


def _write_check(path: Path, loaded: Checkpoint, request: ModelRequest) -> int:
    """Write the test image with most instances, and those; their number.

    With them, for the graph "network", go samples of its outputs: a trained network may well find
    nothing in a test image.

    The image goes along, because NumPy's random numbers may change between its versions.
    """
    from solo_edge.export.self_check import TEST_IMAGES, make_image, network_outputs
    from solo_edge.runtime.engine import Engine
    from solo_edge.runtime.torch_runner import TorchRunner

    engine = Engine(
        name=path.stem,
        backend="torch",
        precision="fp32",
        graph="network",
        class_names=loaded.class_names,
        category_ids=loaded.category_ids,
        preprocess=loaded.preprocess,
        postprocess_config=request.config,
        runner=TorchRunner(loaded.model, config=request.config),
        cell_strides=cell_strides(loaded.config),
    )
    with engine:
        images = [make_image(loaded.preprocess.input_size, seed) for seed in range(TEST_IMAGES)]
        found = [engine(image) for image in images]
    best = max(range(TEST_IMAGES), key=lambda i: len(found[i]))
    masks = found[best].masks
    arrays: dict[str, Any] = {
        "image": images[best],
        "labels": found[best].labels,
        "scores": found[best].scores,
        "masks": np.packbits(masks.reshape(len(masks), masks.shape[1] * masks.shape[2]), axis=1),
    }
    if request.graph == "network":
        prepared = loaded.preprocess.normalise(images[best])[np.newaxis]
        outputs = network_outputs(loaded.model, prepared)
        flat = [level.reshape(len(level), -1) for level in outputs.scores]
        arrays |= {
            "category_scores": np.concatenate(flat, axis=1),
            "mask_kernels": sample(outputs.mask_kernels),
            "mask_features": sample(outputs.mask_features),
        }
    np.savez_compressed(path, **arrays)
    return len(found[best])


def _versions(graph: Graph) -> dict[str, str]:
    names = ["torch", "onnx", "onnxscript", *(["triton"] if graph == "network" else [])]
    return {"solo-edge": solo_edge.__version__} | {
        name: importlib.metadata.version(name) for name in names
    }
