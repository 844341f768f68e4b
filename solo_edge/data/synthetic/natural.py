"""Apples, fishes, leaves and mushrooms, each with its own range of proportions, colours and marks."""

from __future__ import annotations

import numpy as np

from solo_edge.data.synthetic.curves import (
    Points,
    ellipse,
    lens,
    moved,
    polar,
    rounded,
    stroke,
    turned,
)
from solo_edge.data.synthetic.palette import (
    BARK,
    BLACK,
    FLESH,
    FRUIT,
    LEAVES,
    PAINTS,
    WHITE,
    linear,
    mixed,
    pick,
)
from solo_edge.data.synthetic.parts import Blend, Finish, Part

__all__ = ["apple", "fish", "leaf", "mushroom"]


def apple(rng: np.random.Generator) -> tuple[list[Part], float]:
    """From the side, with a stem and perhaps a leaf on it. Parts, and the smoothing of their height."""
    phi = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    away = np.minimum(phi, 2.0 * np.pi - phi)  # angle from the top
    radius = 0.45 + rng.uniform(0.0, 0.035) * np.cos(phi)
    radius -= rng.uniform(0.07, 0.12) * np.exp(-((away / 0.42) ** 2))
    radius -= rng.uniform(0.02, 0.06) * np.exp(-(((np.pi - away) / 0.4) ** 2))
    radius += 0.008 * np.cos(5.0 * phi + rng.uniform(0.0, 6.3))
    body = polar(radius, stretch=rng.uniform(0.95, 1.12))
    skin, blush = pick(rng, FRUIT), pick(rng, FRUIT)
    side = rng.uniform(0.0, 2.0 * np.pi)
    gradient = (rng.uniform(-0.1, 0.5), 1.1 * np.cos(side), 1.1 * np.sin(side))
    dimple = mixed(skin, linear("#6f7a35"), 0.55)
    parts = [
        Part(
            (body,),
            skin,
            Blend(blush, gradient, mottle=rng.uniform(0.1, 0.5)),
            Finish(rng.uniform(0.25, 0.6), rng.uniform(25.0, 60.0)),
            grain=0.1,
            height=0.34,
            rounding=0.46,
        ),
        Part(
            (ellipse(0.0, -0.31, 0.17, 0.075),),
            dimple,
            finish=Finish(0.08),
            opacity=0.75,
            decal=True,
            height=-0.10,
            rounding=0.09,
        ),
    ]
    if rng.random() < 0.5:
        places, sizes = rng.uniform(-0.34, 0.34, (2, 16)), rng.uniform(0.008, 0.016, 16)
        freckles = tuple(
            ellipse(x, y, r, r, count=8) for x, y, r in zip(*places, sizes, strict=True)
        )
        pale = mixed(skin, linear("#f2dfa0"), 0.6)
        parts.append(Part(freckles, pale, finish=Finish(0.3), opacity=0.8, decal=True))
    lean = rng.uniform(-0.12, 0.12)
    stem = stroke([(0.0, -0.28), (0.3 * lean, -0.42), (lean, -0.54)], (0.045, 0.045, 0.065))
    parts.append(
        Part((stem,), pick(rng, BARK), finish=Finish(0.1), base=0.2, height=0.05, rounding=0.03)
    )
    if rng.random() < 0.55:
        way = 1.0 if rng.random() < 0.5 else -1.0
        blade = lens(0.26, rng.uniform(0.10, 0.14))
        blade = moved(turned(blade, rng.uniform(-0.5, 0.1), (-0.13, 0.0)), 0.14, -0.44)
        blade = blade * np.array([way, 1.0])
        green = pick(rng, LEAVES[:4])
        parts.append(
            Part((blade,), green, finish=Finish(0.3), base=0.24, height=0.04, rounding=0.05)
        )
    return parts, 0.02


def fish(rng: np.random.Generator) -> tuple[list[Part], float]:
    """From the side, with fins, an eye and a pattern. Parts, and the smoothing of their height."""
    girth = rng.uniform(0.17, 0.25)
    belly = girth * rng.uniform(0.85, 1.15)
    upper = [(-0.44, -0.55), (-0.22, -1.05), (0.04, -0.9), (0.24, -0.3)]  # y in units of girth
    lower = [(0.24, 0.3), (0.04, 0.9), (-0.22, 1.05), (-0.44, 0.55)]  # y in units of belly
    body = rounded(
        [
            (-0.5, 0.0),
            *((x, girth * y) for x, y in upper),
            (0.31, -0.03),
            (0.31, 0.03),
            *((x, belly * y) for x, y in lower),
        ]
    )
    spread, fork = rng.uniform(0.15, 0.22), rng.uniform(0.02, 0.12)
    half = [(0.30, 0.05), (0.44, spread), (0.51, spread)]
    tail = rounded([(0.22, 0.0), *((x, -y) for x, y in half), (0.5 - fork, 0.0), *reversed(half)])
    ridge = -girth - rng.uniform(0.06, 0.12)
    back = rounded(
        [(-0.24, -0.7 * girth), (-0.12, ridge), (0.06, -girth - 0.05), (0.14, -0.4 * girth)]
    )
    deep = belly + rng.uniform(0.03, 0.1)
    keel = rounded([(-0.1, 0.7 * belly), (0.0, deep), (0.08, belly), (0.1, 0.4 * belly)])
    skin, pale = pick(rng, PAINTS), pick(rng, PAINTS)
    fin = mixed(skin, pick(rng, PAINTS), rng.uniform(0.2, 0.8))
    parts = [
        Part(
            (tail, back, keel),
            fin,
            Blend(mixed(fin, BLACK, 0.5), (0.1, 0.8, 0.0), mottle=0.2),
            Finish(0.3),
            grain=0.15,
            height=0.05,
            rounding=0.05,
        ),
        Part(
            (body,),
            skin,
            Blend(mixed(skin, pale, 0.75), (0.25, 0.0, 0.51 / girth), mottle=0.25),
            Finish(rng.uniform(0.25, 0.6), 30.0),
            grain=0.08,
            height=0.2,
            rounding=min(girth, belly),
        ),
        *_fish_pattern(rng, girth, belly),
    ]
    gill = stroke(
        [(-0.26, -0.62 * girth), (-0.19, 0.0), (-0.26, 0.62 * belly)], (0.012, 0.024, 0.012)
    )
    slit = mixed(skin, BLACK, 0.6)
    flipper = rounded([(-0.14, 0.0), (0.02, 0.03), (0.04, 0.12), (-0.08, 0.09)])
    eye = (-0.355, -0.22 * girth)
    white, pupil = ellipse(*eye, 0.047, 0.047), ellipse(*eye, 0.027, 0.027, count=20)
    parts += [
        Part((gill,), slit, opacity=0.8, decal=True, height=-0.02, rounding=0.02),
        Part(
            (flipper,), fin, finish=Finish(0.3), grain=0.2, decal=True, height=0.03, rounding=0.03
        ),
        Part((white,), WHITE, finish=Finish(0.6), decal=True, height=0.02, rounding=0.04),
        Part((pupil,), BLACK, finish=Finish(1.0, 50.0), decal=True),
    ]
    return parts, 0.014


def _fish_pattern(rng: np.random.Generator, girth: float, belly: float) -> list[Part]:
    """Bands, spots, a line along the side, or nothing."""
    kind = rng.integers(4)
    ink = mixed(pick(rng, PAINTS), BLACK, 0.15)
    finish = Finish(0.35, 30.0)
    if kind == 0:
        bands = tuple(
            stroke([(x, -0.4), (x + 0.05, 0.0), (x, 0.4)], rng.uniform(0.03, 0.06))
            for x in (-0.16, -0.02, 0.12)
        )
        return [Part(bands, ink, finish=finish, opacity=0.9, decal=True)]
    if kind == 1:
        xs, ys = rng.uniform(-0.2, 0.2, 9), rng.uniform(-girth, 0.3 * belly, 9)
        sizes = rng.uniform(0.014, 0.03, 9)
        spots = tuple(ellipse(x, y, r, r, count=12) for x, y, r in zip(xs, ys, sizes, strict=True))
        return [Part(spots, ink, finish=finish, decal=True)]
    if kind == 2:
        line = stroke([(-0.25, -0.02), (0.0, -0.06), (0.28, 0.0)], (0.02, 0.05, 0.02))
        return [Part((line,), ink, finish=Finish(0.35), opacity=0.85, decal=True)]
    return []


def leaf(rng: np.random.Generator) -> tuple[list[Part], float]:
    """Smooth, saw-toothed or lobed, bent, with veins. Parts, and the smoothing of their height."""
    width = rng.uniform(0.19, 0.30)
    t = np.linspace(0.0, 1.0, 90)
    belly = rng.uniform(0.85, 1.25)  # under 1: widest near the stalk
    half = width * np.sin(np.pi * t**belly) ** rng.uniform(0.75, 1.0)
    kind = rng.integers(3)
    if kind == 1:  # saw-toothed
        half *= 1.0 + 0.13 * ((t * rng.integers(8, 12)) % 1.0 - 0.5)
    elif kind == 2:  # lobed, like an oak's
        depth = rng.uniform(0.2, 0.3)
        half *= 1.0 + depth * np.cos(2.0 * np.pi * t * rng.integers(3, 5) + 2.5)
    x = -0.36 + 0.86 * t
    bend = rng.uniform(-0.35, 0.35)

    def bent(outline: Points) -> Points:
        return outline + np.stack([np.zeros(len(outline)), bend * outline[:, 0] ** 2], axis=1)

    blade = np.concatenate([np.stack([x, half], 1), np.stack([x, -half], 1)[::-1]])
    stalk = stroke(
        [(-0.5, rng.uniform(-0.03, 0.03)), (-0.4, 0.0), (-0.3, 0.0)], (0.045, 0.035, 0.03)
    )
    rib = stroke([(-0.37, 0.0), (0.0, 0.0), (0.46, 0.0)], (0.035, 0.022, 0.006))
    colour, other = pick(rng, LEAVES), pick(rng, LEAVES)
    side = rng.uniform(0.0, 2.0 * np.pi)
    vein = mixed(colour, linear(("#e6e2a8", "#3d2f1d")[int(rng.integers(2))]), 0.45)
    other = mixed(colour, other, rng.uniform(0.2, 0.9))
    gradient = (0.35, 1.2 * np.cos(side), 1.2 * np.sin(side))
    dull = Finish(0.1)
    parts = [
        Part(
            (bent(stalk),),
            mixed(vein, linear("#6b4a2f"), 0.4),
            finish=dull,
            height=0.03,
            rounding=0.02,
        ),
        Part(
            (bent(blade),),
            colour,
            Blend(other, gradient, mottle=rng.uniform(0.2, 0.8)),
            Finish(rng.uniform(0.1, 0.35), 12.0),
            grain=0.14,
            height=0.08,
            rounding=0.8 * width,
        ),
        Part((bent(rib),), vein, finish=dull, decal=True, height=-0.02, rounding=0.02),
    ]
    if kind == 2 and rng.random() < 0.3:
        return parts, 0.01
    veins = []
    for start in np.linspace(-0.24, 0.26, int(rng.integers(4, 7))):
        reach = 0.8 * float(np.interp(start + 0.1, x, half))
        for way in (-reach, reach):
            path = [(start, 0.0), (start + 0.25 * reach, 0.6 * way), (start + 0.75 * reach, way)]
            veins.append(bent(stroke(path, (0.014, 0.006), samples=8)))
    parts.append(
        Part(
            tuple(veins),
            vein,
            finish=dull,
            opacity=0.75,
            decal=True,
            height=-0.012,
            rounding=0.012,
        )
    )
    return parts, 0.01


def mushroom(rng: np.random.Generator) -> tuple[list[Part], float]:
    """From the side: a stem, a cap, perhaps a skirt and warts. Parts, and the smoothing of their height."""
    half, crown = rng.uniform(0.36, 0.5), rng.uniform(0.32, 0.46)
    rim, droop = rng.uniform(-0.08, 0.02), rng.uniform(0.02, 0.08)
    theta = np.linspace(np.pi, 2.0 * np.pi, 40)
    rise = np.sin(theta) * np.abs(np.sin(theta)) ** rng.uniform(-0.2, 0.25)
    arch = np.stack([half * np.cos(theta), rim + crown * rise], axis=1)
    under = [(0.96, 0.0), (0.5, 0.03), (0.0, 0.045), (-0.5, 0.03), (-0.96, 0.0)]
    brim = np.array([(half * x, rim + droop + y) for x, y in under])
    wide, foot = rng.uniform(0.085, 0.13), rng.uniform(0.11, 0.18)
    end = rng.uniform(0.4, 0.5)
    right = [(wide, rim), (wide, 0.2), (foot, end - 0.08), (0.8 * foot, end)]
    stem = rounded([*right, *((-x, y) for x, y in reversed(right))])
    flesh, skin = pick(rng, FLESH), pick(rng, PAINTS)
    parts = [
        Part(
            (stem,),
            flesh,
            Blend(mixed(flesh, linear("#8a6a48"), 0.6), (-0.4, 0.0, 1.6), mottle=0.4),
            Finish(0.08, 8.0),
            grain=0.15,
            height=0.12,
            rounding=wide,
        ),
    ]
    if rng.random() < 0.5:
        edge = [(1.1 * wide, 0.08), (1.7 * wide, 0.19), (0.0, 0.23)]
        skirt = rounded([*edge, *((-x, y) for x, y in reversed(edge[:2]))])
        pale = mixed(flesh, WHITE, 0.4)
        parts.append(
            Part((skirt,), pale, finish=Finish(0.1), base=0.08, height=0.05, rounding=0.05)
        )
    gills = ellipse(0.0, rim + droop, 0.93 * half, droop + 0.04)
    parts += [
        Part(
            (gills,),
            mixed(flesh, linear("#9a7a5c"), 0.5),
            finish=Finish(0.05),
            grain=0.35,
            base=0.06,
            height=0.05,
            rounding=0.06,
        ),
        Part(
            (np.concatenate([arch, brim]),),
            skin,
            Blend(mixed(skin, pick(rng, PAINTS), 0.6), (0.1, 0.0, 1.2), mottle=0.4),
            Finish(rng.uniform(0.1, 0.5), 25.0),
            grain=0.1,
            base=0.08,
            height=0.26,
            rounding=0.8 * crown,
        ),
    ]
    if rng.random() < 0.6:
        colour = mixed(pick(rng, ("#f4efe4", "#efe6d2", "#e8b33f", "#8a5a3c")), WHITE, 0.2)
        warts = []
        for _ in range(int(rng.integers(5, 12))):
            way, far = rng.uniform(1.08, 1.92) * np.pi, np.sqrt(rng.uniform(0.05, 0.8))
            size = rng.uniform(0.025, 0.06)
            x, y = 0.9 * half * far * np.cos(way), rim + crown * far * np.sin(way)
            warts.append(ellipse(x, y, size, size * rng.uniform(0.7, 1.0), count=16))
        parts.append(
            Part(
                tuple(warts),
                colour,
                finish=Finish(0.1),
                grain=0.1,
                decal=True,
                height=0.025,
                rounding=0.03,
            )
        )
    return parts, 0.016
