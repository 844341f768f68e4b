from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from solo_edge.config import TrainConfig, preset
from solo_edge.losses import (
    Counts,
    dice_loss,
    focal_loss,
    lovasz_hinge,
    quality_focal_loss,
    semantic_loss,
    solov2_losses,
    training_losses,
)
from solo_edge.models.solov2 import SOLOv2, SOLOv2Output
from solo_edge.targets import Targets, assign_targets

CONFIG = preset("solov2-nano-256", num_classes=3)


def test_dice_by_hand() -> None:
    # sum(pt) = 1.5, sum(p^2) = 1.25, sum(t^2) = 2
    loss = dice_loss(torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert float(loss) == pytest.approx(1 - 3 / (1.25 + 2 + 0.002))


def test_focal_against_a_loop() -> None:
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 4, 4, 1, 2, 4])  # 4 is background
    expected = 0.0
    for row, label in zip(logits, labels, strict=True):
        for c in range(4):
            p = 1 / (1 + np.exp(-float(row[c])))
            if c == label:
                expected -= 0.25 * (1 - p) ** 2 * np.log(p)
            else:
                expected -= 0.75 * p**2 * np.log(1 - p)
    assert float(focal_loss(logits, labels, alpha=0.25, gamma=2.0)) == pytest.approx(expected)


def test_batch_without_instances_trains_the_categories_only() -> None:
    model = SOLOv2(CONFIG).train()
    nothing = assign_targets(
        np.zeros((0, 256, 256), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), CONFIG
    )
    dice, focal = solov2_losses(model(torch.randn(2, 3, 256, 256)), [nothing, nothing])
    (dice + focal).backward()
    assert dice.item() == 0
    assert focal.item() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_gradients_lower_both_losses() -> None:
    torch.manual_seed(0)
    model = SOLOv2(CONFIG).train()
    image = torch.randn(1, 3, 256, 256)
    masks = np.zeros((1, 256, 256), np.uint8)
    masks[0, 60:140, 80:150] = 1
    targets = assign_targets(
        masks, np.array([[80, 60, 150, 140]], np.float32), np.array([1]), CONFIG
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    history = []
    for _ in range(25):
        dice, focal = solov2_losses(model(image), [targets])
        optimizer.zero_grad()
        (dice + focal).backward()
        optimizer.step()
        history.append((dice.item(), focal.item()))
    assert history[-1][0] < 0.5 * history[0][0]
    assert history[-1][1] < history[0][1]


def test_a_part_of_a_batch_adds_up_to_it() -> None:
    """Halves divided by the counts of the whole."""
    torch.manual_seed(0)
    config = TrainConfig(lovasz_weight=0.7, category_loss="quality")
    model = SOLOv2(CONFIG).eval()
    images = torch.randn(2, 3, 64, 64)
    targets = [squares(8, 30), squares(20, 50)]
    counts = Counts.of(targets, CONFIG.num_classes)
    assert counts.images == 2
    whole = training_losses(model(images), targets, config, counts)
    parts = [training_losses(model(images[[i]]), [targets[i]], config, counts) for i in (0, 1)]
    for name, value in whole.items():
        assert value.item() == pytest.approx(sum(p[name].item() for p in parts), rel=1e-5)


def squares(low: int, high: int) -> Targets:
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, low:high, low:high] = 1
    masks[1, 2 : low - 1, 2 : low - 1] = 1
    boxes = np.array([[low, low, high, high], [2, 2, low - 1, low - 1]], np.float32)
    return assign_targets(masks, boxes, np.array([0, 2]), CONFIG)


def test_quality_focal_by_hand() -> None:
    # |0.6 - 0.5|^2 * log 2, and |0 - 0.5|^2 * log 2
    logits, wanted = torch.zeros(2, dtype=torch.float64), torch.tensor([0.6, 0.0])
    loss = quality_focal_loss(logits, wanted.double(), gamma=2.0)
    assert float(loss) == pytest.approx((0.01 + 0.25) * np.log(2))
    # With y in {0, 1} it is focal loss without its alpha.
    logits = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 4, 4, 1, 2, 4])
    one_hot = torch.nn.functional.one_hot(labels, 5)[:, :4].double()
    loss = quality_focal_loss(logits, one_hot, gamma=2.0)
    assert float(loss) == pytest.approx(2 * float(focal_loss(logits, labels, alpha=0.5, gamma=2.0)))


def test_quality_is_the_iou_of_the_predicted_mask() -> None:
    """A cell that draws its instance exactly should score 1, one that draws half of it 0.5."""
    config = dataclasses.replace(CONFIG, levels=(2,), grid_sizes=(4,), scale_ranges=((1, 999),))
    masks = np.zeros((2, 64, 64), np.uint8)
    masks[0, 4:12, 4:12] = 1
    masks[1, 36:44, 36:44] = 1
    boxes = np.array([[4, 4, 12, 12], [36, 36, 44, 44]], np.float32)
    target = assign_targets(masks, boxes, np.array([0, 1]), config)
    features = torch.full((1, 2, 16, 16), -1.0)
    features[0, 0, 1:3, 1:3] = 1.0  # kernel (1, 0): all of the first
    features[0, 1, 9:11, 9:10] = 1.0  # kernel (0, 1): half of the second
    kernels = torch.zeros(1, 2, 4, 4)
    first, second = (target.cells[target.instances == i] for i in (0, 1))
    kernels.flatten(2)[0, 0, first] = 9.0
    kernels.flatten(2)[0, 1, second] = 9.0
    counts, quality = Counts.of([target], 3), TrainConfig(category_loss="quality")
    lowest = []
    for label, cells in ((0, first), (1, second)):
        losses = []
        for percent in range(5, 100, 5):
            logits = torch.full((1, 3, 4, 4), -20.0)
            logits.flatten(2)[0, label, cells] = float(np.log(percent / (100 - percent)))
            output = SOLOv2Output([logits], [kernels], features, (8,))
            loss = training_losses(output, [target], quality, counts)["focal_loss"]
            losses.append((loss.item(), percent))
        lowest.append(min(losses)[1])
    assert lowest == [95, 50]  # 95 is the highest that was tried


def test_lovasz_of_hard_errors_is_the_jaccard_loss() -> None:
    """Errors of margin 1 each (logit 0 counts half): the extension equals 1 - IoU at the corners."""
    masks = torch.tensor([[1.0, 1, 1, 0, 0, 0]], dtype=torch.float64)
    # Hinge errors are 1 where the pixel is wrong (logit 0) and 0 where it is right by a margin of 1.
    for wrong in itertools.product([False, True], repeat=6):
        signs = 2 * masks - 1
        logits = torch.where(torch.tensor([wrong]), 0.0, 1.0).double() * signs
        t = masks[0].bool()
        predicted = t ^ torch.tensor(wrong)
        iou = (t & predicted).sum() / (t | predicted).sum()
        assert float(lovasz_hinge(logits, masks)) == pytest.approx(1 - float(iou))


def test_gradients_of_the_added_losses() -> None:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, dtype=torch.float64, generator=generator)
        return values.requires_grad_()

    masks = (torch.rand(2, 9, generator=generator) > 0.5).double()
    assert torch.autograd.gradcheck(lambda x: lovasz_hinge(x, masks), random(2, 9))
    wanted = torch.rand(5, 3, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: quality_focal_loss(x, wanted, gamma=2.0), random(5, 3)
    )
    targets = [squares(20, 40)]
    labels = [np.array([0, 2])]
    assert torch.autograd.gradcheck(
        lambda x: semantic_loss(x, targets, labels), random(1, 3, 16, 16)
    )


def test_semantic_loss_by_hand() -> None:
    """Two instances of class 1 overlap in a pixel; of four pixels, three belong to the class."""
    masks = np.array([[[1, 1], [0, 0]], [[0, 1], [0, 1]]], np.uint8)
    target = Targets(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), masks)
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 1] = torch.tensor([[3.0, 3.0], [-3.0, 3.0]])  # all right
    loss = semantic_loss(logits, [target], [np.array([1, 1])])
    assert float(loss) == pytest.approx(np.log(2) + np.log1p(np.exp(-3)))
