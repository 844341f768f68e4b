"""What a run needs to go on, as plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from solo_edge.models.solov2 import SOLOv2
from solo_edge.optim import WeightAverage

__all__ = ["restore_tensors", "tensors_of"]


def tensors_of(
    model: SOLOv2,
    extras: nn.Module,
    average: WeightAverage[SOLOv2],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> dict[str, Tensor]:
    """By the names of `run_folder.TrainingState`. They are the very tensors, not copies."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.model.state_dict().items()}
    tensors |= {f"extra.{k}": v for k, v in extras.state_dict().items()}
    for i, values in optimizer.state_dict()["state"].items():
        named = {k: torch.as_tensor(v) for k, v in values.items() if v is not None}
        tensors |= {f"optimizer.{i}.{k}": v for k, v in named.items()}
    return tensors | {f"scaler.{k}": torch.as_tensor(v) for k, v in scaler.state_dict().items()}


def restore_tensors(
    tensors: dict[str, Tensor],
    model: SOLOv2,
    extras: nn.Module,
    average: WeightAverage[SOLOv2],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """The reverse of `tensors_of`."""
    model.load_state_dict(_strip(tensors, "model."))
    average.model.load_state_dict(_strip(tensors, "average."))
    extras.load_state_dict(_strip(tensors, "extra."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _strip(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        # A step must not write into the tensors that were given.
        state.setdefault(int(index), {})[name] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if values := _strip(tensors, "scaler."):
        scaler.load_state_dict({name: value.item() for name, value in values.items()})


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
