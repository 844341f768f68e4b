"""Which statistics batch norms use in training: those of a process, of all processes, or the given ones."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["prepare_batch_norms"]


def prepare_batch_norms(model: nn.Module, kind: Literal["batch", "sync", "frozen"]) -> None:
    """Set how the batch norms of `model` (in training mode) get their mean and variance.

    "batch": from the images of this process. "sync": from those of all processes together, the network's
    names and weights stay. "frozen": running statistics, weights and biases stay what they are, as in
    detectors that start from a pretrained backbone and train with few images in a step.
    """
    for module in model.modules():
        if not isinstance(module, nn.BatchNorm2d):
            continue
        if kind == "frozen":
            module.eval().requires_grad_(False)
        elif kind == "sync":
            # Only the class changes: timm's norms, which end with an activation, stay what they are.
            own = type(module)
            module.__class__ = type(f"Synchronised{own.__name__}", (_Synchronised, own), {})


class _Synchronised(nn.BatchNorm2d):
    """Normalises with the mean and variance over all processes (torch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        mean, variance, count = _global_statistics(x if x.dtype == torch.float64 else x.float())
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = self.momentum
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        # Not x * scale + (bias - mean * scale): where the mean is large, digits would be lost.
        centred = x - mean[:, None, None]
        y = torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)
        # timm's BatchNormAct2d
        own = cast(Any, self)
        return own.act(own.drop(y)) if hasattr(self, "act") else y


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B, C, H, W] of each process -> mean [C], variance [C] and the number of values, over all of them."""
    count = x.new_tensor(float(x.numel() // x.shape[1]))
    mean = x.sum((0, 2, 3)) / count.clamp_min(1)
    variance = (x - mean[:, None, None]).square().sum((0, 2, 3)) / count.clamp_min(1)
    own = torch.cat([mean, variance, count[None]])
    # Each process fills its own row of a table, so that one sum brings together all rows.
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    table = F.pad(own[None], (0, 0, rank, world_size - 1 - rank))
    table = cast(Tensor, _SumOverProcesses.apply(table))
    means, variances, counts = table[:, : len(mean)], table[:, len(mean) : -1], table[:, -1:]
    total = counts.sum()
    share = counts / total
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    return mean, variance, total.detach()


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; what each loses or gains by it reaches every summand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total
