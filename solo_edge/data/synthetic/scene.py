"""A table with objects on it, seen from above: who lies where and over whom, light, shadow and the camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.backdrop import table
from solo_edge.data.synthetic.camera import Camera, random_light
from solo_edge.data.synthetic.canvas import Canvas
from solo_edge.data.synthetic.litter import litter
from solo_edge.data.synthetic.objects import CLASS_NAMES, SMALLEST, build
from solo_edge.data.synthetic.parts import Light
from solo_edge.data.synthetic.sprite import Sprite, render_sprite

__all__ = ["Scene", "littered_table", "random_length", "render_scene", "smallest_length"]

_MIN_VISIBLE_AREA = 150  # pixels of a 256-pixel scene
_MIN_VISIBLE_FRACTION = 0.45  # of the whole object, also of what lies outside the picture
_LONGEST = 112.0  # long side in pixels of a 256-pixel scene
_SHORTEST = 30.0
_ATTEMPTS = 24  # places tried for one object


@dataclass(frozen=True)
class Scene:
    """A picture and what is in it."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    masks: NDArray[np.bool_]  # [N, H, W] the visible pixels of each object; they do not overlap
    labels: NDArray[np.int64]  # [N] index into CLASS_NAMES
    # [N], the same number for the same object in all frames of a film; None for a single picture
    identities: NDArray[np.int64] | None = None


def render_scene(rng: np.random.Generator, size: tuple[int, int] = (256, 256)) -> Scene:
    """A new scene with three to nine objects.

    Every object of a class that can be seen is in the masks: an object of which too little would stay
    visible (under 45 %, or 150 pixels of a 256-pixel scene) is not laid down at all.

    Args:
        rng: where all chance comes from; equal states give equal scenes.
        size: (height, width) in pixels, at least 64 each. Objects grow with the shorter side.

    Raises:
        ValueError: `size` is too small.
    """
    if min(size) < 64:
        raise ValueError(f"size must be at least 64 x 64 pixels, got {size}")
    unit = min(size) / 256.0
    canvas = littered_table(rng, size, random_light(rng))
    light = canvas.light
    labels: list[int] = []
    wanted = int(rng.integers(3, 10))
    for _ in range(3 * wanted):
        if len(labels) == wanted:
            break
        label = int(rng.integers(len(CLASS_NAMES)))
        length = random_length(label, rng)
        if wanted > 6:  # room for all of them
            length = max(0.85 * length, smallest_length(label))
        sprite = render_sprite(
            build(label, rng),
            length * unit,
            rng.uniform(0.0, 2.0 * np.pi),
            light,
            mirrored=bool(rng.random() < 0.5),
        )
        if _place(canvas, sprite, rng, unit):
            labels.append(label)
    image = Camera.random(rng, size).shoot(canvas.picture, rng)
    return Scene(image, canvas.masks(), np.array(labels, dtype=np.int64))


def littered_table(rng: np.random.Generator, size: tuple[int, int], light: Light) -> Canvas:
    """A table with up to six pieces of litter on it and no instances yet."""
    unit = min(size) / 256.0
    canvas = Canvas(table(rng, size, unit), light)
    for _ in range(int(rng.integers(0, 7))):
        blueprint, length = litter(rng)
        angle = rng.uniform(0.0, 2.0 * np.pi)
        sprite = render_sprite(blueprint, length * unit, angle, light, supersample=2)
        down, across = rng.uniform(0.0, 1.0, 2)
        canvas.lay(sprite, int(down * size[0]), int(across * size[1]))
    return canvas


def smallest_length(label: int) -> float:
    """The shortest long side of a class, in pixels of a 256-pixel scene."""
    return max(SMALLEST.get(CLASS_NAMES[label], 0.0), _SHORTEST)


def random_length(label: int, rng: np.random.Generator) -> float:
    """A long side for an object, in pixels of a 256-pixel scene."""
    smallest = smallest_length(label)
    length: float = smallest * (_LONGEST / smallest) ** rng.uniform(0.1, 1.0)
    return length


def _place(canvas: Canvas, sprite: Sprite, rng: np.random.Generator, unit: float) -> bool:
    """Lay the sprite where it leaves enough of everything visible; False where no such place is found."""
    height, width = canvas.size
    min_area = _MIN_VISIBLE_AREA * unit**2
    close = rng.random() < 0.25  # seek the company of another object
    for _ in range(_ATTEMPTS):
        row, column = int(rng.uniform(0.0, height)), int(rng.uniform(0.0, width))
        if close and canvas.count:
            other = canvas.places[int(rng.integers(canvas.count))]
            reach = 0.5 * (sprite.length + other[2])
            way = rng.uniform(0.0, 2.0 * np.pi)
            step = reach * rng.uniform(0.6, 1.0)
            row, column = int(other[0] + step * np.sin(way)), int(other[1] + step * np.cos(way))
        if not (0 <= row < height and 0 <= column < width):
            continue
        if canvas.fits(sprite, row, column, min_area=min_area, min_fraction=_MIN_VISIBLE_FRACTION):
            canvas.lay(sprite, row, column, instance=True)
            return True
    return False
