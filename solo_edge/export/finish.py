"""The half of a TensorRT build that the device does: of a portable folder, an engine. Needs no PyTorch."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import solo_edge
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.export.agreement import (
    TOLERANCES,
    Found,
    NetworkOutputs,
    compare_instances,
    compare_network,
    require_finite,
    sample,
)
from solo_edge.export.build import describe_machine
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.kernels.aot_targets import TARGETS
from solo_edge.manifest import MODEL_FILES, engine_folder, record_files, write_manifest
from solo_edge.portable_folder import (
    CHECK,
    COPY_AGAIN,
    GRAPH,
    Portable,
    read_portable,
    verify_portable,
)
from solo_edge.runtime.cuda_driver import open_cuda
from solo_edge.runtime.engine import Engine, load_engine
from solo_edge.runtime.frame_pipeline import PLANS
from solo_edge.runtime.kernel_folder import KERNELS_FILE, read_kernels
from solo_edge.runtime.tensorrt_runner import import_tensorrt

if TYPE_CHECKING:
    from solo_edge.export.tensorrt_progress import Progress

__all__ = ["FinishReport", "finish_engine"]

NO_KERNELS = "make the folder with --graph full, which needs no kernels"


@dataclass(frozen=True)
class FinishReport:
    """What was built; usable as the path of the engine folder."""

    path: Path
    instances: int  # of the model in the test image, those that lie clearly above the threshold
    matched: int  # of them, found by the engine as well
    seconds: float

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)


def finish_engine(
    portable: str | Path,
    out: str | Path,
    *,
    tensorrt: TensorRTOptions | None = None,
    report: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> FinishReport:
    """Build the engine folder `out` of a folder that `solo_edge.export.portable.build_portable` wrote.

    Needs TensorRT, NumPy, and cuda-bindings or PyCUDA. The engine is loaded and run on the test image
    before it takes its name; if it disagrees with what the PyTorch model found there, nothing is left
    of it, and an older engine stays.

    Args:
        tensorrt: how TensorRT builds.
        report: is called with one line about each result.
        progress: is called with (stage, done, total) while TensorRT builds.

    Raises:
        UsageError: nothing at `portable`, an impossible option, or `out` is not an engine.
        ArtifactError: the folder is damaged or for another GPU, TensorRT refuses the graph, or the
            engine disagrees with the model.
        ResourceError: TensorRT or a GPU is missing here.
    """
    started = time.perf_counter()
    folder, out = Path(portable), Path(out)
    say = report or (lambda line: None)
    options = tensorrt or TensorRTOptions()
    options.require_runnable()
    if options.plugins:
        what = "plugins are compiled where PyTorch and Triton are, and a portable folder has none"
        raise UsageError(what, fix="leave them out, or build from the checkpoint")
    content = read_portable(folder)
    verify_portable(folder, content)
    version = import_tensorrt().__version__
    _check_gpu(folder, content, say)
    with engine_folder(out) as made:
        from solo_edge.export.tensorrt_builder import build_plan

        build_plan(folder / GRAPH, made / MODEL_FILES["tensorrt"], options, progress=progress)
        for name in content.manifest.files:
            if name not in (GRAPH, CHECK):
                shutil.copyfile(folder / name, made / name)
        exported_by = content.manifest.versions.get("solo-edge", "unknown")
        manifest = dataclasses.replace(
            content.manifest,
            name=out.name.removesuffix(".engine"),
            versions={
                **content.manifest.versions,
                "solo-edge": solo_edge.__version__,
                "solo-edge of the portable folder": exported_by,
                "tensorrt": version,
            },
            machine=describe_machine("tensorrt"),
            files=record_files(made),
        )
        write_manifest(made, manifest)
        with load_engine(made) as engine:
            instances, matched = _check(engine, folder / CHECK, out, say)
    return FinishReport(out, instances, matched, time.perf_counter() - started)


def _check_gpu(folder: Path, content: Portable, say: Callable[[str], None]) -> None:
    """Refuse kernels of another GPU, before minutes of building.

    The plan itself fits every GPU: it is built here.
    """
    driver = open_cuda()
    driver.close()
    here = driver.compute_capability
    if KERNELS_FILE not in content.manifest.files:
        return
    name = "sm_" + here.replace(".", "")
    fix = f"make the folder with --portable {name}" if name in TARGETS else NO_KERNELS
    kernels = read_kernels(folder, fix=COPY_AGAIN)
    kernels.check_fit(here, fix, plans=PLANS)
    if content.target != name:
        say(f"the kernels were compiled for {content.target}; this GPU ({here}) takes portable PTX")


def _check(engine: Engine, path: Path, where: Path, say: Callable[[str], None]) -> tuple[int, int]:
    """Compare the network's outputs, and what comes out where the engine is run as its user will run it.

    Returns:
        As `compare_instances`.
    """
    tolerance = TOLERANCES[engine.precision]
    image, expected, tensors = _read_check(path, engine)
    prepared, _ = engine.preprocess(image)
    outputs = engine.runner.infer({"image": prepared[np.newaxis]})
    require_finite(outputs, where)  # post-processing would pass over scores that are no numbers
    if tensors is not None:
        sampled = {name: sample(outputs[name]) for name in ("mask_kernels", "mask_features")}
        errors = compare_network({**outputs, **sampled}, tensors, tolerance, where)
        say(
            f"self-check: largest difference {errors[0]:.1e} in category scores; relative"
            f" {errors[1]:.1e} in mask kernels, {errors[2]:.1e} in mask features"
        )
    found = engine(image)
    here = Found(found.labels, found.scores, found.masks)
    config = engine.postprocess_config
    instances, matched = compare_instances(here, expected, config, tolerance, where)
    say(f"self-check: {matched} of the model's {instances} instances found again")
    if instances == 0 and tensors is None:
        say("self-check: the model finds nothing in the test image; only the shapes were compared")
    return instances, matched


def _read_check(
    path: Path, engine: Engine
) -> tuple[NDArray[np.uint8], Found, NetworkOutputs | None]:
    """The test image, [H, W, 3], what the model finds in it, and for a network the model's outputs."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = dict(arrays)
        image, labels, scores = (values[name] for name in ("image", "labels", "scores"))
        height, width = engine.preprocess.input_size
        if image.dtype != np.uint8 or image.shape != (height, width, 3):
            raise ValueError(f"the image is {image.dtype} {image.shape}")
        masks = np.unpackbits(values["masks"], axis=1, count=height * width).astype(np.bool_)
        found = Found(labels, scores, masks.reshape(len(labels), height, width))
        return image, found, _tensors(values, engine) if engine.graph == "network" else None
    except (KeyError, IndexError, ValueError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"damaged ({error})", where=path, fix=COPY_AGAIN) from None


def _tensors(values: dict[str, NDArray[np.float32]], engine: Engine) -> NetworkOutputs:
    assert engine.manifest is not None
    sizes = [grid.size for grid in engine.manifest.grids]
    flat = values["category_scores"]
    ends = np.cumsum([size * size for size in sizes])
    if flat.shape[1] != ends[-1]:
        raise ValueError(f"category scores of {flat.shape[1]} cells")
    for spec in engine.runner.outputs:
        if spec.name != "category_scores":
            wanted = sample(np.empty(spec.shape, np.float32)).shape
            if values[spec.name].shape != wanted:
                raise ValueError(f"{spec.name} is {values[spec.name].shape}, not {wanted}")
    levels = np.split(flat, ends[:-1], axis=1)
    scores = [x.reshape(-1, size, size) for x, size in zip(levels, sizes, strict=True)]
    return NetworkOutputs(scores, values["mask_kernels"], values["mask_features"])
