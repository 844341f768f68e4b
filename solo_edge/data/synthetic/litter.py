"""Litter that belongs to no class: pebbles, scraps, strings, buttons, sticks, and marks on the table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.curves import box, ellipse, polar, rounded, stroke, turned
from solo_edge.data.synthetic.palette import PAINTS, linear, mixed, pick
from solo_edge.data.synthetic.parts import Blend, Blueprint, Colour, Finish, Part, noise

__all__ = ["litter", "mark_table"]


def litter(rng: np.random.Generator) -> tuple[Blueprint, float]:
    """A thing without a class, and its long side in pixels of a 256-pixel scene."""
    kind = rng.integers(5)
    colour = pick(rng, PAINTS)
    if kind == 0:
        part, length = _pebble(rng, colour), rng.uniform(8.0, 24.0)
    elif kind == 1:
        part, length = _scrap(rng, colour), rng.uniform(20.0, 70.0)
    elif kind == 2:
        path = 0.5 * rng.standard_normal((5, 2)) * np.array([1.0, 0.6])
        string = stroke(path, rng.uniform(0.03, 0.06), samples=40)
        part = Part((string,), colour, finish=Finish(0.05), grain=0.3, height=0.02, rounding=0.02)
        length = rng.uniform(40.0, 90.0)
    elif kind == 3:
        holes = tuple(ellipse(x, y, 0.07, 0.07) for x in (-0.13, 0.13) for y in (-0.13, 0.13))
        disc = ellipse(0.0, 0.0, 0.5, 0.5)
        part = Part((disc,), colour, finish=Finish(0.4), holes=holes, height=0.1, rounding=0.12)
        length = rng.uniform(10.0, 18.0)
    else:
        stick = rounded(box(-0.5, -0.06, 0.5, 0.06), steps=1)
        bare = mixed(linear("#c9a878"), colour, rng.uniform(0.0, 0.8))
        part = Part((stick,), bare, finish=Finish(0.1), grain=0.2, height=0.05, rounding=0.05)
        length = rng.uniform(24.0, 80.0)
    blueprint = Blueprint(
        parts=(part,),
        mottle=noise(rng, (32, 32), 4, octaves=2),
        grain=noise(rng, (32, 32), 14, octaves=1),
    )
    return blueprint, length


def _pebble(rng: np.random.Generator, colour: Colour) -> Part:
    phi = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    radius = 0.5 + 0.05 * np.cos(2.0 * phi + rng.uniform(0.0, 6.3)) + 0.03 * np.cos(3.0 * phi)
    outline = polar(radius, stretch=rng.uniform(0.6, 0.9))
    grey = mixed(linear("#8f8a84"), colour, rng.uniform(0.0, 0.35))
    finish = Finish(rng.uniform(0.05, 0.3))
    return Part((outline,), grey, finish=finish, grain=0.25, height=0.25, rounding=0.4)


def _scrap(rng: np.random.Generator, colour: Colour) -> Part:
    corners = box(-0.5, -0.3, 0.5, 0.3) * np.array([1.0, rng.uniform(0.5, 1.5)])
    corners += 0.09 * rng.standard_normal((4, 2))
    tint = mixed(colour, linear("#f0ede6"), 0.5)
    crease = Blend(mixed(tint, linear("#3a3532"), 0.3), (0.1, 0.4, 0.3), mottle=0.2)
    return Part((corners,), tint, crease, Finish(0.03), grain=0.05, height=0.01, rounding=0.02)


def mark_table(picture: NDArray[np.float32], rng: np.random.Generator, unit: float) -> None:
    """Draw up to three scribbles, rings left by a cup, or strips of tape on the picture, in place.

    picture: [H, W, 3] linear light; unit: its pixels per pixel of a 256-pixel scene.
    """
    for _ in range(int(rng.integers(0, 4))):
        ink = pick(rng, PAINTS)
        coverage, opacity = _mark(rng, (picture.shape[0], picture.shape[1]), unit)
        share = (coverage * np.float32(opacity / 255.0))[..., None]
        picture *= 1.0 - share
        picture += share * np.array(ink, dtype=np.float32)


def _mark(
    rng: np.random.Generator, size: tuple[int, int], unit: float
) -> tuple[NDArray[np.uint8], float]:
    """Where one mark is ([H, W], 0 to 255), and how opaque."""
    import cv2

    layer = np.zeros(size, dtype=np.uint8)
    centre = rng.uniform(0.0, 1.0, 2) * np.array(size[::-1])
    kind = rng.integers(3)
    opacity = rng.uniform(0.3, 0.8)
    if kind == 0:
        steps = rng.normal(0.0, 14.0 * unit, (12, 2)).cumsum(axis=0)
        line = stroke(centre + steps, 1.0, samples=60)[:60]
        thickness = max(round(rng.uniform(1.0, 2.4) * unit), 1)
        cv2.polylines(layer, [_fixed(line)], False, 255, thickness, cv2.LINE_AA, 4)
    elif kind == 1:
        radius = int(rng.uniform(16.0, 34.0) * unit)
        thickness = max(round(rng.uniform(1.0, 4.0) * unit), 1)
        cv2.circle(layer, centre.astype(int).tolist(), radius, 255, thickness, cv2.LINE_AA)
        opacity *= 0.5
    else:
        long, wide = 0.5 * rng.uniform(60.0, 400.0) * unit, 0.5 * rng.uniform(4.0, 14.0) * unit
        strip = turned(box(-long, -wide, long, wide), rng.uniform(0.0, np.pi)) + centre
        cv2.fillPoly(layer, [_fixed(strip)], 255, cv2.LINE_AA, 4)
    return layer, opacity


def _fixed(outline: NDArray[np.float64]) -> NDArray[np.int32]:
    """The outline in OpenCV's fixed point with four fractional bits."""
    return np.rint(outline * 16.0).astype(np.int32)
