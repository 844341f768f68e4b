"""Distillation: a larger SOLOv2 shows a smaller one what it sees in the same images.

Three terms, each with a weight of its own in `TrainConfig`:
category        quality focal loss of the student's scores towards the teacher's, cell by cell
mask features   distance between standardised feature maps, through a 1x1 convolution (PKD, arXiv:2207.02039)
masks           dice between the masks of both in the cells where the teacher sees something
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from solo_edge.checkpoint import load_checkpoint
from solo_edge.config import ModelConfig, TrainConfig
from solo_edge.errors import UsageError
from solo_edge.losses import Counts, dice_loss, mask_logits, quality_focal_loss
from solo_edge.models.solov2 import SOLOv2Output

__all__ = ["Teacher", "distillation_losses"]

# Masks are compared in the teacher's best cells with at least this score; more of them cost memory.
TEACHER_SCORE, TEACHER_CELLS = 0.3, 64
EPSILON = 1e-6  # variance below which a channel counts as constant


class Teacher:
    """A trained model that looks at the images of its student.

    It gets them as the student does, with its own normalisation; only padding, which is the student's
    mean colour, may differ from what it was trained with.

    Args:
        class_names: of the student. student: its configuration.

    Raises:
        UsageError: other classes or other grids than the student's.
    """

    def __init__(self, path: Path, class_names: Sequence[str], student: ModelConfig):
        checkpoint = load_checkpoint(path)
        config = checkpoint.config
        if checkpoint.class_names != tuple(class_names):
            raise UsageError(
                f"the teacher knows {_listed(checkpoint.class_names)}, the data {_listed(class_names)}",
                where=path,
                fix="train the teacher with the same categories in the same order",
            )
        if config.grid_sizes != student.grid_sizes:
            raise UsageError(
                f"the teacher has grids of {config.grid_sizes}, the student of {student.grid_sizes}",
                where=path,
                fix=f"add --set grid_sizes='{config.grid_sizes}'",
            )
        self.model = checkpoint.model.eval().requires_grad_(False)
        # (x * std_s + mean_s - mean_t) / std_t
        std = torch.tensor(config.pixel_std).view(3, 1, 1)
        mean = torch.tensor(student.pixel_mean).view(3, 1, 1)
        self._scale = torch.tensor(student.pixel_std).view(3, 1, 1) / std
        self._shift = (mean - torch.tensor(config.pixel_mean).view(3, 1, 1)) / std

    @property
    def kernel_length(self) -> int:
        return self.model.config.kernel_length

    def to(self, device: torch.device) -> Teacher:
        self.model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._scale, self._shift = self._scale.to(device), self._shift.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> SOLOv2Output:
        """images: [B, 3, H, W] as the student gets them."""
        output: SOLOv2Output = self.model(images * self._scale + self._shift)
        return output


def distillation_losses(
    student: SOLOv2Output,
    teacher: SOLOv2Output,
    adapter: nn.Module,
    config: TrainConfig,
    counts: Counts,
) -> dict[str, Tensor]:
    """The weighted terms by name; those with a weight of 0 are left out.

    Args:
        adapter: [B, E of the student, h, w] -> [B, E of the teacher, h, w].
        counts: of the whole batch, of which the outputs may be a part.
    """
    losses = {}
    if config.distill_category > 0:
        logits, wanted = (
            torch.cat([x.float().flatten(2) for x in output.category_logits], dim=2)
            for output in (student, teacher)
        )
        term = quality_focal_loss(logits, wanted.sigmoid(), gamma=config.focal_gamma)
        losses["distill_category_loss"] = config.distill_category * term / (counts.positives + 1)
    if config.distill_features > 0:
        ours = _standardised(adapter(student.mask_features.float()))
        term = 0.5 * (ours - _standardised(teacher.mask_features.float())).square().mean((1, 2, 3))
        losses["distill_features_loss"] = config.distill_features * term.sum() / counts.images
    if config.distill_masks > 0:
        term = student.mask_features.new_zeros((), dtype=torch.float32)
        for image in range(len(student.mask_features)):
            term = term + _mask_term(student, teacher, image)
        losses["distill_masks_loss"] = config.distill_masks * term / counts.images
    return losses


def _mask_term(student: SOLOv2Output, teacher: SOLOv2Output, image: int) -> Tensor:
    """Mean dice loss of one image's masks in the teacher's positive cells; 0 where there are none."""
    scores = torch.cat([x[image].float().flatten(1) for x in teacher.category_logits], dim=1)
    best = scores.sigmoid().amax(0)  # [T]
    cells = best.topk(min(TEACHER_CELLS, len(best))).indices
    cells = cells[best[cells] >= TEACHER_SCORE]
    ours, theirs = (mask_logits(output, image, cells).sigmoid() for output in (student, teacher))
    return dice_loss(ours, theirs).sum() / max(len(cells), 1)


def _standardised(features: Tensor) -> Tensor:
    """[B, E, h, w] with mean 0 and variance 1 over the pixels of each channel and image.

    Half the squared distance of two such maps is 1 - their correlation.
    """
    variance, mean = torch.var_mean(features, dim=(2, 3), correction=0, keepdim=True)
    return (features - mean) * (variance + EPSILON).rsqrt()


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} classes ({shown}{', ...' if len(names) > 3 else ''})"
