"""What the operations return: NumPy arrays or torch tensors, batch first, with a valid count."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["MAX_SCORE", "Candidates", "InstanceSlots", "PackedMasks"]

# A score is a probability; a damaged one may be NaN or infinite. Being below 2 excludes both, in
# every precision and with one comparison that every graph format has, and spares a sigmoid that
# rounds to just above 1.
MAX_SCORE = 2.0


class Candidates(NamedTuple):
    """The chosen (cell, class) pairs of each image, best first; slots from `valid_count` on are 0."""

    scores: Any  # [B, K] float32
    labels: Any  # [B, K] int32
    cells: Any  # [B, K] int32, index along T
    valid_count: Any  # [B] int32


class PackedMasks(NamedTuple):
    """Bit-packed masks with what scoring needs to know of them."""

    words: Any  # [B, K, ceil(H * W / 32)] uint32: row-major pixels, lowest bit first, padding 0
    areas: Any  # [B, K] int32, pixels inside the mask
    probability_sums: Any  # [B, K] float32, over the pixels inside the mask


class InstanceSlots(NamedTuple):
    """The instances of each image, best first; slots from `valid_count` on are 0."""

    labels: Any  # [B, M] int32
    scores: Any  # [B, M] float32
    probabilities: Any  # [B, M, h, w] float32, of the masks at the mask features' stride
    valid_count: Any  # [B] int32
