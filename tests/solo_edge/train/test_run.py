"""Training as a whole, on a handful of tiny rendered scenes."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from solo_edge.checkpoint import load_checkpoint
from solo_edge.cli import main
from solo_edge.config import TrainConfig
from solo_edge.errors import ArtifactError, DataError, UsageError
from solo_edge.run_folder import saved_configs


def test_run_leaves_what_is_promised(start, tmp_path):
    lines: list[str] = []
    best = start(tmp_path / "run", report=lines.append)
    names = {path.name for path in (tmp_path / "run").iterdir()} - {"tensorboard"}
    checkpoints = {f"{name}.safetensors" for name in ("best", "last", "resume")}
    assert names == {"run.json", "log.csv", "log.jsonl"} | checkpoints
    assert best.name == "best.safetensors"
    rows = list(csv.DictReader((tmp_path / "run/log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["AP"]) <= 1 for row in rows)
    objects = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [{k: str(v) for k, v in row.items()} for row in objects] == rows
    assert any("epoch 2/2" in line for line in lines)
    checkpoint = load_checkpoint(tmp_path / "run")
    assert checkpoint.config.num_classes == len(checkpoint.class_names)
    assert "AP" in checkpoint.metrics


def test_a_run_is_never_overwritten_nor_resumed_with_other_options(start, config, tmp_path):
    one = dataclasses.replace(config, epochs=1)
    start(tmp_path / "run", one)
    with pytest.raises(UsageError, match="--resume"):
        start(tmp_path / "run", one)
    with pytest.raises(UsageError, match="started with batch_size = 3"):
        start(tmp_path / "run", dataclasses.replace(one, batch_size=2), resume=True)
    with pytest.raises(UsageError, match="no run to resume"):
        start(tmp_path / "other", one, resume=True)
    start(tmp_path / "run", config, resume=True)  # longer
    assert saved_configs(tmp_path / "run")[1] == config
    assert load_checkpoint(tmp_path / "run/last.safetensors").training["epoch"] == config.epochs


def test_starting_from_a_checkpoint_of_ours(start, config, tmp_path):
    one = dataclasses.replace(config, epochs=1, learning_rate=1e-12, ema_decay=0.0)
    first = start(tmp_path / "first", dataclasses.replace(config, epochs=1))
    second = start(tmp_path / "second", one, init=first)
    a, b = (load_checkpoint(p).model.state_dict() for p in (first, second))
    # With next to no learning rate the weights stay; running statistics move on.
    assert torch.allclose(a["head.kernel_out.weight"], b["head.kernel_out.weight"], atol=1e-6)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="do not fit the backbone"):
        start(tmp_path / "third", one, init=tmp_path / "foreign.safetensors")


def test_a_checkpoint_that_computes_otherwise_is_refused(start, model, config, tmp_path):
    """Its weights would fit, and mean something else."""
    from solo_edge.checkpoint import Checkpoint, save_checkpoint
    from solo_edge.models.solov2 import SOLOv2

    other = SOLOv2(dataclasses.replace(model, pixel_std=(1.0, 1.0, 1.0)))
    names = tuple(f"thing {i}" for i in range(model.num_classes))
    save_checkpoint(
        tmp_path / "other.safetensors",
        Checkpoint(other, names, tuple(range(1, model.num_classes + 1))),
    )
    with pytest.raises(UsageError, match=r"its pixel_std is .*--set pixel_std=1.0,1.0,1.0"):
        start(tmp_path / "run", config, init=tmp_path / "other.safetensors")


def test_splits_with_other_classes_are_refused(data, model, config, tmp_path):
    from solo_edge.train import train

    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    content = json.loads((copy / "val.json").read_text())
    content["categories"][0]["name"] = "something else"
    (copy / "val.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"\[classes-differ\]; solo-edge check-data"):
        train(copy, model, tmp_path / "run", config, report=lambda _: None)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_one_line(data, model, config, tmp_path, workers):
    from solo_edge.train import train

    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    broken: Path = copy / "train/000002.jpg"
    broken.write_bytes(b"no image")
    config = dataclasses.replace(config, workers=workers)
    options = {"cache_bytes": 0, "report": lambda _: None}
    with pytest.raises(DataError, match="000002") as raised:
        train(copy, model, tmp_path / "run", config, **options)
    assert "Traceback" not in str(raised.value)


def test_an_augmentation_sets_several_options(data, tmp_path, capsys):
    words = ["train", "--data", data, "--out", tmp_path / "run", "--augmentation", "copy-paste"]
    words += ["--jitter", "0.9", "1.1", "--epochs", "1", "--workers", "0", "--no-amp"]
    words += ["--model", "solov2-nano-256", "--set", "input_size=(64, 64)", "--device", "cpu"]
    assert main(list(map(str, words))) == 0, capsys.readouterr().err
    saved = saved_configs(tmp_path / "run")[1]
    assert (saved.copy_paste, saved.jitter, saved.mosaic) == (0.5, (0.9, 1.1), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_every": "5x"}, "--save-every is '5x'; give steps"),
        ({"copy_paste": 1.5}, "--copy-paste is 1.5; it must be from 0 to 1"),
        ({"mosaic": 0.5, "epochs": 10}, "--close-mosaic is 10; it leaves none of 10 epochs"),
        ({"batch_norm": "synch"}, "use 'batch' or 'sync' or 'frozen'"),
        ({"layer_decay": 0.0}, "--layer-decay"),
        ({"lovasz_weight": -1.0}, "--lovasz-weight is -1.0; it must not be negative"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**options)
