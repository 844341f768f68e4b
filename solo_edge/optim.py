"""Optimizer, learning-rate schedule and the averaged copy of the weights."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn

from solo_edge.config import TrainConfig

__all__ = ["WeightAverage", "build_optimizer", "learning_rate", "set_learning_rate"]

Model = TypeVar("Model", bound=nn.Module)
WARMUP_START = 0.01  # of the full rate


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW. Norms and biases are not decayed; the backbone has its own learning-rate scale."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = config.backbone_lr_scale if name.startswith("backbone.") else 1.0
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
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
