"""The folder of a training run: its options, its log, its checkpoints and what is needed to resume.

RUN/run.json            options and versions, written once
RUN/log.csv             one row per epoch
RUN/log.jsonl           the same as one JSON object per line
RUN/best.safetensors    the checkpoint with the best validation AP
RUN/last.safetensors    the checkpoint of the last finished epoch
RUN/resume.safetensors  weights, average, optimizer, history and the place in the epoch where they were saved
RUN/qat.json            the ranges that a quantisation-aware run started with
RUN/ranges.json         the same for its best checkpoint
RUN/tensorboard/        scalars, where the package tensorboard is installed
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from solo_edge.checkpoint import read_tensors, write_tensors
from solo_edge.config import ModelConfig, TrainConfig, from_dict
from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.files import atomic_file, read_json, write_json

__all__ = ["RunFolder", "TrainingState", "saved_configs"]

# Options that may differ when a run is resumed: where and how often something is done, and for how long.
FREE = {"workers", "loader_timeout", "device", "validate_every", "save_every", "epochs"}
STATE_FILE = "resume.safetensors"


@dataclasses.dataclass
class TrainingState:
    """Where a run stands between two optimizer steps."""

    # "model.*", "average.*", "extra.*", "optimizer.<parameter>.<name>", "scaler.*"
    tensors: dict[str, Tensor]
    epoch: int  # epochs finished
    step: int  # optimizer steps taken
    average_updates: int
    history: list[dict[str, Any]]
    batches: int = 0  # of the epoch that is not finished
    sums: dict[str, float] = dataclasses.field(default_factory=dict)  # of its losses so far
    seconds: float = 0.0  # that it has taken so far
    skipped: list[list[int]] = dataclasses.field(default_factory=list)  # (epoch, batch) left out

    def facts(self) -> dict[str, Any]:
        """All but the tensors, ready for JSON."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name != "tensors"}

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


def saved_configs(folder: Path) -> tuple[ModelConfig, TrainConfig]:
    """The options with which the run in `folder` was started."""
    if not (folder / "run.json").is_file():
        fix = "check --out, or leave --resume away to start a run"
        raise UsageError("no run to resume here", where=folder, fix=fix)
    saved = read_json(folder / "run.json", "run description", ArtifactError)
    try:
        return from_dict(ModelConfig, saved["model"]), from_dict(TrainConfig, saved["train"])
    except (KeyError, TypeError, UsageError) as error:
        raise ArtifactError(f"damaged ({error})", where=folder / "run.json") from None


class RunFolder:
    """Reads and writes one run's files; every file is replaced atomically."""

    def __init__(self, path: Path):
        self.path = path
        self._writer: Any = None

    def start(self, model: ModelConfig, train: TrainConfig, facts: dict[str, Any]) -> None:
        """Begin a new run.

        Raises:
            UsageError: the folder holds a run already, which is never overwritten.
        """
        if (self.path / "run.json").exists():
            fix = "continue it with --resume or choose another --out"
            raise UsageError("a training run is already here", where=self.path, fix=fix)
        import solo_edge

        versions = {
            "solo_edge": solo_edge.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        description = {
            "model": dataclasses.asdict(model),
            "train": dataclasses.asdict(train),
            "versions": versions,
            **facts,
        }
        write_json(self.path / "run.json", description)

    def resume(self, model: ModelConfig, train: TrainConfig) -> TrainingState | None:
        """The last state that was saved, None if there was none yet. Remains of killed runs are removed.

        Raises:
            UsageError: no run here, or options differ from those it was started with.
        """
        old_model, old_train = saved_configs(self.path)
        for old, new in ((old_model, model), (old_train, train)):
            for field in dataclasses.fields(old):
                before, now = getattr(old, field.name), getattr(new, field.name)
                if before != now and field.name not in FREE:
                    raise UsageError(
                        f"the run was started with {field.name} = {before!r}, not {now!r}",
                        where=self.path,
                        fix="resume with the same options or start a run in another --out",
                    )
        if train != old_train:
            description = read_json(self.path / "run.json", "run description", ArtifactError)
            write_json(self.path / "run.json", {**description, "train": dataclasses.asdict(train)})
        self._remove_remains()
        return self.read_state()

    def read_state(self) -> TrainingState | None:
        """The last state that was saved."""
        path = self.path / STATE_FILE
        if not path.is_file():
            return None
        tensors, metadata = read_tensors(path)
        try:
            facts = json.loads(metadata["state"])
            return TrainingState(tensors, **facts)
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"damaged ({error})", where=path) from None

    def save_state(self, state: TrainingState) -> None:
        write_tensors(self.path / STATE_FILE, state.tensors, {"state": json.dumps(state.facts())})

    def require_space(self, kept_bytes: int) -> None:
        """Raise `ResourceError` unless the disk has room for twice `kept_bytes`, what the run will keep.

        A file is written beside the one that it replaces. What is here already counts as room.
        """
        place = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        here = sum(p.stat().st_size for p in self.path.glob("*.safetensors"))
        free, needed = shutil.disk_usage(place).free, 2 * kept_bytes - here
        if free < needed:
            raise ResourceError(
                f"the disk has {free / 2**20:.0f} MB free, and the run needs {needed / 2**20:.0f} MB",
                where=self.path,
                fix="free some space or choose another --out",
            )

    def _remove_remains(self) -> None:
        """Remove the temporary files that a process left when it was killed while it wrote."""
        # Ours (see `atomic_file`), and those of the library safetensors, which does the same underneath.
        for pattern in (".*-*.safetensors", ".*-*.csv", ".*-*.jsonl", ".*-*.json", ".tmp*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def log(self, history: list[dict[str, Any]]) -> None:
        """Write the whole history as CSV and JSON, its last row to TensorBoard where it is installed."""
        table = io.StringIO()
        columns = list(dict.fromkeys(name for row in history for name in row))
        rows = csv.DictWriter(table, columns, restval="", lineterminator="\n")
        rows.writeheader()
        rows.writerows(history)
        with atomic_file(self.path / "log.csv") as temporary:
            temporary.write_text(table.getvalue(), "utf-8")
        with atomic_file(self.path / "log.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
        writer = self._tensorboard()
        if writer is not None:
            for name, value in history[-1].items():
                writer.add_scalar(name, value, history[-1]["epoch"])
            writer.flush()

    def _tensorboard(self) -> Any:
        if self._writer is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return None
            self._writer = SummaryWriter(str(self.path / "tensorboard"))
        return self._writer

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
