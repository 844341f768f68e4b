"""One optimizer step: gradients of a group of batches, in as small pieces as the memory wants."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from solo_edge.config import TrainConfig
from solo_edge.data.loader import Batch
from solo_edge.errors import ResourceError
from solo_edge.losses import Counts
from solo_edge.optim import set_learning_rate
from solo_edge.train.device import amp_dtype
from solo_edge.train.network import TrainingNetwork
from solo_edge.train.processes import Processes

__all__ = ["NotFiniteError", "OptimizerStep"]

# Below it the gradient itself is not finite: halving float16's loss scale further cannot help.
SMALLEST_SCALE = 1.0

Group = Sequence[tuple[Batch, Counts]]


class NotFiniteError(Exception):
    """A loss or the gradient became NaN or infinite."""


class OptimizerStep:
    """Takes steps. Batches are computed whole until the accelerator runs out of memory once.

    Args:
        seed: of the random numbers inside the network (dropout); each step has its own.
        report: receives one line when memory ran out.
    """

    def __init__(
        self,
        network: TrainingNetwork,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        config: TrainConfig,
        device: torch.device,
        processes: Processes,
        report: Callable[[str], None],
    ):
        self.network, self.optimizer, self.scaler = network, optimizer, scaler
        self.config, self.device, self.processes = config, device, processes
        self.report = report
        self.amp_dtype = amp_dtype(device) if config.amp else None
        self.micro_batch = config.batch_size  # images computed at once
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def take(self, group: Group, rate: float, number: int) -> dict[str, float]:
        """Step `number` with the gradients of a group of batches; returns their summed losses by name.

        Raises:
            NotFiniteError: a loss or the norm of the gradient is not. The batch norms have seen it already.
            ResourceError: there is no memory even for one image.
        """
        set_learning_rate(self.optimizer, rate)
        losses = self._accumulate(group, number)
        self.processes.sum_gradients(self.parameters)
        names = sorted(losses)
        summed = self.processes.sum([losses[name] for name in names])
        losses = dict(zip(names, summed, strict=True))
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))
        # Float16's loss scale is sometimes too large; its scaler then leaves the step out.
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() >= SMALLEST_SCALE
        finite = all(map(math.isfinite, losses.values())) and (math.isfinite(norm) or overflow)
        if finite or self.scaler.is_enabled():  # it looks for itself
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if not finite:
            shown = ", ".join(f"{name.removesuffix('_loss')} {losses[name]:g}" for name in names)
            raise NotFiniteError(f"losses {shown}, norm of the gradient {norm:g}")
        return losses

    def _accumulate(self, group: Group, number: int) -> dict[str, float]:
        while True:
            torch.manual_seed(_mixed(self.config.seed, number, self.processes.rank))
            try:
                return self._gradients(group)
            except torch.OutOfMemoryError as error:
                reason = str(error).strip().splitlines()[0]
            # Out of the handler, whose traceback holds the tensors of the failed pass.
            self.optimizer.zero_grad(set_to_none=True)
            self._halve(group, number, reason)

    def _gradients(self, group: Group) -> dict[str, float]:
        """Add the gradients of all batches; the losses of this process's share of them."""
        sums = dict.fromkeys(self.loss_names, 0.0)
        for batch, counts in group:
            for part in batch.parts(self.micro_batch) if len(batch) else self._empty(batch):
                images = part.images.to(
                    self.device, memory_format=torch.channels_last, non_blocking=True
                )
                losses = self.network.losses(images, part, counts, self.amp_dtype)
                total = torch.stack(list(losses.values())).sum()
                self.scaler.scale(total / self.config.accumulate).backward()
                values = torch.stack([loss.detach() for loss in losses.values()]).tolist()
                for name, value in zip(losses, values, strict=True):
                    sums[name] += value
        return sums

    @property
    def loss_names(self) -> list[str]:
        """Of all processes alike, also of one without an image."""
        config = self.config
        names = ["dice_loss", "focal_loss"]
        names += ["lovasz_loss"] if config.lovasz_weight > 0 else []
        names += ["semantic_loss"] if config.semantic_weight > 0 else []
        if self.network.teacher is not None:
            terms = ("category", "features", "masks")
            used = [term for term in terms if getattr(config, f"distill_{term}") > 0]
            names += [f"distill_{term}_loss" for term in used]
        return names

    def _empty(self, batch: Batch) -> list[Batch]:
        """Synchronised batch norms wait for every process, also for one without an image."""
        return [batch] if self.config.batch_norm == "sync" else []

    def _halve(self, group: Group, number: int, reason: str) -> None:
        """Compute half as many images at once from now on, or give up."""
        before = min(self.micro_batch, max(len(batch) for batch, _ in group))
        memory = ""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            free, total = torch.cuda.mem_get_info(self.device)
            memory = f", {free / 2**30:.1f} of {total / 2**30:.1f} GB are free"
        # With synchronised norms the others wait in one that this process would pass a second time.
        if before <= 1 or self.config.batch_norm == "sync":
            smaller_batch = "use a smaller --batch-size, or --batch-norm batch or frozen"
            fix = smaller_batch if before > 1 else "use a smaller input_size or model"
            what = f"out of memory with {before} images at once ({reason}{memory})"
            raise ResourceError(what, where=self.device.type, fix=fix)
        self.micro_batch = math.ceil(before / 2)
        self.report(
            f"out of memory at step {number} ({reason}{memory}): from now on {self.micro_batch} images at"
            f" once instead of {before}; the batch stays {self.config.batch_size}"
        )


def _mixed(seed: int, step: int, rank: int) -> int:
    """A seed for one step of one process."""
    return ((seed * 1_000_003 + step) * 4096 + rank) % 2**63
