"""Which grid cells learn which instance (authors' `solov2_target_single`), without a loop over cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import ModelConfig

__all__ = ["Targets", "assign_targets", "center_of_mass", "claimed_cells", "quarter_masks"]


@dataclass(frozen=True)
class Targets:
    """What one image teaches. P counts (cell, instance) pairs of all levels, in the order visited.

    An instance may be learnt on two levels and in up to nine cells of each. Where two instances claim a
    cell, the later one gives it its category, but both keep their mask target: duplicates stay.
    """

    category: NDArray[np.int64]  # [T] label of each cell, num_classes where there is none
    cells: NDArray[np.int64]  # [P] index into T
    instances: NDArray[np.int64]  # [P] index into masks
    masks: NDArray[np.uint8]  # [N, H/4, W/4] 0/1


def assign_targets(
    masks: NDArray[np.uint8],  # [N, H, W] 0/1, in the network's input
    boxes: NDArray[np.float32],  # [N, 4] xyxy
    labels: NDArray[np.int64],  # [N] 0-based
    config: ModelConfig,
) -> Targets:
    """Assign instances to cells by the scale of their box and the centre of mass of their mask.

    An instance belongs to every level whose scale range holds sqrt(w * h) of its box (both ends
    inclusive). It claims the cells touched by a region of `center_scale` times its box around the
    centre, at most one cell away from the centre's cell: 3 x 3 cells.
    """
    visible = np.asarray(masks.any(axis=(1, 2)))
    cells, owners = claimed_cells(center_of_mass(masks), boxes, visible, masks.shape[1:], config)
    category = np.full(config.num_cells, config.num_classes, dtype=np.int64)
    # Assignment keeps the last write, as in the reference.
    category[cells] = labels[owners]
    return Targets(category, cells, owners, quarter_masks(masks))


def claimed_cells(
    centers: NDArray[np.float64],  # [N, 2] x, y
    boxes: NDArray[np.float32],  # [N, 4] xyxy
    visible: NDArray[np.bool_],  # [N] whether the mask has a pixel
    input_size: tuple[int, ...],  # height, width
    config: ModelConfig,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(cell, instance) of every claim, level by level, see `assign_targets`: [P] and [P]."""
    input_height, input_width = input_size
    cells: list[NDArray[np.int64]] = []
    owners: list[NDArray[np.int64]] = []
    sizes = boxes[:, 2:] - boxes[:, :2]  # width, height
    scales = np.sqrt(np.maximum(sizes[:, 0] * sizes[:, 1], 0))
    half = 0.5 * config.center_scale * sizes
    # The reference divides by the size of the mask features times 4: the padded input.
    extent = np.array([-(-input_width // 4) * 4, -(-input_height // 4) * 4], dtype=np.float64)
    first_cell = 0
    for size, (low, high) in zip(config.grid_sizes, config.scale_ranges, strict=True):
        here = np.flatnonzero((scales >= low) & (scales <= high) & visible)

        def cell_of(points: NDArray[np.float64], size: int = size) -> NDArray[np.int64]:
            # Floor division by 1 / size, as in the reference: it rounds differently on cell borders.
            cell: NDArray[np.int64] = ((points / extent) // (1.0 / size)).astype(np.int64)
            return cell

        middle = cell_of(centers[here])
        first = np.maximum(np.maximum(cell_of(centers[here] - half[here]), 0), middle - 1)
        last = np.minimum(np.minimum(cell_of(centers[here] + half[here]), size - 1), middle + 1)
        # Every instance looks at its 3 x 3 neighbourhood, row by row; cells out of reach are dropped.
        offsets = np.arange(3)
        rows = (first[:, 1, None] + offsets)[:, :, None]
        columns = (first[:, 0, None] + offsets)[:, None, :]
        inside = (rows <= last[:, 1, None, None]) & (columns <= last[:, 0, None, None])
        owner, row, column = np.nonzero(inside)
        index = first_cell + rows[owner, row, 0] * size + columns[owner, 0, column]
        cells.append(index)
        owners.append(here[owner])
        first_cell += size * size
    return np.concatenate(cells), np.concatenate(owners)


def center_of_mass(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[N, H, W] 0/1 -> [N, 2] mean (x, y) of the mask's pixels; (0, 0) for an empty mask."""
    area = np.maximum(masks.sum(axis=(1, 2), dtype=np.int64), 1)
    by_column = masks.sum(axis=1, dtype=np.int64) @ np.arange(masks.shape[2])
    by_row = masks.sum(axis=2, dtype=np.int64) @ np.arange(masks.shape[1])
    return np.stack([by_column / area, by_row / area], axis=1)


def quarter_masks(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, H, W] 0/1 -> [N, h, w] at a quarter of the size, bilinear on uint8 as the authors do it."""
    import cv2

    height, width = int(masks.shape[1] / 4 + 0.5), int(masks.shape[2] / 4 + 0.5)
    small = np.zeros((len(masks), height, width), dtype=np.uint8)
    for source, target in zip(masks, small, strict=True):
        cv2.resize(source, (width, height), dst=target, interpolation=cv2.INTER_LINEAR)
    return small
