"""Checkpoints: one safetensors file that carries its configuration, classes and preprocessing as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from solo_edge.config import ModelConfig, from_dict
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.files import atomic_file
from solo_edge.importers import import_weights
from solo_edge.importers.coco_classes import category_ids, default_names
from solo_edge.models.solov2 import SOLOv2
from solo_edge.preprocess import Preprocess

__all__ = [
    "Checkpoint",
    "find_checkpoint",
    "load_checkpoint",
    "read_tensors",
    "save_checkpoint",
    "write_tensors",
]

METADATA_KEY = "solo_edge"  # our JSON in the header of the safetensors file
FORMAT = 1
PICKLES = (".pth", ".pt", ".pkl", ".bin", ".ckpt", ".pdparams")


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to use it. `model` is in evaluation mode, on the CPU."""

    model: SOLOv2
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # COCO category id of each label
    metrics: dict[str, float] = field(default_factory=dict)  # validation AP and the like
    training: dict[str, Any] = field(default_factory=dict)  # how it was made: options, data, epoch

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess.from_config(self.config)


def save_checkpoint(
    path: Path, checkpoint: Checkpoint, weights: dict[str, Tensor] | None = None
) -> None:
    """Write `checkpoint` to `path` atomically; `weights` replaces the model's own (an averaged copy)."""
    weights = checkpoint.model.state_dict() if weights is None else weights
    header = {
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "class_names": checkpoint.class_names,
        "category_ids": checkpoint.category_ids,
        "preprocess_digest": checkpoint.preprocess.digest,
        "metrics": checkpoint.metrics,
        "training": checkpoint.training,
    }
    write_tensors(path, weights, {METADATA_KEY: json.dumps(header)})


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically.

    Raises:
        ResourceError: the disk is full, or another refusal of the operating system.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata)
        except safetensors.SafetensorError as error:
            # Its own class hides what the operating system said, but for the number in the text.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def find_checkpoint(path: Path) -> Path:
    """The checkpoint file in a training run's folder (best, else last), or `path` itself."""
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return path / name
        fix = "give a .safetensors file or the folder of a training run"
        raise ArtifactError("no checkpoint in this folder", where=path, fix=fix)
    if not path.exists():
        raise UsageError("checkpoint not found", where=path, fix="check the path")
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours or a foreign one; see `solo_edge.load_model` for what is accepted."""
    path = find_checkpoint(path)
    tensors, metadata = read_tensors(path)
    try:
        if METADATA_KEY in metadata:
            header = json.loads(metadata[METADATA_KEY])
            config = from_dict(ModelConfig, header["config"])
            classes = tuple(header["class_names"])
            ids = tuple(header["category_ids"])
            metrics, training = header["metrics"], header["training"]
            if header["format"] != FORMAT or not len(classes) == len(ids) == config.num_classes:
                raise ValueError("the header contradicts itself or is of a later version")
        else:
            config, tensors = import_weights(tensors, str(path))
            classes = default_names(config.num_classes)
            ids = category_ids(classes)
            metrics, training = {}, {"imported_from": path.name}
    except (ValueError, KeyError, TypeError) as error:
        detail = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"damaged header ({detail})", where=path, fix="train again") from None
    except UsageError as error:
        raise ArtifactError(f"does not fit this version ({error})", where=path) from None
    model = SOLOv2(config)
    _load_weights(model, tensors, path)
    return Checkpoint(model.eval(), classes, ids, metrics, training)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and string metadata of a safetensors file. Pickles are refused unopened."""
    if path.suffix.lower() in PICKLES:
        raise ArtifactError(
            "pickled checkpoints can run code and are not opened",
            where=path,
            fix=f"import it once: solo-edge import-checkpoint {path.name} -o NAME.safetensors",
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            return tensors, dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        fix = "give a .safetensors checkpoint; this one may be damaged"
        raise ArtifactError(f"not a safetensors file ({error})", where=path, fix=fix) from None


def _load_weights(model: SOLOv2, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        result = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"weights do not fit ({detail})", where=path) from None
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        wrong = (missing + result.unexpected_keys)[0]
        raise ArtifactError(
            f"{len(missing)} weights are missing and {len(result.unexpected_keys)} unknown ({wrong})",
            where=path,
            fix="the file is damaged or of another model",
        )
