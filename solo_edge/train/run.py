"""`train`: a run from the data to its best checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from solo_edge.checkpoint import find_checkpoint
from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.data.defects import advice
from solo_edge.distill import Teacher
from solo_edge.errors import ArtifactError, DataError, UsageError
from solo_edge.files import read_json, sha256_of
from solo_edge.qat import read_start
from solo_edge.train.processes import Processes
from solo_edge.train.trainer import Report, Trainer

__all__ = ["train"]


def train(
    data: Path,
    model: ModelConfig | None,
    out: Path,
    config: TrainConfig,
    *,
    init: Path | None = None,
    qat: Path | None = None,
    teacher: Path | None = None,
    resume: bool = False,
    cache_bytes: int = 4 << 30,
    report: Report = print,
    show_progress: bool = False,
) -> Path:
    """Train `model` on the split "train" of `data`, validating on "val"; returns the best checkpoint.

    Started by torchrun, it is one of several processes that compute a share of each batch; their number
    is no part of the run, which may be resumed with another one.

    Args:
        model: `num_classes` is replaced by the number of categories in the data. None with `qat`.
        out: folder of the run (see `solo_edge.run_folder`).
        init: backbone weights as safetensors, or a checkpoint of ours whose fitting weights are taken.
        qat: file of `solo-edge calibrate`, measured with the checkpoint `init`: fine-tune that for the
            INT8 engine of these ranges (see `solo_edge.qat`), a few epochs at a hundredth of the usual
            learning rate. All APs are then those of the rounded network, and the run gets a
            file `ranges.json` for its best checkpoint.
        teacher: checkpoint of a larger model for the same classes (see `solo_edge.distill`); to be given
            again where the run is resumed.
        resume: continue the run in `out` where it was saved last.
        cache_bytes: decoded images are kept in memory when they need no more than this.
        report: receives one line per event.

    Raises:
        UsageError: options that exclude each other, or classes other than those of the checkpoint.
        ArtifactError: with `qat`, ranges of another checkpoint.
        AccuracyError: the loss or its gradient became NaN or infinite again and again; the message names
            the images of that batch.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the state was saved.
    """
    with Processes.joined(config.device) as processes:
        return _train(
            data,
            model,
            out,
            config,
            init=init,
            qat=qat,
            teacher=teacher,
            resume=resume,
            cache_bytes=cache_bytes // processes.local_size,
            report=report,
            show_progress=show_progress,
            processes=processes,
        )


def _train(
    data: Path,
    model: ModelConfig | None,
    out: Path,
    config: TrainConfig,
    *,
    init: Path | None,
    qat: Path | None,
    teacher: Path | None,
    resume: bool,
    cache_bytes: int,
    report: Report,
    show_progress: bool,
    processes: Processes,
) -> Path:
    start = None if qat is None else read_start(init, qat)
    _require_agreement(config, qat, processes.world_size)
    note = report if processes.is_first else lambda _: None
    dataset = open_dataset(data, "train")
    validation = _validation_split(data, dataset, note)
    for warning in dataset.warnings:
        note(f"note: {warning}")
    if start is not None:
        start.require_classes(dataset.class_names, data)
        model = start.checkpoint.config
    if model is None:
        raise UsageError("no model is given", fix="give one, or --init and --qat")
    model = dataclasses.replace(model, num_classes=len(dataset.class_names))
    if resume:
        _require_same_teacher(out, teacher)
    larger = None if teacher is None else Teacher(teacher, dataset.class_names, model)
    trainer = Trainer(
        dataset,
        validation,
        model,
        out,
        config,
        cache_bytes,
        report,
        teacher=larger,
        processes=processes,
    )
    if resume:
        trainer.resume()
    else:
        if init is not None:
            trainer.initialise(init)
        if start is not None:
            trainer.quantise(start.ranges)
        facts = {"data": data.resolve().name, "init": init.name if init else None}
        trainer.start({**facts, "qat": qat.name if qat else None, **_teacher_facts(teacher)})
    if config.compile:
        trainer.compile()
    try:
        return trainer.run(show_progress)
    finally:
        trainer.folder.close()


def _require_agreement(config: TrainConfig, qat: Path | None, world_size: int) -> None:
    if config.batch_size % world_size:
        fix = (
            f"use a multiple of {world_size}; it is the number of images of all processes together"
        )
        what = f"--batch-size is {config.batch_size} for {world_size} processes"
        raise UsageError(what, fix=fix)
    if qat is not None and config.compile:
        raise UsageError("--qat and --compile exclude each other", fix="leave --compile away")


def _teacher_facts(teacher: Path | None) -> dict[str, str | None]:
    if teacher is None:
        return {"teacher": None, "teacher_sha256": None}
    return {"teacher": teacher.name, "teacher_sha256": sha256_of(find_checkpoint(teacher))}


def _require_same_teacher(out: Path, teacher: Path | None) -> None:
    """A run goes on with the teacher it was started with, or without one."""
    path = out / "run.json"
    if not path.is_file():
        return  # `RunFolder.resume` says so
    saved = read_json(path, "run description", ArtifactError)
    if saved.get("teacher_sha256") != _teacher_facts(teacher)["teacher_sha256"]:
        before = saved.get("teacher")
        fix = "leave --teacher away" if before is None else "give the same --teacher again"
        raise UsageError(f"the run was started with --teacher {before}", where=out, fix=fix)


def _validation_split(data: Path, dataset: CocoDataset, report: Report) -> CocoDataset | None:
    try:
        validation = open_dataset(data, "val")
    except UsageError:
        report(f"note: {data} has no split 'val': nothing validates, the last epoch counts")
        return None
    if validation.class_names != dataset.class_names:
        what = "train and val differ in their classes [classes-differ]"
        raise DataError(what, where=data, fix=advice(data))
    return validation
