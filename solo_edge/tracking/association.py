"""Which instance continues which track, in stages as in ByteTrack: the sure ones choose first."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.tracking.assignment import assign

__all__ = ["Stage", "associate", "closeness", "first_of_the_same"]

Mask = NDArray[np.bool_]

_REACH = 2.0  # sizes that something may be away from where it was expected
_LEAST_RATIO = 0.5  # of the sizes of a thing before and after


class Stage(NamedTuple):
    """Some tracks and some instances, and how well they fit."""

    tracks: Mask  # [T]
    found: Mask  # [N]
    weights: NDArray[Any]  # [T, N]
    least: float  # weights below it are no match


def associate(stages: list[Stage], count: int) -> NDArray[np.intp]:
    """[count]: the track of each instance, or -1. Who is taken in a stage is not there in the next."""
    owners = np.full(count, -1, dtype=np.intp)
    for tracks, found, weights, least in stages:
        free = tracks.copy()
        free[owners[owners >= 0]] = False
        rows, columns = np.flatnonzero(free), np.flatnonzero(found & (owners < 0))
        if len(rows) and len(columns):
            offered = weights[np.ix_(rows, columns)]
            chosen_rows, chosen_columns = assign(np.where(offered >= least, offered, 0.0))
            owners[columns[chosen_columns]] = rows[chosen_rows]
    return owners


def first_of_the_same(
    overlaps: NDArray[Any], scores: NDArray[Any], threshold: float
) -> NDArray[np.intp]:
    """[N]: for each instance the best scored one that shows the same thing; itself if it is that.

    The network's NMS works class by class, so a thing may come several times, under several names.

    Args:
        overlaps: [N, N].
        scores: [N].
        threshold: what overlaps that much is the same.
    """
    first = np.arange(len(scores))
    same = overlaps >= threshold
    np.fill_diagonal(same, False)
    if not same.any():
        return first
    order = np.argsort(-scores, kind="stable").tolist()
    for rank, index in enumerate(order):
        better = [k for k in order[:rank] if same[index, k] and first[k] == k]
        if better:
            first[index] = better[0]
    return first


def closeness(
    expected: NDArray[Any], expected_size: NDArray[Any], place: NDArray[Any], size: NDArray[Any]
) -> NDArray[np.float64]:
    """[T, N]: from 1, where it was expected, down to 0 at the limit; 0 if it is of another size.

    For what moved too far to overlap, which is the rule at few frames per second.

    Args:
        expected: [T, 2] places of the tracks. expected_size: [T].
        place: [N, 2] of the instances. size: [N].
    """
    apart = np.linalg.norm(expected[:, None] - place, axis=2)
    before, after = expected_size[:, None], size[None, :]
    reach = _REACH * np.minimum(before, 2 * after)
    ratio = np.minimum(before, after) / np.maximum(before, after)
    near: NDArray[np.float64] = np.maximum(1.0 - apart / reach, 0.0) * (ratio >= _LEAST_RATIO)
    return near
