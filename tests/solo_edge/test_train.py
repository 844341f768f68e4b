"""Training as a whole, on a handful of tiny rendered scenes."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from solo_edge.checkpoint import load_checkpoint, read_tensors
from solo_edge.config import TrainConfig, preset
from solo_edge.data.synthetic import make_dataset
from solo_edge.errors import AccuracyError, ArtifactError, DataError, ResourceError, UsageError
from solo_edge.optim import WeightAverage, build_optimizer, learning_rate
from solo_edge.run_folder import saved_configs
from solo_edge.train import Trainer, train

SIZE = (96, 96)
MODEL = preset(
    "solov2-nano-256",
    input_size=SIZE,
    fpn_channels=16,
    head_channels=16,
    kernel_length=16,
    mask_channels=16,
    grid_sizes=(8, 7, 6, 5, 4),
)
CONFIG = TrainConfig(epochs=2, batch_size=3, workers=0, amp=False, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "scenes"
    make_dataset(out, images=7, seed=3, size=SIZE, val_images=2, workers=1)
    return out


def start(data: Path, out: Path, config: TrainConfig = CONFIG, **options: object) -> Path:
    return train(data, MODEL, out, config, report=lambda _: None, **options)


def test_run_leaves_what_is_promised(data: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    best = train(data, MODEL, tmp_path / "run", CONFIG, report=lines.append)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {"tensorboard"}
    expected = {"run.json", "log.csv", "best.safetensors", "last.safetensors", "resume.safetensors"}
    assert names == expected
    assert best.name == "best.safetensors"
    rows = list(csv.DictReader((tmp_path / "run/log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["AP"]) <= 1 for row in rows)
    assert any("epoch 2/2" in line for line in lines)
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config.num_classes == len(checkpoint.class_names)
    assert "AP" in checkpoint.metrics


def test_resumed_run_equals_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    """Stopped in its second epoch and continued: the same weights, bit for bit."""
    start(data, tmp_path / "whole")

    calls = 0
    original = Trainer.update

    def stop_in_second_epoch(self: Trainer) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # three steps make an epoch
            raise KeyboardInterrupt
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "update", stop_in_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            start(data, tmp_path / "cut")
    assert saved_configs(tmp_path / "cut")[1] == CONFIG
    start(data, tmp_path / "cut", resume=True)
    whole, _ = read_tensors(tmp_path / "whole/resume.safetensors")
    cut, _ = read_tensors(tmp_path / "cut/resume.safetensors")
    assert whole.keys() == cut.keys()
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []


def test_a_run_is_never_overwritten_nor_resumed_with_other_options(
    data: Path, tmp_path: Path
) -> None:
    one = dataclasses.replace(CONFIG, epochs=1)
    start(data, tmp_path / "run", one)
    with pytest.raises(UsageError, match="--resume"):
        start(data, tmp_path / "run", one)
    with pytest.raises(UsageError, match="started with batch_size = 3"):
        start(data, tmp_path / "run", dataclasses.replace(one, batch_size=2), resume=True)
    with pytest.raises(UsageError, match="no run to resume"):
        start(data, tmp_path / "other", one, resume=True)
    start(data, tmp_path / "run", CONFIG, resume=True)  # longer
    assert saved_configs(tmp_path / "run")[1] == CONFIG
    assert load_checkpoint(tmp_path / "run/last.safetensors").training["epoch"] == CONFIG.epochs


def test_nan_stops_the_run_and_names_the_images(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solo_edge.data import loader

    def poisoned(sample: Callable, bad: int) -> Callable:
        def make(*arguments: object) -> object:
            made = sample(*arguments)
            if made.image_id == bad:
                made.image[:] = np.nan
            return made

        return make

    monkeypatch.setattr(loader, "training_sample", poisoned(loader.training_sample, 5))
    with pytest.raises(AccuracyError, match=r"images .*\b5\b"):
        start(data, tmp_path / "run")
    assert not (tmp_path / "run/last.safetensors").exists()


def test_starting_from_a_checkpoint_of_ours(data: Path, tmp_path: Path) -> None:
    one = dataclasses.replace(CONFIG, epochs=1, learning_rate=1e-12, ema_decay=0.0)
    first = start(data, tmp_path / "first", dataclasses.replace(CONFIG, epochs=1))
    second = start(data, tmp_path / "second", one, init=first)
    a, b = (load_checkpoint(p).model.state_dict() for p in (first, second))
    # With next to no learning rate the weights stay; running statistics move on.
    assert torch.allclose(a["head.kernel_out.weight"], b["head.kernel_out.weight"], atol=1e-6)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="do not fit the backbone"):
        start(data, tmp_path / "third", one, init=tmp_path / "foreign.safetensors")


def test_workers_do_not_change_the_samples(data: Path) -> None:
    from solo_edge.data.coco import open_dataset
    from solo_edge.data.loader import TrainingLoader

    dataset = open_dataset(data, "train")
    model = dataclasses.replace(MODEL, num_classes=len(dataset.class_names))
    seen = []
    for workers in (0, 2):
        config = dataclasses.replace(CONFIG, workers=workers)
        batches = list(TrainingLoader(dataset, model, config).epoch(3))
        assert [len(batch.targets) for batch in batches] == [3, 3, 1]
        seen.append(batches)
    for a, b in zip(*seen, strict=True):
        assert a.image_ids == b.image_ids
        assert torch.equal(a.images, b.images)


def test_a_lost_worker_is_one_line(data: Path) -> None:
    from solo_edge.data.coco import open_dataset
    from solo_edge.data.loader import TrainingLoader

    dataset = open_dataset(data, "train")
    model = dataclasses.replace(MODEL, num_classes=len(dataset.class_names))

    class Fatal:
        """Ends the process that reads from it, as the system does when memory is short."""

        image_ids = dataset.image_ids

        def __len__(self) -> int:
            return len(dataset)

        def image(self, index: int) -> np.ndarray:
            os._exit(9)

        ground_truth = image

    loader = TrainingLoader(Fatal(), model, dataclasses.replace(CONFIG, workers=1))
    with pytest.raises(ResourceError, match="--workers 0"):
        next(loader.epoch(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_one_line(data: Path, tmp_path: Path, workers: int) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    broken = copy / "train/000002.jpg"
    broken.write_bytes(b"no image")
    config = dataclasses.replace(CONFIG, workers=workers)
    with pytest.raises(DataError, match="000002") as raised:
        start(copy, tmp_path / "run", config, cache_bytes=0)
    assert "Traceback" not in str(raised.value)


@pytest.mark.parametrize(
    ("schedule", "step", "factor"),
    [
        ("cosine", 0, 0.01),
        ("cosine", 50, 0.5),
        ("cosine", 100, 0.0),
        ("step", 80, 0.1),
        ("step", 95, 0.01),
    ],
)
def test_learning_rate(schedule: str, step: int, factor: float) -> None:
    config = TrainConfig(schedule=schedule, learning_rate=2.0, warmup_steps=10)
    assert learning_rate(step, 100, config) == pytest.approx(2.0 * factor, abs=1e-9)


def test_optimizer_groups() -> None:
    model = torch.nn.ModuleDict(
        {"backbone": torch.nn.Conv2d(3, 4, 3), "head": torch.nn.Conv2d(4, 2, 1)}
    )
    optimizer = build_optimizer(model, TrainConfig(backbone_lr_scale=0.1))
    settings = {
        (g["lr_scale"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups
    }
    assert settings == {(0.1, 0.05): 1, (0.1, 0.0): 1, (1.0, 0.05): 1, (1.0, 0.0): 1}


def test_weight_average_by_hand() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, decay=0.999)
    torch.nn.init.constant_(model.weight, 11.0)
    average.update(model)  # decay is (1 + 1) / (10 + 1) at first
    assert average.model.weight.item() == pytest.approx(11.0 * 9 / 11)
