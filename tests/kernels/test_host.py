"""What belongs to NumPy alone: the bits. Its operations are compared with torch in the other files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.kernels import host


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_packing_round_trips_and_padding_never_counts(count, height, width, seed):
    masks = np.random.default_rng(seed).random((count, height, width)) < 0.5
    words = host.pack_masks(masks)
    assert words.dtype == np.uint64
    assert words.shape == (count, -(-height * width // 64))
    np.testing.assert_array_equal(host.unpack_masks(words, (height, width)), masks)
    np.testing.assert_array_equal(host._areas(words), masks.sum((1, 2)))
    full = host.pack_masks(np.ones((1, height, width), dtype=bool))
    assert host._areas(full) == height * width


def test_the_first_pixel_is_the_lowest_bit():
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, 0, 1] = masks[0, 6, 4] = masks[0, 9, 9] = True
    assert host.pack_masks(masks).tolist() == [[1 << 1, 1 << 0 | 1 << 35]]


def test_popcount_for_an_older_numpy():
    if not hasattr(np, "bitwise_count"):
        pytest.skip("this NumPy is the older one")
    words = np.random.default_rng(0).integers(0, 2**64, (7, 5), dtype=np.uint64)
    words[0, :2] = 0, 2**64 - 1
    out = np.empty(words.shape, dtype=np.uint8)
    np.testing.assert_array_equal(host._popcount_by_table(words), np.bitwise_count(words))
    assert host._popcount_by_table(words, out=out) is out
    np.testing.assert_array_equal(out, np.bitwise_count(words))
    np.testing.assert_array_equal(
        host._popcount_by_table(words[:, 1:3]), np.bitwise_count(words[:, 1:3])
    )


def test_matrix_nms_with_the_popcount_of_an_older_numpy(monkeypatch):
    rng = np.random.default_rng(0)
    masks, scores = rng.random((20, 9, 13)) < 0.6, rng.random(20)
    labels = rng.integers(0, 2, 20)
    want = host.matrix_nms(masks, labels, scores, decay="gaussian", sigma=2.0)
    monkeypatch.setattr(host, "_popcount", host._popcount_by_table)
    got = host.matrix_nms(masks, labels, scores, decay="gaussian", sigma=2.0)
    np.testing.assert_array_equal(got, want)
