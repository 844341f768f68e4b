from __future__ import annotations

import numpy as np
import pytest
import torch

from solo_edge.kernels import points_nms, select_candidates

BACKENDS = ["numpy", "torch"]


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_points_nms_is_the_same_in_numpy_and_torch(size):
    scores = np.random.default_rng(size).random((2, 3, size, size)).astype(np.float32).round(1)
    want = points_nms(torch.from_numpy(scores)).numpy()
    got = points_nms(scores)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    assert size == 1 or 0 < np.count_nonzero(want) < want.size


@pytest.mark.parametrize("backend", BACKENDS)
def test_points_nms_never_keeps_nan(backend):
    scores = np.full((1, 1, 3, 3), 0.5, dtype=np.float32)
    scores[0, 0, 1, 1] = np.nan
    got = points_nms(scores, backend=backend)
    assert np.isfinite(got).all()
    assert got[0, 0, 0, 0] == 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_candidates_are_sorted_above_the_threshold_and_limited(backend):
    scores = np.random.default_rng(0).random((5, 40)).astype(np.float32)
    scores[3, 7] = scores[1, 9] = 0.995  # a tie: class 1 comes first
    got = select_candidates(scores, score_threshold=0.3, max_candidates=50, backend=backend)
    np.testing.assert_array_equal(got.scores, scores[got.labels, got.cells])
    np.testing.assert_array_equal(got.scores, np.sort(scores[scores > 0.3])[::-1][:50])
    tied = np.flatnonzero(got.scores == np.float32(0.995))
    assert list(zip(got.labels[tied], got.cells[tied], strict=True)) == [(1, 9), (3, 7)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cell_may_be_chosen_for_several_classes(backend):
    scores = np.array([[0.2, 0.9], [0.1, 0.8]], dtype=np.float32)
    got = select_candidates(scores, score_threshold=0.1, backend=backend)
    assert got.labels.tolist() == [0, 1, 0]
    assert got.cells.tolist() == [1, 1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_that_are_no_probabilities_are_never_candidates(backend):
    scores = np.array([[np.nan, np.inf, -np.inf, 0.4, 1.0000001]], dtype=np.float32)
    got = select_candidates(scores, backend=backend)
    assert got.cells.tolist() == [4, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_candidates(backend):
    got = select_candidates(np.zeros((3, 10), dtype=np.float32), backend=backend)
    assert [len(part) for part in got] == [0, 0, 0]


def test_wrong_arguments_are_named():
    with pytest.raises(
        ValueError, match=r"scores must be floats \[B, C, S, S\], got float32 \(3, 3\)"
    ):
        points_nms(np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(ValueError, match=r"category_scores must be floats \[C, T\], got int64"):
        select_candidates(np.zeros((3, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="max_candidates must be at least 1, got 0"):
        select_candidates(np.zeros((3, 3), dtype=np.float32), max_candidates=0)
