"""The optimizer's groups, the learning rate's course and the averaged weights."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch

from solo_edge.config import TrainConfig, preset
from solo_edge.models.solov2 import SOLOv2
from solo_edge.optim import (
    WeightAverage,
    backbone_stages,
    build_optimizer,
    learning_rate,
    set_learning_rate,
)


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
def test_learning_rate(schedule, step, factor):
    config = TrainConfig(schedule=schedule, learning_rate=2.0, warmup_steps=10)
    assert learning_rate(step, 100, config) == pytest.approx(2.0 * factor, abs=1e-9)


def test_optimizer_groups():
    model = torch.nn.ModuleDict(
        {"backbone": torch.nn.Conv2d(3, 4, 3), "head": torch.nn.Conv2d(4, 2, 1)}
    )
    optimizer = build_optimizer(model, TrainConfig(backbone_lr_scale=0.1))
    settings = {
        (g["lr_scale"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups
    }
    assert settings == {(0.1, 0.05): 1, (0.1, 0.0): 1, (1.0, 0.05): 1, (1.0, 0.0): 1}


def test_neither_norms_nor_biases_decay():
    model = SOLOv2(preset("solov2-nano-256", num_classes=2))
    extras = torch.nn.ModuleDict({"semantic": torch.nn.Conv2d(64, 2, 1)})
    optimizer = build_optimizer(model, TrainConfig(), extras)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    modules = [*model.modules(), *extras.modules()]
    assert len(decays) == len(list(model.parameters())) + 2
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            is_norm = isinstance(module, (torch.nn.BatchNorm2d, torch.nn.GroupNorm))
            assert (decays[id(parameter)] == 0) == (is_norm or name == "bias")


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("resnet18", {0: "conv1", 1: "layer1", 2: "layer2", 3: "layer3", 4: "layer4"}),
        (
            "mobilenetv2_100",
            {0: "blocks.0", 1: "blocks.1", 2: "blocks.2", 3: "blocks.4", 4: "blocks.6"},
        ),
        ("convnext_atto", {1: "stem_0", 2: "stages_1", 3: "stages_2", 4: "stages_3"}),
    ],
)
def test_stages_of_a_backbone(backbone, expected):
    model = SOLOv2(preset("solov2-nano-256", num_classes=2, backbone=backbone))
    stages = backbone_stages(model)
    assert stages.keys() == {n for n, _ in model.named_parameters() if n.startswith("backbone.")}
    names = defaultdict(list)
    for name, stage in stages.items():
        names[stage].append(name.removeprefix("backbone.body."))
    assert names.keys() == expected.keys()
    for stage, prefix in expected.items():
        assert any(name.startswith(f"{prefix}.") for name in names[stage])
    assert list(stages.values()) == sorted(stages.values())


def test_rates_fall_toward_the_stem():
    model = SOLOv2(preset("solov2-nano-256", num_classes=2))
    optimizer = build_optimizer(model, TrainConfig(layer_decay=0.5, backbone_lr_scale=0.8))
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    stages = backbone_stages(model)
    for name, parameter in model.named_parameters():
        scale = 0.8 * 0.5 ** (4 - stages[name]) if name in stages else 1.0
        assert rates[id(parameter)] == pytest.approx(scale)


def test_weight_average_by_hand():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = WeightAverage(model, decay=0.999)
    torch.nn.init.constant_(model.weight, 11.0)
    average.update(model)  # decay is (1 + 1) / (10 + 1) at first
    assert average.model.weight.item() == pytest.approx(11.0 * 9 / 11)
