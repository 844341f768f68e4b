from __future__ import annotations

import numpy as np
import pytest
import torch

from solo_edge.config import preset
from solo_edge.losses import dice_loss, focal_loss, solov2_losses
from solo_edge.models.solov2 import SOLOv2
from solo_edge.targets import assign_targets

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
