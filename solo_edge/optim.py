"""Optimizer, learning-rate schedule and the averaged copy of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any, Generic, TypeVar, cast

import torch
from torch import nn

from solo_edge.config import TrainConfig

__all__ = [
    "LAST_STAGE",
    "WeightAverage",
    "backbone_stages",
    "build_optimizer",
    "learning_rate",
    "set_learning_rate",
]

Model = TypeVar("Model", bound=nn.Module)
WARMUP_START = 0.01  # of the full rate
LAST_STAGE = 4  # of a backbone, at stride 32; the stem is stage 0


def build_optimizer(
    model: nn.Module, config: TrainConfig, extras: nn.Module | None = None
) -> torch.optim.Optimizer:
    """SGD or AdamW. Norms and biases are not decayed; the backbone has learning-rate scales of its own.

    The last stage of the backbone has `backbone_lr_scale`, each one before it `layer_decay` times the
    next one's, the stem as well (as in BEiT, arXiv:2106.08254, by stages instead of by layers).

    Args:
        extras: what is trained with the model without being a part of it.
    """
    stages = backbone_stages(model) if config.layer_decay < 1 else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = config.backbone_lr_scale if name.startswith("backbone.") else 1.0
        scale *= config.layer_decay ** (LAST_STAGE - stages.get(name, LAST_STAGE))
        groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    for parameter in extras.parameters() if extras is not None else ():
        groups.setdefault((1.0, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr_scale": scale,
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (scale, decayed), parameters in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(settings, lr=config.learning_rate)


def backbone_stages(model: nn.Module) -> dict[str, int]:
    """Name in `model` of each parameter of its backbone -> stage: 0 the stem, 1 to 4 strides 4 to 32.

    A parameter belongs to the first stage whose features are computed in its module or behind it.
    Where a backbone has no features before stride 4, the stem counts to stage 1.
    """
    body: Any = cast(Any, model).backbone.body
    order = [name for name, _ in body.named_modules()]
    ends: list[tuple[int, int]] = []  # position of the last module of each stage, and the stage
    for feature in body.feature_info.info:
        # timm joins the parts of a name where it takes a network apart.
        names = {feature["module"], feature["module"].replace(".", "_")}
        inside = [
            position
            for position, name in enumerate(order)
            if any(name == own or name.startswith(f"{own}.") for own in names)
        ]
        ends.append((max(inside), max(int(math.log2(feature["reduction"])) - 1, 0)))
    stages = {}
    for name, _ in body.named_parameters():
        position = order.index(name.rpartition(".")[0])
        stage = next((stage for end, stage in ends if position <= end), LAST_STAGE)
        stages[f"backbone.body.{name}"] = stage
    return stages


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Rate at `step` of `total_steps`: linear warm-up, then a cosine to zero, or tenths at milestones."""
    progress = step / max(total_steps, 1)
    if config.schedule == "cosine":
        rate = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    else:
        rate = 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    # A short run must not spend itself on warming up.
    warmup = min(config.warmup_steps, total_steps // 4)
    if step < warmup:
        rate *= WARMUP_START + (1 - WARMUP_START) * step / warmup
    return config.learning_rate * rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


class WeightAverage(Generic[Model]):
    """Exponential moving average of a model's weights and statistics, with a quicker start."""

    def __init__(self, model: Model, decay: float):
        self.decay = decay
        self.updates = 0
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[name].to(average.dtype), 1 - decay)
            else:
                average.copy_(current[name])
