"""Colours, in linear light. The classes share most of them, so that colour alone tells nothing away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from solo_edge.data.synthetic.parts import Colour

__all__ = [
    "BARK",
    "BLACK",
    "DOUGH",
    "FLESH",
    "FRUIT",
    "GLASS",
    "LEAVES",
    "METALS",
    "PAINTS",
    "WHITE",
    "linear",
    "mixed",
    "pick",
]


def linear(code: str) -> Colour:
    """A web colour ("#rrggbb") in linear light."""
    red, green, blue = ((int(code[k : k + 2], 16) / 255.0) ** 2.2 for k in (1, 3, 5))
    return red, green, blue


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """`share` of the other colour in the one."""
    red, green, blue = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return red, green, blue


def pick(rng: np.random.Generator, palette: Sequence[str], *, jitter: float = 0.12) -> Colour:
    """One of the colours, varied a little in brightness and hue."""
    base = linear(palette[int(rng.integers(len(palette)))])
    gain = np.exp(jitter * (rng.standard_normal() + 0.5 * rng.standard_normal(3)))
    red, green, blue = (float(np.clip(c * g, 0.0, 0.95)) for c, g in zip(base, gain, strict=True))
    return red, green, blue


BLACK, WHITE = linear("#1d1a1a"), linear("#f4efe4")

# fmt: off
PAINTS = (
    "#c8452f", "#e07b39", "#e8b33f", "#8fae4b", "#4f8f5b", "#3f9a94", "#3b7fb5", "#39508f",
    "#7a5aa6", "#c46a94", "#e9e1d2", "#d9c3a0", "#8a5a3c", "#4a4a50", "#f0ede6", "#93a5ad",
)
FRUIT = ("#b52a2a", "#8f1d2c", "#c9412c", "#a8b93c", "#7fa53a", "#dcb540", "#d98a3a", "#c96a6a")
LEAVES = (
    "#4f8a3c", "#6d9c3f", "#3a6b3a", "#9aa83f", "#d3a536", "#c9702c", "#a83c2a", "#7d4a2c", "#6f3f55",
)
BARK = ("#6b4a2f", "#553a28", "#7c6142")
FLESH = ("#efe6d2", "#e2d2b0", "#d9c8a8", "#c9b08a", "#f0ede6")
DOUGH = ("#d9a860", "#c98f4a", "#b3763a", "#8a5530", *PAINTS[:10])
METALS = ("#c9a24a", "#b8893c", "#b9bcc2", "#8e939b", "#b06a45", "#5b5d63", "#d6d3cb")
GLASS = (
    "#2f6b45", "#4c8a3f", "#6b3f1f", "#8a5a24", "#2f5f8f",
    "#b8342f", "#d9d5c8", "#3f8f9a", "#d58fa8", "#7a9a52",
)
# fmt: on
