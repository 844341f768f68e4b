"""Training: a plain PyTorch loop. `train` is the one public function."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solo_edge.calibration.ranges import Ranges, read_ranges
from solo_edge.checkpoint import Checkpoint, find_checkpoint, read_tensors, save_checkpoint
from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.cache import CachedDataset
from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.data.loader import Batch, TrainingLoader
from solo_edge.errors import AccuracyError, ArtifactError, ResourceError, UsageError
from solo_edge.evaluate import evaluate
from solo_edge.files import read_json, sha256_of
from solo_edge.importers.backbones import load_backbone_weights
from solo_edge.instances import Instances
from solo_edge.losses import solov2_losses
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.optim import WeightAverage, build_optimizer, learning_rate, set_learning_rate
from solo_edge.postprocess import postprocess
from solo_edge.preprocess import Preprocess
from solo_edge.qat import FakeInt8, freeze_batch_norms, read_start
from solo_edge.run_folder import RunFolder, TrainingState

__all__ = ["model_predictor", "train"]

Report = Callable[[str], None]
Forward = Callable[[SOLOv2, torch.Tensor], SOLOv2Output]
METRICS = ("AP", "AP50", "AP75")  # of COCOeval, in the log and in checkpoints
# In the folder of a quantisation-aware run: what it was started with, and the same for its best checkpoint.
QAT_RANGES, RANGES = "qat.json", "ranges.json"


def train(
    data: Path,
    model: ModelConfig | None,
    out: Path,
    config: TrainConfig,
    *,
    init: Path | None = None,
    qat: Path | None = None,
    resume: bool = False,
    cache_bytes: int = 4 << 30,
    report: Report = print,
    show_progress: bool = False,
) -> Path:
    """Train `model` on the split "train" of `data`, validating on "val"; returns the best checkpoint.

    Args:
        model: `num_classes` is replaced by the number of categories in the data. None with `qat`.
        out: folder of the run (see `solo_edge.run_folder`).
        init: backbone weights as safetensors, or a checkpoint of ours whose fitting weights are taken.
        qat: file of `solo-edge calibrate`, measured with the checkpoint `init`: fine-tune that for the
            INT8 engine of these ranges (see `solo_edge.qat`), a few epochs at a hundredth of the usual
            learning rate. All APs are then those of the rounded network, and the run gets a
            file `ranges.json` for its best checkpoint.
        resume: continue the run in `out` after its last finished epoch.
        cache_bytes: decoded images are kept in memory when they need no more than this.
        report: receives one line per event.

    Raises:
        UsageError: options that exclude each other, or classes other than those of the checkpoint.
        ArtifactError: with `qat`, ranges of another checkpoint.
        AccuracyError: the loss became NaN or infinite; the message names the images of that batch.
    """
    start = None if qat is None else read_start(init, qat)
    dataset = open_dataset(data, "train")
    validation = _validation_split(data, dataset, report)
    for warning in dataset.warnings:
        report(f"note: {warning}")
    if start is not None:
        start.require_classes(dataset.class_names, data)
        model = start.checkpoint.config
    if model is None:
        raise UsageError("no model is given", fix="give one, or --init and --qat")
    model = dataclasses.replace(model, num_classes=len(dataset.class_names))
    trainer = Trainer(dataset, validation, model, out, config, cache_bytes, report)
    if resume:
        trainer.resume()
    else:
        if init is not None:
            trainer.initialise(init)
        if start is not None:
            trainer.quantise(start.ranges)
        facts = {"data": data.resolve().name, "init": init.name if init else None}
        trainer.start({**facts, "qat": qat.name if qat else None})
    try:
        return trainer.run(show_progress)
    finally:
        trainer.folder.close()


def model_predictor(
    model: SOLOv2,
    class_names: tuple[str, ...],
    forward: Forward = lambda model, images: model(images),
) -> Callable[[NDArray[np.uint8]], Instances]:
    """image [H, W, 3] uint8 RGB -> Instances, through the PyTorch model where it stands."""
    preprocess = Preprocess.from_config(model.config)
    device = next(model.parameters()).device

    @torch.inference_mode()
    def predict(image: NDArray[np.uint8]) -> Instances:
        tensor, geometry = preprocess(image)
        output = forward(model, torch.from_numpy(tensor)[None].to(device))
        sizes = ([geometry.resized_size], [geometry.original_size])
        return postprocess(output, *sizes, class_names=class_names)[0]

    return predict


class Trainer:
    """The state of one run and the steps that change it."""

    def __init__(
        self,
        dataset: CocoDataset,
        validation: CocoDataset | None,
        model: ModelConfig,
        out: Path,
        config: TrainConfig,
        cache_bytes: int,
        report: Report,
    ):
        self.dataset, self.validation, self.config, self.report = (
            dataset,
            validation,
            config,
            report,
        )
        self.folder = RunFolder(out)
        self.device = _device(config.device)
        torch.manual_seed(config.seed)
        self.model = SOLOv2(model).to(self.device).to(memory_format=torch.channels_last).train()
        self.average = WeightAverage(self.model, config.ema_decay)
        self.optimizer = build_optimizer(self.model, config)
        self.amp_dtype = _amp_dtype(self.device) if config.amp else None
        self.forward: Forward = lambda model, images: model(images)
        self.ranges: Ranges | None = None
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.amp_dtype == torch.float16
        )
        cached = CachedDataset(dataset, cache_bytes)
        report(f"training on {len(dataset)} images, {cached.describe()}, on {self.device.type}")
        self.loader = TrainingLoader(cached, model, config)
        self.steps_per_epoch = math.ceil(len(self.loader) / config.accumulate)
        self.epoch = self.step = 0
        self.history: list[dict[str, Any]] = []

    def initialise(self, path: Path) -> None:
        """Take over backbone weights, or whatever fits of a checkpoint of ours."""
        path = find_checkpoint(path)
        tensors, metadata = read_tensors(path)
        if "solo_edge" in metadata:
            own = self.model.state_dict()
            fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
            self.model.load_state_dict(fitting, strict=False)
            taken, total = len(fitting), len(own)
        else:
            taken = load_backbone_weights(self.model.backbone, tensors, str(path))
            total = taken
        self.average = WeightAverage(self.model, self.config.ema_decay)
        self.report(f"{taken} of {total} tensors taken from {path.name}")

    def quantise(self, ranges: Ranges) -> None:
        """From now on round as the INT8 engine of these ranges."""
        self.forward, self.ranges = FakeInt8.of(self.average.model, ranges), ranges
        freeze_batch_norms(self.model)
        self.report(f"quantisation-aware: {self.forward}")

    def start(self, facts: dict[str, Any]) -> None:
        """Begin the run's folder; `facts` are noted there."""
        self.folder.start(self.model.config, self.config, facts)
        if self.ranges is not None:
            self.ranges.save(self.folder.path / QAT_RANGES)
        if facts["init"] is not None:  # a seed gives the other weights again, but not these
            self.folder.save_state(self.state())

    def resume(self) -> None:
        state = self.folder.resume(self.model.config, self.config)
        if state is None:
            description = read_json(self.folder.path / "run.json", "run description", ArtifactError)
            if description.get("init") is not None:
                fix = "start it again in another --out"
                what = "the run ended before it had saved its first weights"
                raise UsageError(what, where=self.folder.path, fix=fix)
            self.report("the run had not finished an epoch; starting from its beginning")
            return
        self.model.load_state_dict(_strip(state.tensors, "model."))
        self.average.model.load_state_dict(_strip(state.tensors, "average."))
        self.average.updates = state.average_updates
        _load_optimizer(self.optimizer, _strip(state.tensors, "optimizer."))
        if scaler := _strip(state.tensors, "scaler."):
            self.scaler.load_state_dict({name: value.item() for name, value in scaler.items()})
        self.epoch, self.step, self.history = state.epoch, state.step, state.history
        if (self.folder.path / QAT_RANGES).is_file():
            self.quantise(read_ranges(self.folder.path / QAT_RANGES))
        self.report(f"resuming after epoch {self.epoch}")

    def run(self, show_progress: bool) -> Path:
        """Train the remaining epochs; returns the best checkpoint (the last where nothing validates)."""
        with _progress(show_progress, self.config.epochs * len(self.loader)) as advance:
            advance(self.epoch * len(self.loader))
            if self.ranges is not None and self.validation and not self.history:
                # The one to beat: without a better epoch, the best checkpoint stays the given one.
                row = self.validate(self.validation)
                self.history.append({"epoch": self.epoch, **row})
                self.save(row)
                self.report(f"before training  AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}")
            while self.epoch < self.config.epochs:
                row = self.train_epoch(advance)
                self.epoch += 1
                last = self.epoch == self.config.epochs
                if self.validation and (last or self.epoch % self.config.validate_every == 0):
                    row |= self.validate(self.validation)
                self.history.append({"epoch": self.epoch, **row})
                self.save(row)
                self.report(_line(self.epoch, self.config.epochs, row))
        return find_checkpoint(self.folder.path)

    def train_epoch(self, advance: Callable[[int], None]) -> dict[str, float]:
        start = time.monotonic()
        sums = np.zeros(2)
        total_steps = self.config.epochs * self.steps_per_epoch
        for index, batch in enumerate(self.loader.epoch(self.epoch)):
            set_learning_rate(self.optimizer, learning_rate(self.step, total_steps, self.config))
            sums += self.backward(batch)
            if (index + 1) % self.config.accumulate == 0 or index + 1 == len(self.loader):
                self.update()
            advance(1)
        seconds = time.monotonic() - start
        dice, focal = sums / len(self.loader)
        return {
            "step": self.step,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "dice_loss": float(dice),
            "focal_loss": float(focal),
            "seconds": round(seconds, 1),
            "images_per_s": round(len(self.dataset) / seconds, 2),
        }

    def backward(self, batch: Batch) -> tuple[float, float]:
        """Add one batch's gradients; returns its two losses."""
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            output = self.forward(self.model, images)
        dice, focal = solov2_losses(
            output,
            batch.targets,
            dice_weight=self.config.dice_weight,
            focal_weight=self.config.focal_weight,
            alpha=self.config.focal_alpha,
            gamma=self.config.focal_gamma,
        )
        values = float(dice.detach()), float(focal.detach())
        if not all(math.isfinite(value) for value in values):
            ids = ", ".join(map(str, batch.image_ids))
            raise AccuracyError(
                f"the loss became {values[0]:g} (dice) and {values[1]:g} (focal) at step {self.step}",
                where=f"images {ids}",
                fix="check these images, lower --learning-rate or use --no-amp; the last epoch is kept",
            )
        self.scaler.scale((dice + focal) / self.config.accumulate).backward()
        return values

    def update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.model)

    def validate(self, validation: CocoDataset) -> dict[str, float]:
        predict = model_predictor(self.average.model, self.dataset.class_names, self.forward)
        result = evaluate(predict, validation)
        return {name: result.stats[name] for name in METRICS}

    def save(self, row: dict[str, float]) -> None:
        """Write the last checkpoint, the best one if this is it, the resume state and the log."""
        metrics = {name: row[name] for name in METRICS if name in row}
        training = {"epoch": self.epoch, "train": dataclasses.asdict(self.config)}
        training["data"] = self.dataset.path.resolve().name
        names, ids = self.dataset.class_names, self.dataset.category_ids
        checkpoint = Checkpoint(self.average.model, names, ids, metrics, training)
        save_checkpoint(self.folder.path / "last.safetensors", checkpoint)
        earlier = [entry["AP"] for entry in self.history[:-1] if "AP" in entry]
        if "AP" in row and row["AP"] >= max(earlier, default=0.0):
            save_checkpoint(self.folder.path / "best.safetensors", checkpoint)
        if self.ranges is not None:
            digest = sha256_of(find_checkpoint(self.folder.path))
            # The shifts were those of other weights, and training has no need of them.
            ranges = dataclasses.replace(self.ranges, checkpoint_sha256=digest, bias_shifts={})
            ranges.save(self.folder.path / RANGES)
        self.folder.save_state(self.state())
        self.folder.log(self.history)

    def state(self) -> TrainingState:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.model.state_dict().items()}
        for i, values in self.optimizer.state_dict()["state"].items():
            named = {k: torch.as_tensor(v) for k, v in values.items() if v is not None}
            tensors |= {f"optimizer.{i}.{k}": v for k, v in named.items()}
        scaler = self.scaler.state_dict()
        tensors |= {f"scaler.{k}": torch.as_tensor(v) for k, v in scaler.items()}
        return TrainingState(tensors, self.epoch, self.step, self.average.updates, self.history)


def _validation_split(data: Path, dataset: CocoDataset, report: Report) -> CocoDataset | None:
    try:
        validation = open_dataset(data, "val")
    except UsageError:
        report(f"note: {data} has no split 'val': nothing validates, the last epoch counts")
        return None
    if validation.class_names != dataset.class_names:
        fix = "give both splits the same categories"
        raise UsageError("train and val differ in their classes", where=data, fix=fix)
    return validation


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device is {name!r}", fix="use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ResourceError("PyTorch sees no CUDA GPU", where=f"--device {name}", fix="use cpu")
    return device


def _amp_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.float16
    # On a CPU without bfloat16 instructions, autocast is slower than float32.
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if device.type == "cpu" and supported else None


def _strip(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _line(epoch: int, epochs: int, row: dict[str, float]) -> str:
    text = f"epoch {epoch}/{epochs}  dice {row['dice_loss']:.3f}  focal {row['focal_loss']:.3f}"
    if "AP" in row:
        text += f"  AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}"
    return f"{text}  {row['images_per_s']:.1f} images/s"


@contextmanager
def _progress(show: bool, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the remaining time on the terminal; yields the function that moves it on."""
    if not show:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)
        yield lambda count: bar.advance(task, count)
