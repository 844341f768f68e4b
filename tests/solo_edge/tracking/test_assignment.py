"""The matching is the best there is: as good as SciPy's on random matrices of every shape."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from solo_edge.tracking.assignment import assign


def best_total(weights: np.ndarray) -> float:
    useful = np.maximum(weights, 0.0)
    return float(useful[linear_sum_assignment(useful, maximize=True)].sum())


def check(weights: np.ndarray) -> None:
    rows, columns = assign(weights)
    assert len(set(rows.tolist())) == len(rows) == len(columns) == len(set(columns.tolist()))
    assert (np.diff(rows) > 0).all()
    assert (weights[rows, columns] > 0).all()
    assert float(weights[rows, columns].sum()) == pytest.approx(best_total(weights), abs=1e-9)


@pytest.mark.parametrize("seed", range(300))
def test_no_other_matching_weighs_more(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 14, 2)
    weights = rng.random(shape)
    if seed % 3 == 1:  # gated, as in tracking: most pairs are out of the question
        weights[rng.random(shape) < 0.7] = 0.0
    if seed % 3 == 2:  # many equal weights, and some that are worse than none
        weights = rng.integers(-3, 4, shape).astype(float)
    check(weights)


def test_a_large_crowded_matrix():
    check(np.random.default_rng(0).random((120, 90)) ** 4)


def test_everybody_wants_the_same():
    check(np.ones((7, 5)))
    check(np.outer([3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]))


def test_a_pair_is_given_up_for_two():
    rows, columns = assign(np.array([[0.9, 0.8], [0.7, 0.0]]))
    assert (rows.tolist(), columns.tolist()) == ([0, 1], [1, 0])


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (2, 2)])
def test_nothing_to_pair(shape):
    rows, columns = assign(np.zeros(shape))
    assert len(rows) == len(columns) == 0


@pytest.mark.parametrize("weights", [[[np.nan]], [[np.inf]], [1.0, 2.0]])
def test_what_is_no_finite_matrix_is_refused(weights):
    with pytest.raises(ValueError, match="finite matrix"):
        assign(np.array(weights))
