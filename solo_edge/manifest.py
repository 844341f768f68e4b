"""Engine folders: what is in them, written whole, and checked before anything is loaded.

    name.engine/
        manifest.json        everything in `Manifest`, with the SHA-256 of the other file
        model.onnx           openvino, onnxruntime
        model.safetensors    torch
        engine.plan          tensorrt

A digest finds accidents (a cut download, a flipped bit, files of two engines mixed up). Who can change the
manifest can change the digest too: run only engines from people you trust.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import ModelConfig, PostprocessConfig
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.files import atomic_folder, read_json, sha256_of, write_json
from solo_edge.json_fields import FieldError, decode
from solo_edge.preprocess import Preprocess

__all__ = [
    "HOW_TO_BUILD",
    "MANIFEST",
    "MAX_BATCH",
    "MODEL_FILES",
    "OUTPUTS",
    "REBUILD",
    "SCHEMA",
    "Backend",
    "FileRecord",
    "Graph",
    "Grid",
    "Manifest",
    "Measurement",
    "Precision",
    "Quantization",
    "TensorSpec",
    "cell_strides",
    "decode_manifest",
    "describe_tensors",
    "engine_folder",
    "grids_of",
    "read_manifest",
    "record_files",
    "verify",
    "write_manifest",
]

Backend = Literal["tensorrt", "torch", "openvino", "onnxruntime"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Graph = Literal["network", "full"]
DataType = Literal["float32", "int64"]

SCHEMA = 1
MAX_BATCH = 64  # cameras at one engine; more is a slip of the finger
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20  # thousands of classes fit; a file that only looks like one does not
MODEL_FILES: dict[Backend, str] = {
    "tensorrt": "engine.plan",
    "torch": "model.safetensors",
    "openvino": "model.onnx",
    "onnxruntime": "model.onnx",
}
OUTPUTS: dict[Graph, tuple[str, ...]] = {
    "network": ("category_scores", "mask_kernels", "mask_features"),
    "full": ("labels", "scores", "masks", "valid_count"),
}
_OUTPUT_TYPES: dict[Graph, tuple[DataType, ...]] = {
    "network": ("float32", "float32", "float32"),
    "full": ("int64", "float32", "float32", "int64"),
}
HOW_TO_BUILD = "build one: solo-edge build-engine CHECKPOINT -o NAME.engine"
REBUILD = "build the engine again: solo-edge build-engine CHECKPOINT -o NAME.engine"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph. Every size is known."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """One level's S x S cells and the stride they stand for."""

    size: int
    stride: int


@dataclass(frozen=True)
class FileRecord:
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Measurement:
    """Accuracy of this very engine on a data set."""

    data: str
    split: str
    mask_ap: float  # COCO mask AP, 0..1
    images: int


@dataclass(frozen=True)
class Quantization:
    """How an INT8 engine came about, and what INT8 cost where that was measured."""

    method: str  # that chose the ranges
    images: int  # of the calibration
    images_sha256: str  # of the sorted SHA-256 of the images
    excluded: tuple[str, ...]  # weights whose convolutions stay in float
    float_share: float  # of the multiply-adds that could be INT8, 0..1
    float_ap: float | None  # mask AP in float, 0..1, where `Manifest.measured` has that in INT8
    mask_iou: float | None  # mean IoU of the instances that both found


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about an engine without opening it."""

    schema: int
    name: str
    backend: Backend
    precision: Precision
    graph: Graph
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # COCO category id of each label
    preprocess: Preprocess
    preprocess_digest: str
    postprocess: PostprocessConfig
    model: ModelConfig
    grids: tuple[Grid, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    versions: dict[str, str]  # of solo-edge and of the packages that made the engine
    machine: dict[str, str]  # that made it: architecture, cpu, gpu, compute_capability
    checkpoint_sha256: str
    measured: Measurement | None
    files: dict[str, FileRecord]
    quantization: Quantization | None = None  # of INT8 engines
    batch: int = 1  # images that go through the network at once

    @property
    def model_file(self) -> str:
        """Name of the file that the backend loads."""
        return MODEL_FILES[self.backend]

    @property
    def cell_strides(self) -> NDArray[np.float32]:
        """[T] float32: the stride of each cell's level; levels in order, row by row."""
        return cell_strides(self.model)


def cell_strides(model: ModelConfig) -> NDArray[np.float32]:
    """[T] float32: the stride of each cell's level; levels in order, row by row."""
    cells = [size * size for size in model.grid_sizes]
    return np.repeat(np.asarray(model.strides, dtype=np.float32), cells)


def grids_of(model: ModelConfig) -> tuple[Grid, ...]:
    return tuple(Grid(size, s) for size, s in zip(model.grid_sizes, model.strides, strict=True))


def describe_tensors(
    model: ModelConfig, graph: Graph, config: PostprocessConfig, batch: int = 1
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph of `model`: names, types and shapes."""
    height, width = model.input_size
    mask_size = (height // 4, width // 4)
    image = TensorSpec("image", "float32", (batch, 3, height, width))
    shapes: tuple[tuple[int, ...], ...]
    if graph == "network":
        shapes = (
            (batch, model.num_classes, model.num_cells),
            (batch, model.kernel_length, model.num_cells),
            (batch, model.kernel_length, *mask_size),
        )
    else:
        slots = (batch, config.max_instances)
        shapes = (slots, slots, (*slots, *mask_size), (batch,))
    outputs = zip(OUTPUTS[graph], _OUTPUT_TYPES[graph], shapes, strict=True)
    return (image,), tuple(TensorSpec(name, dtype, shape) for name, dtype, shape in outputs)


@contextmanager
def engine_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes the engine folder `path` when the block succeeds.

    An engine that stood there before is replaced. Nothing else is.

    Raises:
        UsageError: `path` is a file, or a folder that holds anything but an engine.
    """
    _refuse_foreign(path)
    with atomic_folder(path) as temporary:
        yield temporary


def _refuse_foreign(path: Path) -> None:
    if not path.exists() and not path.is_symlink():
        return
    fix = "choose another name with -o/--out"
    if path.is_symlink() or not path.is_dir():
        raise UsageError("there is something here that is no engine folder", where=path, fix=fix)
    present = {entry.name for entry in path.iterdir()}
    if not present:
        return
    if MANIFEST not in present:
        raise UsageError("this folder is not an engine; it is left as it is", where=path, fix=fix)
    try:
        known = {MANIFEST, *read_manifest(path).files}
    except ArtifactError as error:
        what = f"cannot tell whether this folder is an engine ({error.what}); it is left as it is"
        raise UsageError(what, where=path, fix=fix) from None
    if extra := sorted(present - known):
        what = (
            f"this folder also holds {extra[0]!r}, which is not of the engine; it is left as it is"
        )
        raise UsageError(what, where=path, fix=fix)


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Digest and size of every file in `folder` but the manifest."""
    files = sorted(entry for entry in folder.iterdir() if entry.name != MANIFEST)
    return {file.name: FileRecord(sha256_of(file), file.stat().st_size) for file in files}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest` into `folder`, after the same checks that reading it makes."""
    values = json.loads(json.dumps(dataclasses.asdict(manifest)))
    decode_manifest(values, folder / MANIFEST)
    write_json(folder / MANIFEST, values)


def read_manifest(folder: Path) -> Manifest:
    """Read and check `manifest.json`; the other files are not touched.

    Raises:
        UsageError: there is nothing at `folder`.
        ArtifactError: it is not an engine folder, or a field is missing, unknown, of the wrong type or
            contradicts another; the message names it.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise UsageError("engine not found", where=folder, fix=f"check the path, or {HOW_TO_BUILD}")
    if not folder.is_dir() or not path.exists():
        raise ArtifactError("this is not an engine folder", where=folder, fix=HOW_TO_BUILD)
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ArtifactError("this is not a manifest", where=path, fix=REBUILD)
    try:
        values = read_json(path, "manifest", ArtifactError)
    except RecursionError:
        raise ArtifactError("manifest is nested too deeply", where=path, fix=REBUILD) from None
    return decode_manifest(values, path)


def decode_manifest(values: dict[str, Any], path: Path, model_file: str | None = None) -> Manifest:
    """The manifest in JSON values, checked as `read_manifest` says.

    Args:
        path: of the file that they come from, for messages.
        model_file: must be listed; by default that of the backend.
    """
    schema = values.get("schema")
    if type(schema) is int and schema != SCHEMA:
        what = f"schema {schema} of the manifest is unknown; this version reads {SCHEMA}"
        fix = "update solo-edge" if schema > SCHEMA else REBUILD
        raise ArtifactError(what, where=path, fix=fix)
    try:
        manifest: Manifest = decode(Manifest, values)
    except FieldError as error:
        raise ArtifactError(str(error), where=path, fix=REBUILD) from None
    _check(manifest, path, model_file or manifest.model_file)
    return manifest


def verify(folder: Path, manifest: Manifest) -> Path:
    """Check size and SHA-256 of every file that the manifest lists; the path of the model file.

    Raises:
        ArtifactError: a file is missing, is a link, or differs from what was built.
    """
    for name, record in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError("a file of the engine is missing", where=path, fix=REBUILD)
        size = path.stat().st_size
        if size != record.size:
            what = f"the file has {size} bytes, the manifest says {record.size}"
            raise ArtifactError(what, where=path, fix=f"copy it again or {REBUILD}")
        if sha256_of(path) != record.sha256:
            what = "the file is not the one that was built (SHA-256 differs)"
            raise ArtifactError(what, where=path, fix=f"copy it again or {REBUILD}")
    return folder / manifest.model_file


def _check(manifest: Manifest, path: Path, model_file: str) -> None:
    """The rules between fields."""

    def require(ok: bool, name: str, rule: str) -> None:
        if not ok:
            raise ArtifactError(f"manifest field {name!r} {rule}", where=path, fix=REBUILD)

    require(manifest.schema == SCHEMA, "schema", f"must be {SCHEMA}")
    classes = manifest.model.num_classes
    require(len(manifest.class_names) == classes, "class_names", f"must name {classes} classes")
    require(len(manifest.category_ids) == classes, "category_ids", f"must have {classes} entries")
    require(len(set(manifest.category_ids)) == classes, "category_ids", "has an id twice")
    expected = Preprocess.from_config(manifest.model)
    require(manifest.preprocess == expected, "preprocess", "contradicts the field 'model'")
    digest = manifest.preprocess.digest
    require(manifest.preprocess_digest == digest, "preprocess_digest", f"must be {digest!r}")
    require(manifest.grids == grids_of(manifest.model), "grids", "contradicts the field 'model'")
    require(1 <= manifest.batch <= MAX_BATCH, "batch", f"must be from 1 to {MAX_BATCH}")
    inputs, outputs = describe_tensors(
        manifest.model, manifest.graph, manifest.postprocess, manifest.batch
    )
    sources = "contradicts the fields 'model', 'graph' and 'batch'"
    require(manifest.inputs == inputs, "inputs", sources)
    require(manifest.outputs == outputs, "outputs", sources)
    for name, record in manifest.files.items():
        field = f"files.{name}"
        inside = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) is not None
        require(inside and name != MANIFEST, field, "is not the name of a file in this folder")
        valid = re.fullmatch(r"[0-9a-f]{64}", record.sha256) is not None
        require(valid, f"{field}.sha256", "must be 64 hexadecimal digits")
        require(record.size > 0, f"{field}.size", "must be positive")
    require(model_file in manifest.files, "files", f"must list {model_file!r}")
    require(
        manifest.checkpoint_sha256 == ""
        or re.fullmatch(r"[0-9a-f]{64}", manifest.checkpoint_sha256) is not None,
        "checkpoint_sha256",
        "must be 64 hexadecimal digits or empty",
    )
