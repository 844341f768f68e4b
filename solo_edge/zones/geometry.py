"""Points, polygons and lines. Coordinates are x to the right and y down, in any one unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["crosses_itself", "crossings", "distance", "inside", "share_inside"]

Points = NDArray[np.float64]


def inside(polygon: Points, points: Points) -> NDArray[np.bool_]:
    """[K, 2], [N, 2] -> [N]: whether a point lies in the polygon, whichever way round that is given.

    Of two zones that share a side, a point on it belongs to one (half-open, as pixels are).
    """
    start, end = polygon, np.roll(polygon, -1, axis=0)
    x, y = points[:, None, 0], points[:, None, 1]
    spans = (start[:, 1] > y) != (end[:, 1] > y)
    rise = end[:, 1] - start[:, 1]
    at = start[:, 0] + (y - start[:, 1]) / np.where(rise == 0, 1.0, rise) * (end - start)[:, 0]
    odd: NDArray[np.bool_] = (np.count_nonzero(spans & (x < at), axis=1) % 2).astype(np.bool_)
    return odd


def distance(path: Points, points: Points, *, closed: bool = False) -> NDArray[np.float64]:
    """[K, 2], [N, 2] -> [N]: from each point to the nearest of the path."""
    start = path if closed else path[:-1]
    way = (np.roll(path, -1, axis=0) - path)[: len(start)]
    length = np.maximum(np.sum(way * way, axis=1), 1e-300)
    offset = points[:, None] - start
    along = np.clip(np.sum(offset * way, axis=2) / length, 0.0, 1.0)
    nearest: NDArray[np.float64] = np.linalg.norm(offset - along[..., None] * way, axis=2).min(
        axis=1
    )
    return nearest


def crossings(path: Points, start: Points, end: Points) -> int:
    """How often the step from `start` to `end` crosses the path: to its right positive, to its left negative.

    Right and left as seen by somebody who walks from the path's first point to its last. Steps that
    follow one another count the same as if they were one, also where one ends on the path.

    Args:
        path: [K, 2].
        start, end: [2].
    """
    first, second = path[:-1], path[1:]
    # y points down, so a positive cross product is a turn to the right.
    before = _turn(first, second, start) >= 0
    after = _turn(first, second, end) >= 0
    one_side = _turn(start, end, first) >= 0
    other_side = _turn(start, end, second) >= 0
    met = (before != after) & (one_side != other_side)
    return int(np.count_nonzero(met & after)) - int(np.count_nonzero(met & before))


def crosses_itself(polygon: Points) -> bool:
    """Whether two sides of the polygon meet elsewhere than at their common corner."""
    count = len(polygon)
    start, end = polygon, np.roll(polygon, -1, axis=0)
    for i in range(count):
        others = np.array([j for j in range(i + 2, count) if (j + 1) % count != i], dtype=np.intp)
        one = _turn(start[i], end[i], start[others]) * _turn(start[i], end[i], end[others])
        other = _turn(start[others], end[others], start[i]) * _turn(
            start[others], end[others], end[i]
        )
        if bool(((one < 0) & (other < 0)).any()):
            return True
    return False


def share_inside(masks: NDArray[np.bool_], area: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[N, h, w], [h, w] -> [N]: how much of each mask lies in the area; 0 of an empty mask."""
    total = np.count_nonzero(masks, axis=(1, 2))
    common = np.count_nonzero(masks & area, axis=(1, 2))
    share: NDArray[np.float64] = common / np.maximum(total, 1)
    return share


def _turn(start: Any, end: Any, point: Any) -> Any:
    """The cross product of the way from `start` to `end` and that to `point`."""
    way, there = end - start, point - start
    return way[..., 0] * there[..., 1] - way[..., 1] * there[..., 0]
