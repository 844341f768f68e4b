"""Who belongs to whom: the matching of largest total weight, by shortest augmenting paths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["assign"]


def assign(weights: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The pairs whose weights have the largest sum; each row and each column is in one pair at most.

    A pair of weight 0 or less is worse than none: what must not be paired gets weight 0.

    The Hungarian method in the form of Jonker and Volgenant (1987): rows whose best column is still
    free take it, and only those that must share search for the shortest augmenting path. At worst
    O(n**3); where few rows compete, as in tracking, close to reading the matrix once.

    Args:
        weights: [R, C], finite.

    Returns:
        rows and columns of the pairs, ascending by row.

    Raises:
        ValueError: not a finite matrix.
    """
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise ValueError(f"weights must be a finite matrix, got shape {weights.shape}")
    # Rows and columns without a useful pair are left out. In what remains every row can be given a
    # column without loss, since useless pairs cost nothing and are dropped from the result.
    useful = weights > 0
    rows = np.flatnonzero(useful.any(axis=1))
    columns = np.flatnonzero(useful.any(axis=0))
    costs = -np.maximum(weights[np.ix_(rows, columns)], 0.0)
    if len(rows) <= len(columns):
        taken = _columns_of_rows(costs)
        first, second = rows, columns[taken]
    else:
        taken = _columns_of_rows(costs.T)
        order = np.argsort(taken)
        first, second = rows[taken[order]], columns[order]
    kept = useful[first, second]
    return first[kept], second[kept]


def _columns_of_rows(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """The cheapest choice of a different column for each row of [n, m], n <= m."""
    count = len(costs)
    column_of = np.full(count, -1, dtype=np.intp)
    row_of = np.full(costs.shape[1], -1, dtype=np.intp)
    if count == 0:
        return column_of
    best = costs.argmin(axis=1)
    chosen, owners = np.unique(best, return_index=True)
    column_of[owners], row_of[chosen] = chosen, owners
    row_price = costs.min(axis=1)
    column_price = np.zeros(costs.shape[1])
    for row in np.flatnonzero(column_of < 0).tolist():
        _augment(costs, row, row_price, column_price, column_of, row_of)
    return column_of


def _augment(
    costs: NDArray[np.float64],
    start: int,
    row_price: NDArray[np.float64],
    column_price: NDArray[np.float64],
    column_of: NDArray[np.intp],
    row_of: NDArray[np.intp],
) -> None:
    """Give row `start` a column, others moving where that is cheapest. All but `costs` are changed.

    Dijkstra's algorithm from the row to the nearest free column; lengths are costs less both prices,
    which are never negative.
    """
    distance = np.full(costs.shape[1], np.inf)
    came_from = np.full(costs.shape[1], -1, dtype=np.intp)
    done = np.zeros(costs.shape[1], dtype=np.bool_)
    row, length, path_rows = start, 0.0, []
    while True:
        path_rows.append(row)
        onwards = length + costs[row] - row_price[row] - column_price
        nearer = ~done & (onwards < distance)
        distance[nearer] = onwards[nearer]
        came_from[nearer] = row
        column = int(np.where(done, np.inf, distance).argmin())
        length = float(distance[column])
        if row_of[column] < 0:
            break
        done[column] = True
        row = int(row_of[column])

    reached = np.flatnonzero(done)
    row_price[start] += length
    row_price[row_of[reached]] += length - distance[reached]
    column_price[reached] -= length - distance[reached]
    while True:
        row = int(came_from[column])
        row_of[column] = row
        column_of[row], column = column, int(column_of[row])
        if row == start:
            return
