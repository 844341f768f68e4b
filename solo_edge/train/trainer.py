"""One training run: its epochs, its validation, and what is saved when."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solo_edge.calibration.ranges import Ranges, read_ranges
from solo_edge.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.cache import CachedDataset
from solo_edge.data.coco import CocoDataset
from solo_edge.data.loader import Batch, TrainingLoader
from solo_edge.distill import Teacher
from solo_edge.errors import AccuracyError, ArtifactError, ResourceError, SoloEdgeError, UsageError
from solo_edge.evaluate import evaluate
from solo_edge.files import read_json, sha256_of
from solo_edge.instances import Instances
from solo_edge.losses import Counts
from solo_edge.models.solov2 import SOLOv2
from solo_edge.optim import WeightAverage, build_optimizer, learning_rate
from solo_edge.qat import FakeInt8, freeze_batch_norms
from solo_edge.run_folder import RunFolder, TrainingState
from solo_edge.train.batch_norm import prepare_batch_norms
from solo_edge.train.device import amp_dtype, find_device
from solo_edge.train.display import epoch_line, progress_bar
from solo_edge.train.freezing import frozen_parameters, set_frozen
from solo_edge.train.initial import take_over
from solo_edge.train.interruption import Interruption
from solo_edge.train.network import TrainingNetwork
from solo_edge.train.predictor import model_predictor
from solo_edge.train.processes import Processes
from solo_edge.train.saving import SaveTimer
from solo_edge.train.state import restore_tensors, tensors_of
from solo_edge.train.step import NotFiniteError, OptimizerStep

__all__ = ["Report", "Trainer"]

Report = Callable[[str], None]
METRICS = ("AP", "AP50", "AP75")  # of COCOeval, in the log and in checkpoints
# In the folder of a quantisation-aware run: what it was started with, and the same for its best checkpoint.
QAT_RANGES, RANGES = "qat.json", "ranges.json"
MOST_SKIPPED = 3  # batches without a finite gradient, until the run is given up


class Trainer:
    """The state of one run and the steps that change it.

    Several processes each have one, with the same weights; the first one validates and writes.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        validation: CocoDataset | None,
        model: ModelConfig,
        out: Path,
        config: TrainConfig,
        cache_bytes: int,
        report: Report,
        *,
        teacher: Teacher | None = None,
        processes: Processes | None = None,
    ):
        self.dataset, self.validation, self.config = dataset, validation, config
        self.processes = processes or Processes()
        self.report = report if self.processes.is_first else lambda _: None
        self.folder = RunFolder(out)
        self.device = find_device(config.device)
        torch.manual_seed(config.seed)
        self.model = SOLOv2(model).to(self.device).to(memory_format=torch.channels_last).train()
        self.average = WeightAverage(self.model, config.ema_decay)
        teacher = None if teacher is None else teacher.to(self.device)
        self.network = TrainingNetwork(self.model, config, teacher)
        self.optimizer = build_optimizer(self.model, config, self.network.extras)
        self.scaler = torch.amp.GradScaler(
            self.device.type,
            enabled=config.amp and amp_dtype(self.device) == torch.float16,
        )
        if config.batch_norm != "sync" or self.processes.world_size > 1:
            prepare_batch_norms(self.model, config.batch_norm)
        self.frozen = frozen_parameters(self.model, config.freeze)
        self.ranges: Ranges | None = None
        cached = CachedDataset(dataset, cache_bytes)
        where = f"{self.processes.world_size} processes" if self.processes.world_size > 1 else ""
        where = f"{where} on {self.device.type}".strip()
        self.report(f"training on {len(dataset)} images, {cached.describe()}, {where}")
        self.loader = TrainingLoader(
            cached,
            model,
            config,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            pin_memory=self.device.type == "cuda",
        )
        self.steps_per_epoch = math.ceil(len(self.loader) / config.accumulate)
        self.interruption = Interruption(lambda: report("stopping after this step; again: at once"))
        self.step = OptimizerStep(
            self.network,
            self.optimizer,
            self.scaler,
            config,
            self.device,
            self.processes,
            report,
        )
        self.save_timer = SaveTimer(config.save_every)
        self.epoch = self.steps = 0
        self.history: list[dict[str, Any]] = []
        # Of the epoch that is not finished: batches done, their losses added up, and the time they took.
        self.batches, self.seconds = 0, 0.0
        self.sums: dict[str, float] = {}
        self.skipped: set[tuple[int, int]] = set()  # (epoch, batch) without a finite gradient

    def initialise(self, path: Path) -> None:
        """Take over backbone weights, or whatever fits of a checkpoint of ours."""
        path = find_checkpoint(path)
        taken, total = take_over(self.model, path)
        self.average = WeightAverage(self.model, self.config.ema_decay)
        self.report(f"{taken} of {total} tensors taken from {path.name}")

    def quantise(self, ranges: Ranges) -> None:
        """From now on round as the INT8 engine of these ranges."""
        self.network.forward, self.ranges = FakeInt8.of(self.average.model, ranges), ranges
        freeze_batch_norms(self.model)
        self.report(f"quantisation-aware: {self.network.forward}")

    def compile(self) -> None:
        """From now on train the network as torch.compile makes it."""
        self.network.compiled = torch.compile(self.model, dynamic=False)

    def start(self, facts: dict[str, Any]) -> None:
        """Begin the run's folder; `facts` are noted there."""
        if self.processes.is_first:
            # The optimizer of AdamW keeps two numbers for each weight, and there are two checkpoints.
            self.folder.require_space(3 * self.state().bytes)
            self.folder.start(self.model.config, self.config, facts)
            if self.ranges is not None:
                self.ranges.save(self.folder.path / QAT_RANGES)
            self.folder.save_state(self.state())
        self.restore(self.processes.share_state(self.state() if self.processes.is_first else None))

    def resume(self) -> None:
        state = None
        if self.processes.is_first:
            state = self.folder.resume(self.model.config, self.config)
            self.folder.require_space(3 * self.state().bytes)
            if state is None:
                path = self.folder.path / "run.json"
                description = read_json(path, "run description", ArtifactError)
                if description.get("init") is not None:
                    fix = "start it again in another --out"
                    what = "the run ended before it had saved its first weights"
                    raise UsageError(what, where=self.folder.path, fix=fix)
                self.report("the run had not saved anything yet; starting from its beginning")
                state = self.state()
                self.folder.save_state(state)
        self.restore(self.processes.share_state(state))
        if (self.folder.path / QAT_RANGES).is_file():
            self.quantise(read_ranges(self.folder.path / QAT_RANGES))
        place = f", batch {self.batches} of epoch {self.epoch + 1}" if self.batches else ""
        self.report(f"resuming after epoch {self.epoch}{place}")

    def run(self, show_progress: bool) -> Path:
        """Train the remaining epochs; returns the best checkpoint (the last where nothing validates).

        Raises:
            KeyboardInterrupt: on SIGINT or SIGTERM, after the state was saved.
        """
        total = self.config.epochs * len(self.loader)
        show_progress = show_progress and self.processes.is_first
        with self.interruption, progress_bar(show_progress, total) as advance:
            advance(self.epoch * len(self.loader) + self.batches)
            if self.ranges is not None and self.validation and not self.history:
                # The one to beat: without a better epoch, the best checkpoint stays the given one.
                row = self.validate(self.validation)
                self.stop_if_asked()
                self.history.append({"epoch": self.epoch, **row})
                self.save(row)
                if row:
                    self.report(f"before training  AP {row['AP']:.3f}  AP50 {row['AP50']:.3f}")
            while self.epoch < self.config.epochs:
                self.freeze()
                row = self.train_epoch(advance)
                last = self.epoch + 1 == self.config.epochs
                due = last or (self.epoch + 1) % self.config.validate_every == 0
                if self.validation and due:
                    row |= self.validate(self.validation)
                self.stop_if_asked()
                self.finish_epoch(row)
        # The folder may be on another machine than this process, and not finished yet.
        return find_checkpoint(self.folder.path) if self.processes.is_first else self.folder.path

    def freeze(self) -> None:
        """Make learn what is to learn in this epoch."""
        until = self.config.freeze_epochs or self.config.epochs
        norms_stay = self.config.batch_norm == "frozen" or self.ranges is not None
        set_frozen(self.model, self.frozen, self.epoch < until, norms_stay=norms_stay)

    def train_epoch(self, advance: Callable[[int], None]) -> dict[str, float]:
        """The rest of this epoch; returns its row for the log."""
        while True:
            try:
                self._train_epoch(advance)
                break
            except NotFiniteError as problem:
                before = self.batches
                self.roll_back(str(problem))
                advance(self.batches - before)
        counted = max(self.sums.get("batches", 0), 1)
        losses = {name: self.sums.get(name, 0.0) / counted for name in self.step.loss_names}
        return {
            "step": self.steps,
            "learning_rate": self.learning_rate(self.steps - 1),
            **losses,
            "seconds": round(self.seconds, 1),
            "images_per_s": round(self.loader.batches.samples / max(self.seconds, 1e-9), 2),
        }

    def _train_epoch(self, advance: Callable[[int], None]) -> None:
        start = time.monotonic() - self.seconds
        for group, stop in self.groups():
            if (self.epoch, self.batches) not in self.skipped:
                losses = self.step.take(group, self.learning_rate(self.steps), self.steps)
                self.average.update(self.model)
                for name, value in {**losses, "batches": len(group)}.items():
                    self.sums[name] = self.sums.get(name, 0.0) + value
            self.steps += 1
            self.batches += len(group)
            self.seconds = time.monotonic() - start
            advance(len(group))
            # Several processes must all stop after the same step: they have agreed on it before it.
            if stop or (self.processes.world_size == 1 and self.interruption.requested):
                self.save_and_stop()
            if self.processes.is_first and self.save_timer.is_due(self.steps):
                self.folder.save_state(self.state())

    def groups(self) -> Iterator[tuple[list[tuple[Batch, Counts]], bool]]:
        """The batches of each coming step of this epoch, and whether to stop after it."""
        batches = self.loader.epoch(self.epoch, self.batches)
        left = len(self.loader) - self.batches
        while left:
            group, stop = [], False
            for _ in range(min(left, self.config.accumulate)):
                batch, counts, stop = self.exchange(batches)
                group.append((batch, counts))
            left -= len(group)
            yield group, stop

    def exchange(self, batches: Iterator[Batch]) -> tuple[Batch, Counts, bool]:
        """This process's share of the next batch, the counts of all of it, and whether anyone was stopped."""
        problem = None
        own = Counts(0, 0, 0)
        try:
            batch = next(batches)
            own = Counts.of(batch.targets, self.model.config.num_classes)
        except SoloEdgeError as error:
            problem = error
        flags = [float(problem is not None), float(self.interruption.requested)]
        *counts, failed, stop = self.processes.sum([*own, *flags])
        if problem is not None:
            raise problem
        if failed:
            raise ResourceError("another training process stopped", fix="see its message")
        return batch, Counts(*counts), stop > 0

    def learning_rate(self, step: int) -> float:
        return learning_rate(step, self.config.epochs * self.steps_per_epoch, self.config)

    def roll_back(self, problem: str) -> None:
        """Return to the last saved state, and leave out the batch at hand from now on."""
        order = self.loader.batches.order(self.epoch)
        first = self.batches * self.config.batch_size
        keys = order[first : first + self.config.batch_size * self.config.accumulate]
        ids = ", ".join(str(self.dataset.image_ids[key.image]) for key in keys)
        what, step = f"not finite at step {self.steps} ({problem})", self.steps
        skipped = self.skipped | {(self.epoch, self.batches)}
        if len(skipped) > MOST_SKIPPED:
            raise AccuracyError(
                f"{what}, for the {len(skipped)}th time",
                where=f"images {ids}",
                fix="check these images, lower --learning-rate or use --no-amp; the last state is kept",
            )
        state = self.folder.read_state() if self.processes.is_first else None
        self.restore(self.processes.share_state(state))
        self.skipped |= skipped
        self.report(
            f"{what} in images {ids}: back to step {self.steps}, and on without step {step}"
            f" ({len(skipped)} of {MOST_SKIPPED})"
        )

    def validate(self, validation: CocoDataset) -> dict[str, float]:
        """The metrics, in the first process; nothing in the others, and where it was interrupted."""
        if not self.processes.is_first:
            return {}
        forward = self.network.forward
        predict = model_predictor(self.average.model, self.dataset.class_names, forward)

        def predict_unless_stopped(image: NDArray[np.uint8]) -> Instances:
            if self.interruption.requested:
                raise _StoppedError
            return predict(image)

        try:
            result = evaluate(predict_unless_stopped, validation)
        except _StoppedError:
            return {}
        return {name: result.stats[name] for name in METRICS}

    def finish_epoch(self, row: dict[str, float]) -> None:
        self.epoch += 1
        self.history.append({"epoch": self.epoch, **row})
        self.batches, self.seconds, self.sums = 0, 0.0, {}
        self.save(row)
        self.report(epoch_line(self.epoch, self.config.epochs, row))

    def stop_if_asked(self) -> None:
        if self.processes.any(self.interruption.requested):
            self.save_and_stop()

    def save_and_stop(self) -> None:
        if self.processes.is_first:
            self.folder.save_state(self.state())
        self.report(f"stopped after step {self.steps}, which is saved; go on with --resume")
        raise KeyboardInterrupt

    def save(self, row: dict[str, float]) -> None:
        """Write the last checkpoint, the best one if this is it, the state and the log."""
        if not self.processes.is_first:
            return
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
        return TrainingState(
            tensors_of(*self._stateful()),
            self.epoch,
            self.steps,
            self.average.updates,
            self.history,
            self.batches,
            self.sums,
            self.seconds,
            sorted(map(list, self.skipped)),
        )

    def restore(self, state: TrainingState) -> None:
        restore_tensors(state.tensors, *self._stateful())
        self.average.updates = state.average_updates
        self.epoch, self.steps, self.history = state.epoch, state.step, state.history
        self.batches, self.seconds = state.batches, state.seconds
        self.sums = state.sums
        self.skipped = {(epoch, batch) for epoch, batch in state.skipped}

    def _stateful(self) -> tuple[Any, ...]:
        return self.model, self.network.extras, self.average, self.optimizer, self.scaler


class _StoppedError(Exception):
    """Ends a validation."""
