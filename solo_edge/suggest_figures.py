"""What becomes of annotated objects in an input and in the grids, counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import ModelConfig
from solo_edge.data.augment import fitted_truth
from solo_edge.data.masks import GroundTruth
from solo_edge.preprocess import Preprocess
from solo_edge.targets import center_of_mass, claimed_cells, quarter_masks

__all__ = ["CellFigures", "Placed", "count_cells", "place_image"]

BUSY = 0.05  # share of the objects that gives a level work to do
KEEPS_SHAPE = 0.75  # IoU of a mask with itself after it was reduced to a quarter and enlarged again


@dataclass(frozen=True, eq=False)
class Placed:
    """The objects of one image in an input of one size; those without a pixel there are left out."""

    centers: NDArray[np.float64]  # [N, 2] x, y: centres of mass
    boxes: NDArray[np.float32]  # [N, 4] xyxy
    scales: NDArray[np.float64]  # [N] square roots of the boxes' areas
    is_seen: NDArray[np.bool_]  # [N] masks at a quarter of the size have a pixel
    keeps_shape: NDArray[np.bool_]  # [N] and look about like the mask


@dataclass(frozen=True)
class CellFigures:
    """Shares of all annotated objects."""

    outside: float  # in no scale range, or too small for a mask
    crowded: float  # every cell that they claim is claimed by another object, too
    recall_bound: float  # with one mask for each cell, no more objects than this can be found
    on_level: tuple[float, ...]  # objects that each level learns; most are on two
    crowded_on_level: tuple[float, ...]  # of those, the share without a cell of their own there

    @property
    def lost(self) -> float:
        return self.outside + self.crowded

    @property
    def busy_levels(self) -> int:
        return sum(share >= BUSY for share in self.on_level)


def place_image(truth: GroundTruth, input_size: tuple[int, int]) -> Placed:
    """The objects as training without augmentation gets them in an input of (height, width)."""
    preprocess = Preprocess(input_size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    fitted = fitted_truth(truth, preprocess)
    centers = np.zeros((len(fitted), 2))
    seen, kept = np.zeros(len(fitted), dtype=bool), np.zeros(len(fitted), dtype=bool)
    for i, (crop, box) in enumerate(zip(fitted.crops, fitted.int_boxes, strict=True)):
        centers[i] = center_of_mass(crop[None])[0] + box[:2]
        overlap = _quarter_overlap(crop, box[0], box[1])
        seen[i], kept[i] = overlap > 0, overlap >= KEEPS_SHAPE
    sizes = (fitted.boxes[:, 2:] - fitted.boxes[:, :2]).astype(np.float64)
    return Placed(centers, fitted.boxes, np.sqrt(sizes.prod(axis=1)), seen, kept)


def count_cells(placed: Sequence[Placed], instances: int, config: ModelConfig) -> CellFigures:
    """What the assignment of training makes of all images.

    Args:
        instances: how many objects are annotated.
    """
    found = alone = matched = 0
    on_level = np.zeros(len(config.grid_sizes), dtype=np.int64)
    crowded_on_level = np.zeros_like(on_level)
    level_of_cell = np.repeat(np.arange(len(config.grid_sizes)), np.square(config.grid_sizes))
    for image in placed:
        cells, owners = claimed_cells(
            image.centers, image.boxes, image.is_seen, config.input_size, config
        )
        own = np.bincount(cells, minlength=config.num_cells)[cells] == 1
        found += len(np.unique(owners))
        alone += len(np.unique(owners[own]))
        matched += _largest_matching(cells, owners)
        for level in range(len(on_level)):
            here = level_of_cell[cells] == level
            members = np.unique(owners[here])
            on_level[level] += len(members)
            crowded_on_level[level] += len(members) - len(np.unique(owners[here & own]))
    return CellFigures(
        1 - found / instances,
        (found - alone) / instances,
        matched / instances,
        tuple((on_level / instances).tolist()),
        tuple((crowded_on_level / np.maximum(on_level, 1)).tolist()),
    )


def _quarter_overlap(crop: NDArray[np.uint8], left: int, top: int) -> float:
    """IoU of a mask with its stride-4 version enlarged again; 0 if nothing of it is left there.

    Only the neighbourhood of the object is looked at, along the blocks of 4 x 4 pixels of the input.
    """
    import cv2

    height, width = crop.shape
    above, before = top % 4 + 4, left % 4 + 4
    rows, columns = (
        -(-(size + first) // 4) * 4 + 4 for size, first in ((height, above), (width, before))
    )
    mask = np.zeros((rows, columns), dtype=np.uint8)
    mask[above : above + height, before : before + width] = crop
    small = quarter_masks(mask[None])[0]
    if not small.any():
        return 0.0
    large = cv2.resize(small.astype(np.float32), (columns, rows), interpolation=cv2.INTER_LINEAR)
    again = np.asarray(large) > 0.5
    union = np.count_nonzero(again | (mask > 0))
    return np.count_nonzero(again & (mask > 0)) / union


def _largest_matching(cells: NDArray[np.int64], owners: NDArray[np.int64]) -> int:
    """How many objects can have a cell that no other one uses (augmenting paths)."""
    choices: dict[int, list[int]] = {}
    for cell, owner in zip(cells.tolist(), owners.tolist(), strict=True):
        choices.setdefault(owner, []).append(cell)
    taken: dict[int, int] = {}
    return sum(_find_cell(owner, choices, taken) for owner in choices)


def _find_cell(owner: int, choices: dict[int, list[int]], taken: dict[int, int]) -> bool:
    """Give `owner` a cell, moving others to their alternatives where needed."""
    came_from: dict[int, tuple[int, int | None]] = {}  # cell -> (who wants it, cell that it leaves)
    queue: list[tuple[int, int | None]] = [(owner, None)]
    for wanting, leaves in queue:  # grows while it is walked through
        for cell in choices[wanting]:
            if cell in came_from:
                continue
            came_from[cell] = (wanting, leaves)
            if cell in taken:
                queue.append((taken[cell], cell))
                continue
            step: int | None = cell
            while step is not None:
                taken[step], step = came_from[step]
            return True
    return False
