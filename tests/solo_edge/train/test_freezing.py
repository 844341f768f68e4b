"""What is frozen stays, bit for bit, as long as it was said; the rest learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from solo_edge.checkpoint import read_tensors
from solo_edge.config import preset
from solo_edge.errors import UsageError
from solo_edge.models.solov2 import SOLOv2
from solo_edge.optim import backbone_stages
from solo_edge.run_folder import RunFolder
from solo_edge.train.batch_norm import prepare_batch_norms
from solo_edge.train.freezing import frozen_parameters, set_frozen


@pytest.fixture(scope="module")
def network():
    return SOLOv2(preset("solov2-nano-256", num_classes=2))


def test_options_name_parameters(network):
    names = [name for name, _ in network.named_parameters()]
    stages = backbone_stages(network)
    assert frozen_parameters(network, "none") == set()
    assert frozen_parameters(network, "backbone") == set(stages)
    assert frozen_parameters(network, "backbone:4") == set(stages)
    assert frozen_parameters(network, "backbone:1") == {n for n in names if stages.get(n, 9) <= 1}
    assert frozen_parameters(network, "fpn") == {n for n in names if n.startswith("fpn.")}


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ("backbon", "did you mean 'backbone'"),
        ("backbone:5", "backbone:0"),
        ("backbone:", "backbone:0"),
        ("head:1", "backbone:0"),
    ],
)
def test_other_options_are_refused(network, option, fix):
    with pytest.raises(UsageError, match=fix):
        frozen_parameters(network, option)


def state(run):
    tensors, _ = read_tensors(run / "resume.safetensors")
    return {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}


@pytest.mark.parametrize(("epochs", "first_moves"), [(0, False), (1, True)])
def test_frozen_stages_keep_weights_and_statistics(start, config, tmp_path, epochs, first_moves):
    options = {"freeze": "backbone:2", "freeze_epochs": epochs}
    config = dataclasses.replace(config, **options)
    start(tmp_path / "run", dataclasses.replace(config, epochs=1))
    first = state(tmp_path / "run")
    start(tmp_path / "run", config, resume=True)  # the second epoch
    second = state(tmp_path / "run")
    stages = backbone_stages(SOLOv2(preset("solov2-nano-256", num_classes=2)))
    modules = {name.rpartition(".")[0]: stage for name, stage in stages.items()}
    moved = {name: not torch.equal(first[name], second[name]) for name in first}
    for name, has_moved in moved.items():
        stage = modules.get(name.rpartition(".")[0], 9)
        if stage <= 2:
            assert has_moved == first_moves, name
    assert moved["head.category_out.weight"]
    deepest = [name for name in moved if modules.get(name.rpartition(".")[0]) == 4]
    assert any(moved[name] for name in deepest if "running_mean" in name)


def test_frozen_batch_norms(start, config, tmp_path):
    own = dataclasses.replace(config, batch_norm="frozen", epochs=1)
    start(tmp_path / "run", own)
    first = state(tmp_path / "run")
    assert all(v.eq(0).all() for k, v in first.items() if k.endswith("running_mean"))
    assert all(v.eq(1).all() for k, v in first.items() if "backbone" in k and ".bn1.weight" in k)
    assert RunFolder(tmp_path / "run").read_state().step == 3


def test_unfreezing_leaves_frozen_norms_alone(network):
    network.train()
    prepare_batch_norms(network, "frozen")
    names = frozen_parameters(network, "backbone")
    set_frozen(network, names, True, norms_stay=True)
    set_frozen(network, names, False, norms_stay=True)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not any(m.training or m.weight.requires_grad for m in norms)
    convolution = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    assert convolution.weight.requires_grad
