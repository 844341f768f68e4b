"""What the objects lie on: wood, cloth, concrete, paper, terrazzo or felt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.litter import mark_table
from solo_edge.data.synthetic.palette import PAINTS, linear, mixed, pick
from solo_edge.data.synthetic.parts import Colour, noise

__all__ = ["table"]

Picture = NDArray[np.float32]  # [H, W, 3] linear light


def table(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    """The bare table top, turned at random and with things drawn on it: [H, W, 3] linear light.

    unit: pixels of this picture per pixel of a 256-pixel scene.
    """
    import cv2

    surface = _SURFACES[int(rng.integers(len(_SURFACES)))]
    side = int(np.hypot(*size)) + 4
    texture = surface(rng, (side, side), unit)
    angle = float(rng.choice((0.0, 90.0))) + rng.normal(0.0, 12.0)
    if rng.random() < 0.3:
        angle = rng.uniform(0.0, 360.0)
    turn = np.asarray(cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1.0), np.float64)
    turn[:, 2] += 0.5 * np.array([size[1] - side, size[0] - side])
    turned = cv2.warpAffine(
        texture, turn, (size[1], size[0]), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    picture = np.asarray(turned, np.float32)
    mark_table(picture, rng, unit)
    return picture


def _flat(size: tuple[int, int], colour: Colour) -> Picture:
    picture = np.empty((*size, 3), dtype=np.float32)
    picture[:] = colour
    return picture


def _blended(one: Colour, other: Colour, share: NDArray[np.float32]) -> Picture:
    """share: [H, W], of the other colour in the one."""
    weight = share[..., None].astype(np.float32)
    blended: Picture = (1.0 - weight) * np.array(one, np.float32)
    blended += weight * np.array(other, np.float32)
    return blended


def _wood(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    tones = ("#b98a5a", "#8a5c38", "#d2ae7c", "#6b4a34", "#a39584", "#c4b8a6", "#5a4438")
    light = pick(rng, tones)
    dark = mixed(light, linear("#2a1a10"), rng.uniform(0.35, 0.6))
    height, width = size
    plank = int(rng.uniform(44.0, 90.0) * unit)
    picture = np.empty((*size, 3), dtype=np.float32)
    for top in range(0, height, plank):
        rows = min(plank, height - top)
        across = np.linspace(0.0, 1.0, plank, dtype=np.float32)[:rows, None]
        warp = noise(rng, (plank, width), (2, width / (90.0 * unit)), octaves=2)[:rows]
        rings = np.sin(rng.uniform(14.0, 30.0) * (across + 0.22 * warp) + rng.uniform(0.0, 6.3))
        fibre = noise(rng, (plank, width), (plank / (1.6 * unit), width / (40.0 * unit)))[:rows]
        tone = 0.38 + 0.16 * rings + 0.24 * fibre + rng.normal(0.0, 0.12)
        board = _blended(light, dark, np.clip(tone, 0.0, 1.0))
        board *= np.float32(np.exp(rng.normal(0.0, 0.1)))
        seam = max(int(1.2 * unit), 1)
        board[:seam] *= 0.35
        board[seam : 2 * seam] *= 1.12
        picture[top : top + rows] = board
    return picture


def _cloth(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    ground, thread = pick(rng, PAINTS), pick(rng, PAINTS)
    ground = mixed(ground, linear("#e9e1d2"), rng.uniform(0.0, 0.6))
    rows = np.arange(size[0], dtype=np.float32)[:, None]
    columns = np.arange(size[1], dtype=np.float32)[None, :]
    period = rng.uniform(14.0, 60.0) * unit
    share = rng.uniform(0.25, 0.5)
    kind = rng.integers(3)
    level = np.zeros(size, dtype=np.float32)
    if kind != 2:
        level += 0.5 * ((rows % period) < share * period)
    if kind == 0:  # gingham
        level += 0.5 * ((columns % period) < share * period)
    else:
        level *= 1.6
    picture = _blended(ground, thread, np.clip(level, 0.0, 1.0) * rng.uniform(0.4, 0.9))
    pitch = 2.0 * np.pi / (rng.uniform(2.6, 3.6) * unit)
    weave = 0.05 * np.sin(pitch * rows) * np.sin(pitch * columns)
    weave += 0.03 * noise(rng, size, size[0] / (2.0 * unit))
    folds = 0.10 * noise(rng, size, (2, 5), octaves=2)
    picture *= (1.0 + weave + folds)[..., None]
    return picture


def _concrete(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    base = pick(rng, ("#9a9690", "#7d7b78", "#b5b0a6", "#5f6266", "#a89a8a"))
    picture = _flat(size, base)
    cloud = 0.16 * noise(rng, size, 4, octaves=5) + 0.05 * noise(rng, size, size[0] / (1.5 * unit))
    picture *= np.maximum(1.0 + cloud, 0.2)[..., None]
    pores = noise(rng, size, size[0] / (3.0 * unit)) > 1.35
    picture[pores] *= 0.6
    return picture


def _paper(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    sheet = pick(rng, ("#f0ede6", "#e9e1d2", "#f2e6c4", "#dfe6ea", "#c9a878"), jitter=0.05)
    picture = _flat(size, sheet)
    picture *= (1.0 + 0.03 * noise(rng, size, 6, octaves=4))[..., None]
    ink = np.array(mixed(sheet, pick(rng, PAINTS), 0.5), dtype=np.float32)
    period = rng.uniform(9.0, 24.0) * unit
    thickness = max(round(unit), 1)
    for start in np.arange(rng.uniform(0.0, period), size[0], period):
        picture[int(start) : int(start) + thickness] = ink
    if rng.random() < 0.5:
        for start in np.arange(rng.uniform(0.0, period), size[1], period):
            picture[:, int(start) : int(start) + thickness] = ink
    return picture


def _terrazzo(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    import cv2

    ground = mixed(pick(rng, PAINTS), linear("#e9e1d2"), rng.uniform(0.4, 0.95))
    picture = _flat(size, ground)
    tones = [mixed(pick(rng, PAINTS), ground, 0.3) for _ in range(4)]
    largest = rng.uniform(3.0, 8.0) * unit
    count = min(int(0.25 * size[0] * size[1] / largest**2), 900)
    for _ in range(count):
        corners = rng.uniform(-1.0, 1.0, (5, 2)) * largest * rng.uniform(0.3, 1.0)
        chip = cv2.convexHull((corners + rng.uniform(0.0, 1.0, 2) * size[::-1]).astype(np.int32))
        cv2.fillConvexPoly(picture, chip, tones[int(rng.integers(4))], lineType=cv2.LINE_AA)
    picture *= (1.0 + 0.04 * noise(rng, size, 6, octaves=4))[..., None]
    return picture


def _felt(rng: np.random.Generator, size: tuple[int, int], unit: float) -> Picture:
    picture = _flat(size, pick(rng, PAINTS))
    fibres = 0.08 * noise(rng, size, size[0] / (1.8 * unit)) + 0.10 * noise(rng, size, 3, octaves=4)
    picture *= (1.0 + fibres)[..., None]
    return picture


_SURFACES: tuple[Callable[[np.random.Generator, tuple[int, int], float], Picture], ...] = (
    _wood,
    _wood,
    _cloth,
    _concrete,
    _paper,
    _terrazzo,
    _felt,
)
