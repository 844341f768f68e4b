"""How an object is described before it is drawn: parts, their colours and finish, and the light of a scene.

Colours are linear light in [0, 1] throughout; the camera encodes them at the very end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.curves import Points

__all__ = ["Blend", "Blueprint", "Colour", "Finish", "Light", "Part", "noise"]

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Light:
    """The scene's lamp, far away, and the light from all around."""

    direction: tuple[
        float, float, float
    ]  # unit vector towards the lamp: x right, y down, z to the viewer
    colour: Colour
    ambient: Colour
    shadow: float  # how dark a cast shadow is, 0 to 1


@dataclass(frozen=True)
class Finish:
    """How a surface shines."""

    gloss: float = 0.2  # strength of the highlight
    shininess: float = 24.0  # its exponent
    metal: float = 0.0  # 1: the highlight takes the colour of the surface, the body is dark


@dataclass(frozen=True)
class Blend:
    """A second colour; its share is a + b x + c y + mottle * noise, kept within 0 and 1."""

    colour: Colour
    gradient: tuple[float, float, float]  # a, b, c; x and y in the object's own units
    mottle: float = 0.0


@dataclass(frozen=True)
class Part:
    """One piece of an object. Lengths are in the object's own units."""

    outlines: tuple[Points, ...]  # their union
    colour: Colour
    blend: Blend | None = None
    finish: Finish = Finish()
    grain: float = 0.0  # contrast of the fine texture
    opacity: float = 1.0
    holes: tuple[Points, ...] = ()
    decal: bool = (
        False  # painted on what is there (its height is added); else it covers what is there
    )
    base: float = 0.0  # how high its edge lies
    height: float = 0.0  # how far it rises from its edge to its top
    rounding: float = 0.2  # distance from the edge at which it reaches the top
    cylinder: tuple[float, float] | None = None  # (x of the axis, radius): round across x


@dataclass(frozen=True)
class Blueprint:
    """An object before it is placed: the same one can be drawn at any size and angle."""

    parts: tuple[Part, ...]
    mottle: NDArray[np.float32]  # [K, K] smooth noise in about [-1, 1]
    grain: NDArray[np.float32]  # [K, K] fine noise in about [-1, 1]
    smoothing: float = 0.015  # blur of the height map, in the object's units
    centre: Points = field(init=False)
    extent: float = field(init=False)  # long side of the unturned silhouette

    def __post_init__(self) -> None:
        body = np.concatenate([p for part in self.parts if not part.decal for p in part.outlines])
        low, high = body.min(axis=0), body.max(axis=0)
        object.__setattr__(self, "centre", 0.5 * (low + high))
        object.__setattr__(self, "extent", float((high - low).max()))


def noise(
    rng: np.random.Generator,
    size: tuple[int, int],
    cells: tuple[float, float] | float,
    *,
    octaves: int = 1,
) -> NDArray[np.float32]:
    """Smooth noise with mean about 0 and deviation about 0.5.

    size: (height, width) in pixels.
    cells: number of random cells down and across (doubled with every octave), at least 1.
    """
    import cv2

    down, across = (cells, cells) if isinstance(cells, (int, float)) else cells
    total = np.zeros(size, dtype=np.float32)
    weight = 1.0
    norm = 0.0
    for _ in range(octaves):
        shape = (min(max(int(down), 1) + 3, size[0]), min(max(int(across), 1) + 3, size[1]))
        values = rng.standard_normal(shape, dtype=np.float32)
        layer = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
        total += weight * layer
        norm += weight**2
        weight *= 0.55
        down, across = 2 * down, 2 * across
    total *= np.float32(0.6 / np.sqrt(norm))
    return total
