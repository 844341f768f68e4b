from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.kernels import points_nms, select_candidates

BACKENDS = ["numpy", "torch", "triton"]
TABLES = ["numpy", "torch"]  # points NMS alone has no kernel of its own
seeds = st.integers(0, 2**32 - 1)


def select(scores, backend, device="cpu", **options):
    """The candidates as NumPy arrays, whatever computes them."""
    tensors = [torch.from_numpy(np.asarray(level)) for level in scores]
    if isinstance(scores, np.ndarray):
        arguments = torch.stack(tensors).to(device)
    else:
        arguments = [tensor.to(device) for tensor in tensors]
    found = select_candidates(arguments, backend=backend, **options)
    return type(found)(*(part.cpu().numpy() for part in found))


def rows(found, image=0):
    count = found.valid_count[image]
    parts = (found.scores[image, :count], found.labels[image, :count], found.cells[image, :count])
    for part in (found.scores, found.labels, found.cells):
        assert not part[image, count:].any()
    return parts


@pytest.mark.parametrize("size", [1, 2, 7, 12])
def test_points_nms_is_the_same_in_numpy_and_torch(size):
    scores = np.random.default_rng(size).random((2, 3, size, size)).astype(np.float32).round(1)
    want = points_nms(torch.from_numpy(scores)).numpy()
    got = points_nms(scores)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)
    assert size == 1 or 0 < np.count_nonzero(want) < want.size


@pytest.mark.parametrize("backend", TABLES)
def test_points_nms_never_keeps_nan(backend):
    scores = np.full((1, 1, 3, 3), 0.5, dtype=np.float32)
    scores[0, 0, 1, 1] = np.nan
    got = points_nms(scores, backend=backend)
    assert np.isfinite(got).all()
    assert got[0, 0, 0, 0] == 0.5


@pytest.mark.parametrize("backend", BACKENDS)
def test_candidates_are_sorted_above_the_threshold_and_limited(backend, device):
    scores = np.random.default_rng(0).random((1, 5, 40)).astype(np.float32)
    scores[0, 3, 7] = scores[0, 1, 9] = 0.995  # a tie: class 1 comes first
    found = select(scores, backend, device, score_threshold=0.3, max_candidates=50)
    values, labels, cells = rows(found)
    np.testing.assert_array_equal(values, scores[0, labels, cells])
    np.testing.assert_array_equal(values, np.sort(scores[scores > 0.3])[::-1][:50])
    tied = np.flatnonzero(values == np.float32(0.995))
    assert list(zip(labels[tied], cells[tied], strict=True)) == [(1, 9), (3, 7)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_cell_may_be_chosen_for_several_classes(backend, device):
    scores = np.array([[[0.2, 0.9], [0.1, 0.8]]], dtype=np.float32)
    found = select(scores, backend, device, score_threshold=0.1)
    assert found.scores.shape == (1, 500)
    _, labels, cells = rows(found)
    assert labels.tolist() == [0, 1, 0]
    assert cells.tolist() == [1, 1, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_that_are_no_probabilities_are_never_candidates(backend, device):
    scores = np.array([[[np.nan, np.inf, -np.inf, 0.4, 1.0000001]]], dtype=np.float32)
    assert rows(select(scores, backend, device))[2].tolist() == [4, 3]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_candidates(backend, device):
    found = select(np.zeros((2, 3, 10), dtype=np.float32), backend, device, max_candidates=7)
    assert found.valid_count.tolist() == [0, 0]
    assert not found.scores.any()
    assert found.cells.shape == (2, 7)


@settings(max_examples=40)
@given(seed=seeds, backend=st.sampled_from(["numpy", "triton"]))
def test_levels_equal_the_definition_with_ties_and_any_limit(seed, backend, device):
    rng = np.random.default_rng(seed)
    batch, classes = rng.integers(1, 4), rng.integers(1, 5)
    # Few different scores: ties everywhere, also at the border of what is still taken.
    levels = [
        (rng.integers(0, 9, (batch, classes, size, size)) / 10).astype(np.float32)
        for size in rng.integers(1, 9, rng.integers(1, 4))
    ]
    options = {
        "score_threshold": float(rng.choice([0.0, 0.1, 0.35, 0.9])),
        "max_candidates": int(rng.choice([1, 3, 16, 100, 511, 512])),
    }
    want = select(levels, "torch", **options)
    got = select(levels, backend, device, **options)
    for name, mine, other in zip(want._fields, got, want, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=name)
        assert mine.dtype == other.dtype


def test_wrong_arguments_are_named():
    with pytest.raises(
        ValueError, match=r"scores must be floats \[B, C, S, S\], got float32 \(3, 3\)"
    ):
        points_nms(np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(ValueError, match=r"floats \[B, C, T\] or levels, got int64 \(1, 3, 3\)"):
        select_candidates(np.zeros((1, 3, 3), dtype=np.int64))
    with pytest.raises(ValueError, match=r"float levels \[B, C, S, S\], got \[\(1, 3, 3, 2\)\]"):
        select_candidates([np.zeros((1, 3, 3, 2), dtype=np.float32)])
    with pytest.raises(ValueError, match="max_candidates must be at least 1, got 0"):
        select_candidates(np.zeros((1, 3, 3), dtype=np.float32), max_candidates=0)
    with pytest.raises(ValueError, match="score_threshold must be at least 0, got -1"):
        select_candidates(np.zeros((1, 3, 3), dtype=np.float32), score_threshold=-1)
