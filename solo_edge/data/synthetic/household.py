"""Bottles, keys, mugs and stars, each with its own range of proportions, colours and decoration."""

from __future__ import annotations

import dataclasses

import numpy as np

from solo_edge.data.synthetic.curves import (
    Points,
    box,
    ellipse,
    points,
    rounded,
    stroke,
    turned,
)
from solo_edge.data.synthetic.palette import (
    BLACK,
    DOUGH,
    GLASS,
    METALS,
    PAINTS,
    WHITE,
    linear,
    mixed,
    pick,
)
from solo_edge.data.synthetic.parts import Blend, Finish, Part

__all__ = ["bottle", "key", "mug", "star"]


def bottle(rng: np.random.Generator) -> tuple[list[Part], float]:
    """Lying, with a cap and a label or a filling. Parts, and the smoothing of their height."""
    body, neck = rng.uniform(0.155, 0.21), rng.uniform(0.055, 0.078)
    shoulder = rng.uniform(-0.16, 0.02)
    collar = shoulder - rng.uniform(0.10, 0.18)
    right = [
        *[(neck, -0.46)] * 2,
        *[(neck * 1.02, collar)] * 2,
        (body * 0.95, shoulder - 0.02),
        (body, shoulder + 0.08),
        (body * rng.uniform(0.93, 1.0), 0.3),
        *[(body, 0.46)] * 2,
        (body * 0.9, 0.5),
    ]
    outline = rounded([*right, *[(-x, y) for x, y in reversed(right)]])
    glass = pick(rng, GLASS)
    shine = rng.uniform(0.5, 1.0)
    slope = (-2.2, 2.2)[int(rng.integers(2))]
    parts = [
        Part(
            (outline,),
            glass,
            Blend(mixed(glass, WHITE, 0.35), (0.1, slope, 0.0)),
            Finish(shine, rng.uniform(40.0, 90.0)),
            height=0.16,
            rounding=0.98 * body,
        ),
    ]
    level = shoulder + rng.uniform(-0.02, 0.05)
    if rng.random() < 0.8:
        parts += _bottle_label(rng, shoulder)
    else:
        filling = mixed(glass, BLACK, 0.5)
        finish = Finish(shine, 70.0)
        parts.append(
            Part((box(-0.3, level, 0.3, 0.6),), filling, finish=finish, opacity=0.7, decal=True)
        )
    wide = neck * rng.uniform(1.15, 1.4)
    cap = rounded(box(-wide, -0.5, wide, -0.40), steps=2)
    parts.append(
        Part(
            (cap,),
            pick(rng, PAINTS),
            finish=Finish(0.4),
            grain=0.08,
            base=0.03,
            height=0.13,
            rounding=wide,
        )
    )
    return parts, 0.012


def _bottle_label(rng: np.random.Generator, shoulder: float) -> list[Part]:
    top, bottom = shoulder + rng.uniform(0.10, 0.16), rng.uniform(0.28, 0.40)
    paper = pick(rng, PAINTS)
    ink = pick(rng, PAINTS)
    middle = 0.5 * (top + bottom)
    print_: tuple[Points, ...]
    kind = rng.integers(3)
    if kind == 0:
        print_ = (
            box(-0.3, top + 0.02, 0.3, top + 0.05),
            box(-0.3, bottom - 0.05, 0.3, bottom - 0.02),
        )
    elif kind == 1:
        print_ = (ellipse(0.0, middle, 0.075, 0.085),)
    else:
        slant = [(-0.3, middle - 0.04), (0.3, middle + 0.04), (0.3, bottom), (-0.3, bottom)]
        print_ = (points(slant),)
    band = box(-0.3, top, 0.3, bottom)
    return [
        Part((band,), paper, finish=Finish(0.08, 10.0), grain=0.06, decal=True),
        Part(print_, ink, finish=Finish(0.08), decal=True),
    ]


def key(rng: np.random.Generator) -> tuple[list[Part], float]:
    """With a round, six-sided or three-lobed bow. Parts, and the smoothing of their height."""
    bow = rng.uniform(0.21, 0.25)
    middle = -0.5 + bow
    bows: tuple[Points, ...]
    kind = rng.integers(3)
    hole = (bow * rng.uniform(0.42, 0.56), bow * rng.uniform(0.42, 0.56))
    holes: tuple[Points, ...] = (ellipse(middle - 0.02, 0.0, *hole),)
    if kind == 0:
        bows = (ellipse(middle, 0.0, bow, bow * rng.uniform(0.9, 1.1)),)
    elif kind == 1:
        turn = np.pi / 6.0 + np.linspace(0.0, 2.0 * np.pi, 6, endpoint=False)
        corners = np.stack([middle + 1.05 * bow * np.cos(turn), 1.05 * bow * np.sin(turn)], axis=1)
        bows = (rounded(corners, steps=2),)
    else:
        ways = [(-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
        bows = tuple(
            ellipse(middle + 0.5 * bow * x, 0.62 * bow * y, 0.62 * bow, 0.62 * bow) for x, y in ways
        )
        holes = tuple(
            ellipse(middle + 0.55 * bow * x, 0.66 * bow * y, 0.3 * bow, 0.3 * bow) for x, y in ways
        )
    half = rng.uniform(0.058, 0.075)
    root = middle + 0.6 * bow
    shaft = points([(root, -half), (0.46, -half), (0.5, -0.2 * half), (0.5, half), (root, half)])
    start = rng.uniform(0.14, 0.24)
    count = int(rng.integers(2, 5))
    pitch = (0.47 - start) / count
    teeth = []
    for k in range(count):
        end = start + (k + rng.uniform(0.55, 0.8)) * pitch
        teeth.append(box(start + k * pitch, 0.0, end, half + rng.uniform(0.05, 0.12)))
    metal = pick(rng, METALS)
    tarnish = mixed(metal, BLACK, 0.35)
    whole = Part(
        (*bows, shaft, *teeth),
        metal,
        Blend(tarnish, (0.2, 0.6, 0.0), mottle=rng.uniform(0.2, 0.7)),
        Finish(rng.uniform(0.4, 0.8), rng.uniform(14.0, 30.0), metal=0.7),
        grain=0.1,
        holes=holes,
        height=0.05,
        rounding=0.05,
    )
    parts = [whole]
    if kind != 2 and rng.random() < 0.4:
        parts.append(  # plastic round the bow
            Part(
                bows,
                pick(rng, PAINTS),
                finish=Finish(0.35),
                grain=0.05,
                holes=holes,
                base=0.03,
                height=0.06,
                rounding=0.06,
            )
        )
    neck = middle + 1.02 * bow
    collar = box(neck, -1.5 * half, neck + 0.04, 1.5 * half)
    groove = box(middle + bow + 0.1, -0.2 * half, 0.44, 0.25 * half)
    parts += [
        dataclasses.replace(
            whole, outlines=(collar,), holes=(), base=0.03, height=0.04, rounding=0.03
        ),
        Part(
            (groove,),
            mixed(metal, BLACK, 0.55),
            finish=Finish(0.3),
            opacity=0.8,
            decal=True,
            height=-0.02,
            rounding=0.01,
        ),
    ]
    return parts, 0.009


def mug(rng: np.random.Generator) -> tuple[list[Part], float]:
    """From the side and a little from above. Parts, and the smoothing of their height."""
    half, low = rng.uniform(0.28, 0.34), rng.uniform(0.84, 1.0)
    top, bottom = -0.36, rng.uniform(0.36, 0.48)
    lip = rng.uniform(0.07, 0.11)
    centre = -0.14
    foot = half * low
    side = [(half, top), (half, top), (foot, bottom - 0.02), (0.85 * foot, bottom + 0.03)]
    wall = rounded(
        [
            *((centre - x, y) for x, y in side),
            (centre, bottom + 0.06),
            *((centre + x, y) for x, y in reversed(side)),
        ]
    )
    glaze = pick(rng, PAINTS)
    finish = Finish(rng.uniform(0.3, 0.8), rng.uniform(30.0, 70.0))
    handle, gap = _mug_handle(rng, centre + 0.93 * half, 0.5 * (top + bottom))
    drink = (linear("#3a2114"), linear("#7a4a26"), glaze, WHITE)[int(rng.integers(4))]
    rim = ellipse(centre, top, half, lip)
    opening = ellipse(centre, top + 0.004, 0.88 * half, 0.76 * lip)
    parts = [
        Part((handle,), glaze, finish=finish, holes=(gap,), base=0.02, height=0.09, rounding=0.045),
        Part(
            (wall, rim),
            glaze,
            finish=finish,
            grain=0.05,
            base=0.05,
            height=0.3,
            rounding=0.06,
            cylinder=(centre, 1.03 * half),
        ),
        *_mug_pattern(rng, centre, half, lip, finish),
        Part(
            (rim,),
            mixed(glaze, WHITE, 0.25),
            finish=finish,
            base=0.33,
            height=0.02,
            rounding=0.02,
        ),
        Part(
            (opening,),
            mixed(drink, BLACK, 0.25),
            Blend(mixed(drink, BLACK, 0.7), (-top / lip, 0.0, -1.0 / lip)),
            Finish(0.25),
            base=0.30,
        ),
    ]
    return parts, 0.01


def _mug_handle(rng: np.random.Generator, edge: float, middle: float) -> tuple[Points, Points]:
    """The outline of a handle that begins at x = `edge`, and of the gap in it."""
    y = middle + rng.uniform(-0.04, 0.04)
    tall = rng.uniform(0.19, 0.25)
    thick = rng.uniform(0.075, 0.095)
    out = edge + (0.5 - edge) * rng.uniform(0.6, 1.0)
    far = edge + (0.5 - edge) * 1.15
    outer = [
        (edge - 0.06, y - tall),
        (out, y - tall),
        (far, y),
        (out, y + 0.8 * tall),
        (edge - 0.08, y + 0.85 * tall),
    ]
    inner = [
        (edge - 0.06, y - tall + thick),
        (max(out - thick, edge - 0.1), y - tall + thick),
        (far - thick, y),
        (max(out - thick, edge - 0.1), y + 0.8 * tall - thick),
        (edge - 0.1, y + 0.85 * tall - thick),
    ]
    return rounded(outer), rounded(inner)


def _mug_pattern(
    rng: np.random.Generator, centre: float, half: float, lip: float, finish: Finish
) -> list[Part]:
    """Bands or dots that follow the round wall, a dip in another glaze, or nothing."""
    kind = rng.integers(5)
    ink = pick(rng, PAINTS)
    if kind in (0, 1):
        bands = []
        for y in ((0.02,), (-0.12, 0.16))[kind]:
            path = [(centre - 0.5, y), (centre, y + 2.2 * lip), (centre + 0.5, y)]
            bands.append(stroke(path, rng.uniform(0.05, 0.12)))
        return [Part(tuple(bands), ink, finish=finish, decal=True)]
    if kind == 2:
        dots = []
        for row, y in enumerate((-0.16, 0.02, 0.2)):
            for way in np.linspace(-1.2, 1.2, 5) + 0.25 * (row % 2):
                x, seen = centre + half * np.sin(way), np.cos(way)
                dots.append(ellipse(x, y + 0.6 * lip * seen, 0.045 * seen, 0.045, count=16))
        return [Part(tuple(dots), ink, finish=finish, decal=True)]
    if kind == 3:
        surface = [(centre - 0.6, 0.1), (centre, 0.1 + 1.6 * lip), (centre + 0.6, 0.1)]
        dip = rounded([*surface, (centre + 0.6, 0.8), (centre - 0.6, 0.8)])
        return [Part((dip,), ink, finish=finish, grain=0.08, decal=True)]
    return []


def star(rng: np.random.Generator) -> tuple[list[Part], float]:
    """A star-shaped biscuit, toy or starfish. Parts, and the smoothing of their height."""
    inner = rng.uniform(0.21, 0.27)
    turn = np.linspace(0.0, 2.0 * np.pi, 10, endpoint=False)
    radius = np.where(np.arange(10) % 2 == 0, 0.56, inner)
    corners = np.stack([radius * np.sin(turn), -radius * np.cos(turn)], axis=1)
    corners += 0.012 * rng.standard_normal(corners.shape)
    outline = rounded(corners)
    dough = pick(rng, DOUGH)
    parts = [
        Part(
            (outline,),
            dough,
            Blend(mixed(dough, BLACK, 0.45), (-0.1, 0.3, 0.3), mottle=0.5),
            grain=rng.uniform(0.08, 0.25),
            height=0.14,
            rounding=rng.uniform(0.1, 0.24),
            finish=Finish(rng.uniform(0.05, 0.35), 18.0),
        ),
    ]
    kind = rng.integers(3)
    icing = pick(rng, PAINTS)
    if kind == 0:
        sheet = outline * rng.uniform(0.72, 0.82)
        finish = Finish(0.4, 30.0)
        parts.append(Part((sheet,), icing, finish=finish, decal=True, height=0.03, rounding=0.03))
        parts += [_sprinkles(rng) for _ in range(3)]
    elif kind == 1:  # a starfish's rows of knobs
        knobs = [ellipse(0.0, 0.0, 0.035, 0.035, count=12)]
        for arm in turn[::2]:
            for far, size in ((0.11, 0.028), (0.2, 0.026), (0.29, 0.022), (0.37, 0.018)):
                x, y = far * np.sin(arm), -far * np.cos(arm)
                knobs.append(ellipse(x, y, size, size, count=12))
        colour = mixed(dough, icing, 0.6)
        parts.append(Part(tuple(knobs), colour, decal=True, height=0.03, rounding=0.02))
    return parts, 0.014


def _sprinkles(rng: np.random.Generator) -> Part:
    """Six short strokes of one colour, strewn at random."""
    grains = []
    for _ in range(6):
        x, y = rng.uniform(-0.28, 0.28, 2)
        dx, dy = turned(points([(0.028, 0.0)]), rng.uniform(0.0, 6.3))[0]
        grains.append(stroke([(x - dx, y - dy), (x + dx, y + dy)], 0.026, samples=4))
    return Part(
        tuple(grains),
        pick(rng, PAINTS),
        finish=Finish(0.4),
        decal=True,
        height=0.02,
        rounding=0.015,
    )
