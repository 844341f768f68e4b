"""A step that goes wrong: numbers that are not finite, and too little memory."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from solo_edge.checkpoint import load_checkpoint, read_tensors
from solo_edge.data import samples
from solo_edge.errors import AccuracyError, ResourceError
from solo_edge.models.solov2 import SOLOv2
from solo_edge.run_folder import RunFolder
from solo_edge.train.step import OptimizerStep


def poison(monkeypatch, *image_ids):
    """Samples of these images become NaN."""
    original = samples.training_sample

    def make(*arguments):
        sample = original(*arguments)
        if sample.image_id in image_ids:
            sample.image[:] = np.nan
        return sample

    monkeypatch.setattr(samples, "training_sample", make)


def test_a_batch_that_is_not_finite_is_left_out(start, config, differences, tmp_path, monkeypatch):
    poison(monkeypatch, 5)
    lines: list[str] = []
    start(tmp_path / "run", report=lines.append)
    told = [line for line in lines if "not finite" in line]
    assert len(told) == 2  # once in each epoch
    assert all(re.search(r"images [\d, ]*\b5\b.*back to step", line) for line in told)
    state = RunFolder(tmp_path / "run").read_state()
    assert len(state.skipped) == 2
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())
    assert all(np.isfinite(row["dice_loss"]) for row in state.history)

    # With other states to go back to, cut short behind the first of them, and resumed: the same.
    original = OptimizerStep.take

    def crash(self, group, rate, step):
        if step == 4:
            raise RuntimeError
        return original(self, group, rate, step)

    saves = dataclasses.replace(config, save_every="1")
    with monkeypatch.context() as patch:
        patch.setattr(OptimizerStep, "take", crash)
        with pytest.raises(RuntimeError):
            start(tmp_path / "cut", saves)
    start(tmp_path / "cut", saves, resume=True)
    assert differences(tmp_path / "run", tmp_path / "cut") == []
    assert RunFolder(tmp_path / "cut").read_state().skipped == state.skipped


def test_a_run_without_finite_numbers_ends_and_keeps_its_last_state(
    start, config, tmp_path, monkeypatch
):
    start(tmp_path / "run", dataclasses.replace(config, epochs=1))
    poison(monkeypatch, *range(100))
    long = dataclasses.replace(config, epochs=4)
    with pytest.raises(AccuracyError, match=r"images \d+, \d+.* for the 4th time") as raised:
        start(tmp_path / "run", long, resume=True)
    assert raised.value.exit_code == 7
    state = RunFolder(tmp_path / "run").read_state()
    assert state.epoch == 2  # the one without a single step, and the one before it
    assert all(torch.isfinite(tensor).all() for tensor in state.tensors.values())
    weights = load_checkpoint(tmp_path / "run/last.safetensors").model.state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_a_gradient_that_is_not_finite_is_seen(start, config, tmp_path, monkeypatch):
    """The losses are fine; a single weight's gradient is not. Nothing of it reaches the weights."""
    original = OptimizerStep._gradients
    calls = 0

    def gradients(self, group):
        nonlocal calls
        losses = original(self, group)
        calls += 1
        if calls == 2:
            next(self.network.model.head.parameters()).grad[0, 0, 0, 0] = torch.inf
        return losses

    monkeypatch.setattr(OptimizerStep, "_gradients", gradients)
    lines: list[str] = []
    start(tmp_path / "run", dataclasses.replace(config, save_every="1"), report=lines.append)
    told = [line for line in lines if "not finite" in line]
    assert len(told) == 1
    assert "at step 1" in told[0]
    assert "norm of the gradient inf" in told[0]
    assert "back to step 1," in told[0]  # the state after the first step was saved
    assert RunFolder(tmp_path / "run").read_state().skipped == [[0, 1]]
    tensors, _ = read_tensors(tmp_path / "run/resume.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def limit_memory(monkeypatch, images):
    """As an accelerator that has room for so many images at once."""
    original = SOLOv2.forward

    def forward(self, batch):
        if len(batch) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, batch)

    monkeypatch.setattr(SOLOv2, "forward", forward)


def test_out_of_memory_keeps_the_effective_batch(start, config, tmp_path, monkeypatch):
    """With norms that do not depend on the batch, pieces of it give the same weights."""
    config = dataclasses.replace(
        config, batch_norm="frozen", lovasz_weight=1.0, semantic_weight=1.0, optimizer="sgd"
    )
    start(tmp_path / "whole", config)
    limit_memory(monkeypatch, 1)
    lines: list[str] = []
    start(tmp_path / "pieces", config, report=lines.append)
    told = [line for line in lines if "out of memory" in line]
    assert len(told) == 2  # 3 -> 2 -> 1, and never again
    assert "from now on 2 images at once instead of 3; the batch stays 3" in told[0]
    assert "from now on 1 images at once instead of 2" in told[1]
    whole, pieces = (
        read_tensors(tmp_path / name / "resume.safetensors")[0] for name in ("whole", "pieces")
    )
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=1e-4, atol=1e-6)
    rows = [RunFolder(tmp_path / name).read_state().history for name in ("whole", "pieces")]
    for a, b in zip(*rows, strict=True):
        assert a["dice_loss"] == pytest.approx(b["dice_loss"], rel=1e-5)


def test_no_memory_for_one_image_is_one_line(start, config, tmp_path, monkeypatch):
    limit_memory(monkeypatch, 0)
    with pytest.raises(
        ResourceError, match=r"with 1 images at once \(CUDA out of memory"
    ) as raised:
        start(tmp_path / "run")
    assert raised.value.exit_code == 6
