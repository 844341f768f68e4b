"""Closed outlines in an object's own units, from which the pictures of `solo_edge.data.synthetic` are built.

Outlines are [P, 2] float64 arrays of (x, y), x to the right and y down; an object is about one unit long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Points",
    "box",
    "ellipse",
    "lens",
    "moved",
    "points",
    "polar",
    "rounded",
    "stroke",
    "turned",
]

Points: TypeAlias = NDArray[np.float64]


def points(values: ArrayLike) -> Points:
    """The values as an outline [P, 2]."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 2)


def turned(outline: Points, angle: float, centre: tuple[float, float] = (0.0, 0.0)) -> Points:
    """The outline turned by `angle` radians (clockwise on the screen) about `centre`."""
    cos, sin = np.cos(angle), np.sin(angle)
    result: Points = (outline - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
    return result


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float, *, angle: float = 0.0, count: int = 40
) -> Points:
    """An ellipse about (x, y), turned by `angle` radians."""
    theta = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    outline = np.stack([x + radius_x * np.cos(theta), y + radius_y * np.sin(theta)], axis=1)
    return turned(outline, angle, (x, y)) if angle else outline


def polar(radius: NDArray[np.float64], *, stretch: float = 1.0) -> Points:
    """The curve with the given radii at equal angles, from straight up and clockwise.

    `stretch` multiplies x.
    """
    phi = np.linspace(0.0, 2.0 * np.pi, len(radius), endpoint=False)
    return np.stack([stretch * radius * np.sin(phi), -radius * np.cos(phi)], axis=1)


def rounded(corners: ArrayLike, *, steps: int = 3) -> Points:
    """A closed polygon with its corners cut `steps` times (Chaikin), which tends to a smooth curve."""
    outline = points(corners)
    for _ in range(steps):
        following = np.roll(outline, -1, axis=0)
        near, far = 0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following
        outline = np.stack([near, far], axis=1).reshape(-1, 2)
    return outline


def stroke(path: ArrayLike, widths: Sequence[float] | float, *, samples: int = 16) -> Points:
    """The outline of a brush drawn along a path, with round ends.

    path: [K, 2] corners, K >= 2; a smooth curve (Bezier) with these control points is followed.
    widths: the brush's width, or its widths from start to end at equal distances.
    """
    control = points(path)
    t = np.linspace(0.0, 1.0, samples)[:, None]
    curve = np.repeat(control[None], samples, axis=0)
    while curve.shape[1] > 1:  # de Casteljau
        curve = curve[:, :-1] * (1.0 - t[..., None]) + curve[:, 1:] * t[..., None]
    line = curve[:, 0]
    knots = np.atleast_1d(np.asarray(widths, dtype=np.float64))
    half = 0.5 * np.interp(t[:, 0], np.linspace(0.0, 1.0, len(knots)), knots)[:, None]
    along = np.gradient(line, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True) + 1e-12
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    swing = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 7)[1:-1, None]
    end = line[-1] + half[-1] * (np.cos(swing) * along[-1] - np.sin(swing) * across[-1])
    start = line[0] - half[0] * (np.cos(swing) * along[0] - np.sin(swing) * across[0])
    return np.concatenate([line + half * across, end, (line - half * across)[::-1], start])


def moved(outline: Points, x: float, y: float) -> Points:
    """The outline shifted by (x, y)."""
    shifted: Points = outline + np.array([x, y])
    return shifted


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle with its sides along the axes."""
    return points([(left, top), (right, top), (right, bottom), (left, bottom)])


def lens(length: float, width: float) -> Points:
    """An oval along x with pointed ends."""
    t = np.linspace(-1.0, 1.0, 17)
    edge = np.stack([0.5 * length * t, 0.5 * width * (1.0 - t * t) ** 0.8], axis=1)
    return np.concatenate([edge, (edge * np.array([1.0, -1.0]))[-2:0:-1]])
