"""The eight classes of things on the table."""

from __future__ import annotations

import numpy as np

from solo_edge.data.synthetic import household, natural
from solo_edge.data.synthetic.parts import Blueprint, noise

__all__ = ["CLASS_NAMES", "SMALLEST", "build"]

_BUILDERS = {
    "apple": natural.apple,
    "bottle": household.bottle,
    "fish": natural.fish,
    "key": household.key,
    "leaf": natural.leaf,
    "mug": household.mug,
    "mushroom": natural.mushroom,
    "star": household.star,
}

CLASS_NAMES = tuple(_BUILDERS)

# Long side, in pixels of a 256-pixel scene, below which slender things are lost at a mask stride of 4.
SMALLEST = {"bottle": 44.0, "fish": 38.0, "key": 48.0, "leaf": 36.0, "mug": 34.0}


def build(label: int, rng: np.random.Generator) -> Blueprint:
    """A new object of class `CLASS_NAMES[label]`; every call gives another one."""
    parts, smoothing = _BUILDERS[CLASS_NAMES[label]](rng)
    return Blueprint(
        parts=tuple(parts),
        mottle=noise(rng, (64, 64), 4, octaves=3),
        grain=noise(rng, (64, 64), 24, octaves=2),
        smoothing=smoothing,
    )
