from __future__ import annotations

import numpy as np
import pytest

from solo_edge.config import ModelConfig, preset
from solo_edge.targets import assign_targets, center_of_mass

CONFIG = preset("solov2-nano-256", num_classes=5)


def scene(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    masks = np.zeros((count, 256, 256), np.uint8)
    boxes = np.zeros((count, 4), np.float32)
    for mask, box in zip(masks, boxes, strict=True):
        x, y = rng.integers(0, 200, 2)
        w, h = rng.integers(2, 200, 2)
        mask[y : y + h, x : x + w] = 1
        box[:] = x, y, min(x + w, 256), min(y + h, 256)
    return masks, boxes, rng.integers(0, 5, count)


def plain_targets(masks, boxes, labels, config: ModelConfig):
    """The rule, cell by cell."""
    category = np.full(config.num_cells, config.num_classes)
    pairs = []
    first = 0
    for size, (low, high) in zip(config.grid_sizes, config.scale_ranges, strict=True):
        for n in range(len(masks)):
            x0, y0, x1, y1 = boxes[n]
            if not low <= np.sqrt((x1 - x0) * (y1 - y0)) <= high or not masks[n].any():
                continue
            ys, xs = np.nonzero(masks[n])
            cx, cy = xs.mean(), ys.mean()
            half_w, half_h = 0.1 * (x1 - x0), 0.1 * (y1 - y0)

            def cell(value: float, size: int = size) -> int:
                return int((value / 256) // (1 / size))

            for row in range(size):
                for column in range(size):
                    if abs(row - cell(cy)) > 1 or abs(column - cell(cx)) > 1:
                        continue
                    in_rows = cell(cy - half_h) <= row <= cell(cy + half_h)
                    if in_rows and cell(cx - half_w) <= column <= cell(cx + half_w):
                        index = first + row * size + column
                        category[index] = labels[n]
                        pairs.append((index, n))
        first += size * size
    return category, pairs


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_the_rule_cell_by_cell(seed: int) -> None:
    masks, boxes, labels = scene(np.random.default_rng(seed), 12)
    targets = assign_targets(masks, boxes, labels, CONFIG)
    category, pairs = plain_targets(masks, boxes, labels, CONFIG)
    np.testing.assert_array_equal(targets.category, category)
    assert list(zip(targets.cells.tolist(), targets.instances.tolist(), strict=True)) == pairs
    assert len(pairs) > 12


def test_no_instances() -> None:
    targets = assign_targets(
        np.zeros((0, 256, 256), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, int), CONFIG
    )
    assert len(targets.cells) == len(targets.masks) == 0
    assert (targets.category == CONFIG.num_classes).all()


def test_empty_mask_teaches_nothing() -> None:
    masks = np.zeros((1, 256, 256), np.uint8)
    boxes = np.array([[10, 10, 60, 60]], np.float32)
    assert len(assign_targets(masks, boxes, np.array([1]), CONFIG).cells) == 0


def test_later_instance_takes_the_shared_cell_and_both_keep_their_masks() -> None:
    masks = np.zeros((2, 256, 256), np.uint8)
    masks[:, 100:140, 100:140] = 1
    boxes = np.array([[100, 100, 140, 140]] * 2, np.float32)
    targets = assign_targets(masks, boxes, np.array([1, 3]), CONFIG)
    assert set(targets.category[targets.cells]) == {3}
    assert (targets.instances == 0).sum() == (targets.instances == 1).sum() > 0


def test_center_of_mass() -> None:
    mask = np.zeros((1, 8, 10), np.uint8)
    mask[0, 2:5, 6:8] = 1
    np.testing.assert_allclose(center_of_mass(mask), [[6.5, 3.0]])
