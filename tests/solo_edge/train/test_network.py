"""Layers and models that only training needs: they learn or teach, and reach no checkpoint."""

from __future__ import annotations

import dataclasses

import pytest

from solo_edge.checkpoint import load_checkpoint, read_tensors
from solo_edge.errors import ResourceError, UsageError
from solo_edge.run_folder import RunFolder
from solo_edge.train import train
from solo_edge.train.step import OptimizerStep


@pytest.fixture(scope="module")
def teacher(data, model, config, tmp_path_factory):
    """A model with longer mask kernels, trained for one epoch."""
    larger = dataclasses.replace(model, kernel_length=32, mask_channels=32)
    one = dataclasses.replace(config, epochs=1)
    return train(data, larger, tmp_path_factory.mktemp("t") / "run", one, report=lambda _: None)


def test_extras_learn_and_are_in_no_checkpoint(start, config, teacher, tmp_path):
    own = dataclasses.replace(config, semantic_weight=1.0)
    plain = start(tmp_path / "plain")
    best = start(tmp_path / "run", own, teacher=teacher)
    tensors, _ = read_tensors(tmp_path / "run/resume.safetensors")
    extras = {name for name in tensors if name.startswith("extra.")}
    assert {name.split(".")[1] for name in extras} == {"adapter", "semantic"}
    assert tensors["extra.adapter.weight"].shape == (32, 16, 1, 1)
    assert read_tensors(best)[0].keys() == read_tensors(plain)[0].keys()
    assert load_checkpoint(best).config == load_checkpoint(plain).config
    row = RunFolder(tmp_path / "run").read_state().history[0]
    names = ("dice", "focal", "semantic", "distill_category", "distill_features", "distill_masks")
    assert [name for name in row if name.endswith("_loss")] == [f"{name}_loss" for name in names]
    first = RunFolder(tmp_path / "run").read_state().history
    assert first[1]["distill_features_loss"] < first[0]["distill_features_loss"]


def test_a_run_goes_on_with_its_teacher(start, config, differences, teacher, tmp_path, monkeypatch):
    start(tmp_path / "whole", teacher=teacher)
    original = OptimizerStep.take

    def crash(self, group, rate, step):
        if step == 4:
            raise RuntimeError
        return original(self, group, rate, step)

    with monkeypatch.context() as patch:
        patch.setattr(OptimizerStep, "take", crash)
        with pytest.raises(RuntimeError):
            start(tmp_path / "cut", teacher=teacher)
    with pytest.raises(UsageError, match=f"started with --teacher {teacher.name}; give the same"):
        start(tmp_path / "cut", resume=True)
    start(tmp_path / "cut", resume=True, teacher=teacher)
    assert differences(tmp_path / "whole", tmp_path / "cut") == []
    start(tmp_path / "alone", dataclasses.replace(config, epochs=1))
    with pytest.raises(UsageError, match="started with --teacher None; leave --teacher away"):
        start(tmp_path / "alone", config, resume=True, teacher=teacher)


@pytest.mark.slow
def test_a_compiled_step_learns_the_same(data, model, config, tmp_path):
    """All images in one batch, for each size of a batch is compiled by itself."""
    own = dataclasses.replace(config, batch_size=7, optimizer="sgd", learning_rate=0.01)
    small = dataclasses.replace(model, backbone="resnet10t")
    rows = []
    for compiled in (False, True):
        out = tmp_path / f"run-{compiled}"
        choice = dataclasses.replace(own, compile=compiled)
        train(data, small, out, choice, report=lambda _: None)
        rows.append(RunFolder(out).read_state().history)
    for plain, other in zip(*rows, strict=True):
        for name in ("dice_loss", "focal_loss"):
            assert other[name] == pytest.approx(plain[name], rel=1e-3)


def test_a_compiler_that_fails_is_one_line(start, config, tmp_path, monkeypatch):
    import torch

    def broken(graph, inputs):
        raise OSError("no C++ compiler")

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda m, **o: original(m, backend=broken, **o))
    with pytest.raises(ResourceError, match=r"torch\.compile does not work here.*leave --compile"):
        start(tmp_path / "run", dataclasses.replace(config, compile=True))
