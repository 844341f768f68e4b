"""What a teacher teaches: nothing where both agree, and its own scores and masks where they do not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from solo_edge.checkpoint import Checkpoint, save_checkpoint
from solo_edge.config import TrainConfig, preset
from solo_edge.distill import Teacher, distillation_losses
from solo_edge.errors import UsageError
from solo_edge.losses import Counts
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output

STUDENT = preset("solov2-nano-256", num_classes=3)
NAMES = ("a", "b", "c")
COUNTS = Counts(pairs=4, positives=3, images=2)


@pytest.fixture
def teacher_file(tmp_path):
    """file(names, **fields) -> the checkpoint of a larger model with random weights."""

    def write(names=NAMES, **fields):
        torch.manual_seed(0)
        config = dataclasses.replace(STUDENT, kernel_length=128, num_classes=len(names), **fields)
        path = tmp_path / "teacher.safetensors"
        save_checkpoint(path, Checkpoint(SOLOv2(config).eval(), names, tuple(range(len(names)))))
        return path

    return write


def output(length, seed, score=0.9):
    """Of two images with two grids; the teacher is sure of class 1 in cells 0 and 20."""
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.full((2, 3, s, s), -6.0) for s in (4, 3)]
    for grid, cell in ((0, 0), (1, 20 - 16)):
        logits[grid].flatten(2)[:, 1, cell] = float(np.log(score / (1 - score)))
    kernels = [torch.randn(2, length, s, s, generator=generator) for s in (4, 3)]
    features = torch.randn(2, length, 8, 8, generator=generator)
    return SOLOv2Output(logits, kernels, features, (8, 16))


def test_who_agrees_learns_nothing():
    same = output(5, 0)
    losses = distillation_losses(same, same, torch.nn.Identity(), TrainConfig(), COUNTS)
    assert losses["distill_features_loss"].item() == pytest.approx(0, abs=1e-6)
    assert losses["distill_masks_loss"].item() < 3 * 1e-3
    leaves = [x.clone().requires_grad_() for x in same.category_logits]
    student = same._replace(category_logits=leaves)
    only = TrainConfig(distill_features=0, distill_masks=0)
    losses = distillation_losses(student, same, torch.nn.Identity(), only, COUNTS)
    assert losses.keys() == {"distill_category_loss"}
    losses["distill_category_loss"].backward()
    assert all(leaf.grad.abs().max() < 1e-6 for leaf in leaves)


def test_scores_go_toward_the_teachers():
    teacher = output(5, 0, score=0.7)
    leaves = [torch.full_like(x, -3.0).requires_grad_() for x in teacher.category_logits]
    student = teacher._replace(category_logits=leaves)
    loss = distillation_losses(student, teacher, torch.nn.Identity(), TrainConfig(), COUNTS)
    loss["distill_category_loss"].backward()
    assert leaves[0].grad.flatten(2)[0, 1, 0] < 0  # up
    assert (leaves[0].grad.flatten(2)[0, 0] > 0).all()  # down, to the teacher's -6
    p, y, q = 1 / (1 + np.exp(3)), 0.7, 1 / (1 + np.exp(6))

    def term(y):
        return (y - p) ** 2 * -((1 - y) * np.log(1 - p) + y * np.log(p))

    expected = (4 * term(y) + (2 * 3 * 25 - 4) * term(q)) / (COUNTS.positives + 1)
    assert loss["distill_category_loss"].item() == pytest.approx(expected, rel=1e-4)


def test_features_are_compared_by_correlation():
    """Scale and shift of a channel do not matter; a flipped sign is as far away as can be."""
    teacher = output(5, 0)
    scaled = teacher._replace(mask_features=3 * teacher.mask_features + 7)
    flipped = teacher._replace(mask_features=-teacher.mask_features)
    for student, expected in ((scaled, 0.0), (flipped, 2.0)):
        losses = distillation_losses(student, teacher, torch.nn.Identity(), TrainConfig(), COUNTS)
        assert losses["distill_features_loss"].item() == pytest.approx(expected, abs=1e-4)


def test_masks_are_compared_in_the_teachers_cells_alone():
    teacher, student = output(5, 0), output(7, 1)
    adapter = torch.nn.Conv2d(7, 5, 1)
    leaves = [x.requires_grad_() for x in student.mask_kernels]
    only = TrainConfig(distill_category=0, distill_features=0)
    loss = distillation_losses(student, teacher, adapter, only, COUNTS)["distill_masks_loss"]
    loss.backward()
    for image in range(2):
        touched = [leaf.grad[image].abs().sum(0).flatten().nonzero().flatten() for leaf in leaves]
        assert [t.tolist() for t in touched] == [[0], [4]]
    expected = 0.0
    for image in range(2):
        for grid, cell in ((0, 0), (1, 4)):
            p, t = (
                torch.einsum(
                    "e,ehw->hw",
                    o.mask_kernels[grid][image].detach().flatten(1)[:, cell],
                    o.mask_features[image],
                ).sigmoid()
                for o in (student, teacher)
            )
            total = (p * p).sum() + (t * t).sum() + 0.002
            expected += float(1 - 2 * (p * t).sum() / total) / 2
    assert loss.item() == pytest.approx(3.0 * expected / 2, rel=1e-5)


def test_a_teacher_that_sees_nothing_is_no_error():
    teacher, student = output(5, 0, score=0.01), output(5, 1)
    losses = distillation_losses(student, teacher, torch.nn.Identity(), TrainConfig(), COUNTS)
    assert losses["distill_masks_loss"].item() == 0


def test_the_teacher_gets_its_own_normalisation(teacher_file):
    path = teacher_file(pixel_mean=(100.0, 110.0, 120.0), pixel_std=(50.0, 60.0, 70.0))
    teacher = Teacher(path, NAMES, STUDENT)
    pixels = torch.rand(1, 3, 64, 64) * 255

    def normalised(mean, std):
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    wanted = teacher.model(normalised((100.0, 110.0, 120.0), (50.0, 60.0, 70.0)))
    found = teacher(normalised(STUDENT.pixel_mean, STUDENT.pixel_std))
    torch.testing.assert_close(found.mask_features, wanted.mask_features, rtol=1e-3, atol=1e-4)
    assert not found.mask_features.requires_grad


@pytest.mark.parametrize(
    ("names", "fields", "message"),
    [
        (("a", "c", "b"), {}, r"the teacher knows 3 classes \(a, c, b\), the data 3 classes"),
        (("a", "b"), {}, "the teacher knows 2 classes"),
        (NAMES, {"grid_sizes": (24, 20, 16, 12, 9)}, "add --set grid_sizes='.24, 20, 16, 12, 9.'"),
    ],
)
def test_a_teacher_of_something_else_is_refused(teacher_file, names, fields, message):
    with pytest.raises(UsageError, match=message):
        Teacher(teacher_file(names, **fields), NAMES, STUDENT)
