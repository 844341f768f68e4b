"""A run that was stopped anywhere and resumed equals one that was not, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import pytest

from solo_edge.checkpoint import read_tensors
from solo_edge.run_folder import RunFolder, saved_configs
from solo_edge.train.step import OptimizerStep
from solo_edge.train.trainer import Trainer

# All that has state or randomness of its own; with accumulation, a step is two batches.
EVERYTHING = {
    "mosaic": 0.5,
    "close_mosaic": 1,
    "copy_paste": 0.5,
    "repeat_threshold": 0.9,
    "semantic_weight": 0.5,
    "lovasz_weight": 0.5,
    "category_loss": "quality",
    "freeze": "backbone:1",
    "freeze_epochs": 1,
    "layer_decay": 0.8,
}


def stop_before(patch, number, action):
    """Do `action` where step `number` of the run begins."""
    original = OptimizerStep.take

    def take(self, group, rate, step):
        if step == number:
            action()
        return original(self, group, rate, step)

    patch.setattr(OptimizerStep, "take", take)


def losses_in(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in rows]


@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "everything"])
def test_stopped_within_an_epoch(start, config, differences, tmp_path, monkeypatch, kind, number):
    if kind == "everything":
        config = dataclasses.replace(config, **EVERYTHING, accumulate=2, batch_size=2)
    start(tmp_path / "whole", config)
    with monkeypatch.context() as patch:
        stop_before(patch, number, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", config)
    assert saved_configs(tmp_path / "cut")[1] == config
    saved = RunFolder(tmp_path / "cut").read_state()
    assert saved.step == number + 1  # the step at hand is finished first
    lines: list[str] = []
    start(tmp_path / "cut", config, resume=True, report=lines.append)
    if saved.batches:
        assert any(f"batch {saved.batches} of epoch {saved.epoch + 1}" in line for line in lines)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "cut")


def test_lost_within_an_epoch(start, config, differences, tmp_path, monkeypatch):
    """Without a chance to save: from the last state, here that of every second step."""
    config = dataclasses.replace(config, save_every="2")
    start(tmp_path / "whole", config)

    def crash():
        raise RuntimeError("power failure")

    with monkeypatch.context() as patch:
        stop_before(patch, 5, crash)
        with pytest.raises(RuntimeError, match="power failure"):
            start(tmp_path / "cut", config)
    assert RunFolder(tmp_path / "cut").read_state().step == 4
    start(tmp_path / "cut", config, resume=True)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []


def test_stopped_while_it_validates(start, config, differences, tmp_path, monkeypatch):
    start(tmp_path / "whole", config)
    original = Trainer.validate

    def validate(self, validation):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, validation)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "validate", validate)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "cut", config)
    saved = RunFolder(tmp_path / "cut").read_state()
    assert (saved.epoch, saved.batches, saved.history) == (0, 3, [])
    start(tmp_path / "cut", config, resume=True)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    assert losses_in(tmp_path / "whole") == losses_in(tmp_path / "cut")


def test_the_second_signal_ends_at_once(start, config, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        stop_before(patch, 1, twice)
        with pytest.raises(KeyboardInterrupt):
            start(tmp_path / "run", config)
    assert RunFolder(tmp_path / "run").read_state().step == 0
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_states_of_earlier_versions_are_read(start, config, tmp_path):
    """They were saved at the end of an epoch and do not say where in one they are."""
    from safetensors.torch import save_file

    one = dataclasses.replace(config, epochs=1)
    start(tmp_path / "run", one)
    path = tmp_path / "run/resume.safetensors"
    tensors, metadata = read_tensors(path)
    facts = json.loads(metadata["state"])
    old = {k: facts[k] for k in ("epoch", "step", "average_updates", "history")}
    save_file(tensors, path, {"state": json.dumps(old)})
    start(tmp_path / "run", config, resume=True)
    assert RunFolder(tmp_path / "run").read_state().epoch == 2


def test_remains_of_a_killed_process_are_removed(start, config, tmp_path):
    start(tmp_path / "run", dataclasses.replace(config, epochs=1))
    remains = [tmp_path / "run" / name for name in (".resume-x1.safetensors", ".log-x2.csv")]
    for path in remains:
        path.write_bytes(b"half")
    start(tmp_path / "run", config, resume=True)
    assert not any(path.exists() for path in remains)
