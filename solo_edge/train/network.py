"""The model together with what only its training needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from solo_edge.config import TrainConfig
from solo_edge.data.loader import Batch
from solo_edge.distill import Teacher, distillation_losses
from solo_edge.errors import ResourceError
from solo_edge.losses import Counts, semantic_loss, training_losses
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.train.predictor import Forward

__all__ = ["TrainingNetwork"]


class TrainingNetwork:
    """From images and targets to losses.

    `extras` are layers that learn with the model and are in no checkpoint: a classifier of the mask
    features' pixels ("semantic"), and the way from them to the teacher's ("adapter").

    Args:
        model: on its device. teacher: likewise.
    """

    def __init__(self, model: SOLOv2, config: TrainConfig, teacher: Teacher | None):
        self.model = model
        self.config = config
        self.teacher = teacher
        self.forward: Forward = lambda model, images: model(images)
        self.compiled: Callable[[torch.Tensor], SOLOv2Output] | None = (
            None  # instead of the forward pass
        )
        self.extras = nn.ModuleDict()
        length = model.config.kernel_length
        if config.semantic_weight > 0:
            self.extras["semantic"] = nn.Conv2d(length, model.config.num_classes, 1)
        if teacher is not None:
            self.extras["adapter"] = nn.Conv2d(length, teacher.kernel_length, 1)
        self.extras.to(next(model.parameters()).device)

    def losses(
        self, images: torch.Tensor, batch: Batch, counts: Counts, amp_dtype: torch.dtype | None
    ) -> dict[str, torch.Tensor]:
        """The weighted losses by name. `counts` are those of the whole batch (see `training_losses`).

        Args:
            images: those of `batch`, on the device.
            amp_dtype: what the networks compute in; None for float32.
        """
        config = self.config
        with torch.autocast(images.device.type, amp_dtype, enabled=amp_dtype is not None):
            output = self._output(images)
            seen = None if self.teacher is None else self.teacher(images)
        losses = training_losses(output, batch.targets, config, counts)
        if config.semantic_weight > 0:
            logits = self.extras["semantic"](output.mask_features.float())
            term = semantic_loss(logits, batch.targets, batch.labels) / counts.images
            losses["semantic_loss"] = config.semantic_weight * term
        if seen is not None:
            losses |= distillation_losses(output, seen, self.extras["adapter"], config, counts)
        return losses

    def _output(self, images: torch.Tensor) -> SOLOv2Output:
        if self.compiled is None:
            return self.forward(self.model, images)
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.compiled(images)
        except TorchDynamoException as error:
            detail = str(error).strip().splitlines()[0][:200]
            fix = "leave --compile away"
            raise ResourceError(f"torch.compile does not work here ({detail})", fix=fix) from error
