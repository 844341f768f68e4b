"""What belongs to NumPy alone: the bits, and the operations in slots compared with the definition."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.kernels import host, host_bits, host_nms, reference

seeds = st.integers(0, 2**32 - 1)


class Scene(NamedTuple):
    """What a network hands over, for a batch."""

    levels: list[np.ndarray]  # [B, C, S, S]
    mask_kernels: np.ndarray  # [B, E, T]
    mask_features: np.ndarray  # [B, E, h, w]
    cell_strides: np.ndarray  # [T]


THRESHOLDS: dict[str, Any] = {
    "score_threshold": 0.3,
    "mask_threshold": 0.5,
    "update_threshold": 0.05,
    "max_candidates": 40,
    "max_instances": 15,
    "decay": "gaussian",
    "sigma": 2.0,
}


def scene(seed: int, *, batch: int = 2, size: tuple[int, int] = (13, 19)) -> Scene:
    """Channels are discs and kernels choose one each, so that masks overlap, repeat and differ in size."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    features = rng.standard_normal((batch, 8, *size)) * 0.1
    for channel in features.reshape(-1, *size):
        (cy, cx), radius = rng.random(2) * size, rng.uniform(1, 8)
        channel += np.clip(3 - 3 * np.hypot(y - cy, x - cx) / radius, -3, 3)
    grids = (6, 3)
    cells = sum(grid**2 for grid in grids)
    mask_kernels = rng.standard_normal((batch, 8, cells)) * 0.05
    chosen = rng.integers(0, 8, (batch, 1, cells))
    np.put_along_axis(mask_kernels, chosen, 1.5, axis=1)
    levels = [rng.random((batch, 3, grid, grid)).astype(np.float32) for grid in grids]
    return Scene(
        levels,
        mask_kernels.astype(np.float32),
        features.astype(np.float32),
        np.repeat(np.float32([4, 16]), [grid**2 for grid in grids]),
    )


def tensors(*arrays: Any) -> list[Any]:
    return [
        [torch.from_numpy(a) for a in array] if isinstance(array, list) else torch.from_numpy(array)
        for array in arrays
    ]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 4),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=seeds,
)
def test_packing_round_trips_and_padding_never_counts(count, height, width, seed):
    masks = np.random.default_rng(seed).random((count, height, width)) < 0.5
    words = host.pack_masks(masks)
    assert words.dtype == np.uint64
    assert words.shape == (count, -(-height * width // 64))
    np.testing.assert_array_equal(host.unpack_masks(words, (height, width)), masks)
    np.testing.assert_array_equal(host_bits.mask_areas(words), masks.sum((1, 2)))
    full = host.pack_masks(np.ones((1, height, width), dtype=bool))
    assert host_bits.mask_areas(full) == height * width

    halves = host_bits.to_words_32(words, height * width)
    want = reference.pack_masks(torch.from_numpy(masks.reshape(count, height * width)))
    assert halves.dtype == np.uint32
    np.testing.assert_array_equal(halves, want.numpy())
    np.testing.assert_array_equal(host_bits.from_words_32(halves), words)


def test_the_first_pixel_is_the_lowest_bit():
    masks = np.zeros((1, 10, 10), dtype=bool)
    masks[0, 0, 1] = masks[0, 6, 4] = masks[0, 9, 9] = True
    assert host.pack_masks(masks).tolist() == [[1 << 1, 1 << 0 | 1 << 35]]
    rows = host_bits.pack_rows(np.arange(35) == 33)
    assert rows.dtype == np.uint32
    assert rows.tolist() == [0, 1 << 1]


def test_popcount_for_an_older_numpy():
    if not hasattr(np, "bitwise_count"):
        pytest.skip("this NumPy is the older one")
    words = np.random.default_rng(0).integers(0, 2**64, (7, 5), dtype=np.uint64)
    words[0, :2] = 0, 2**64 - 1
    out = np.empty(words.shape, dtype=np.uint8)
    by_table = host_bits._popcount_by_table
    np.testing.assert_array_equal(by_table(words), np.bitwise_count(words))
    assert by_table(words, out=out) is out
    np.testing.assert_array_equal(out, np.bitwise_count(words))
    np.testing.assert_array_equal(by_table(words[:, 1:3]), np.bitwise_count(words[:, 1:3]))


def test_matrix_nms_with_the_popcount_of_an_older_numpy(monkeypatch):
    rng = np.random.default_rng(0)
    masks, scores = rng.random((20, 9, 13)) < 0.6, rng.random(20)
    labels = rng.integers(0, 2, 20)
    want = host.matrix_nms(masks, labels, scores, decay="gaussian", sigma=2.0)
    monkeypatch.setattr(host_bits, "popcount", host_bits._popcount_by_table)
    got = host.matrix_nms(masks, labels, scores, decay="gaussian", sigma=2.0)
    np.testing.assert_array_equal(got, want)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 30), labels=st.integers(1, 4), seed=seeds)
def test_pairs_that_are_left_out_do_not_overlap(count, labels, seed):
    """Small objects anywhere, some empty: most pairs are skipped, none that counts."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 23, 29), dtype=bool)
    for mask in masks:
        top, left, height, width = rng.integers(0, (23, 29, 9, 12))
        mask[top : top + height, left : left + width] = rng.random() < 0.9
    words = host.pack_masks(masks)
    areas = host_bits.mask_areas(words)
    want = reference.mask_iou(torch.from_numpy(masks)).numpy()
    np.testing.assert_allclose(host_nms.overlaps(words, areas), want, rtol=1e-6)
    scores = np.sort(rng.random(count).astype(np.float32).round(1))[::-1].copy()
    arrays = masks, rng.integers(0, labels, count), scores
    for decay in ("gaussian", "linear"):
        best_first = host.decay_best_first(
            words, areas, np.arange(count), *arrays[1:], decay=decay, sigma=2.0
        )
        want = reference.matrix_nms(*tensors(*arrays), decay=decay, sigma=2.0).numpy()
        np.testing.assert_allclose(best_first, want, rtol=0, atol=5e-7)


@pytest.mark.parametrize("most", [1, 12, 200])
@pytest.mark.parametrize("form", ["levels", "flat"])
def test_candidates_equal_the_definition(form, most):
    levels = scene(1).levels
    levels[0][0, 1, 2, 2:4] = np.nan, np.inf
    levels[1][1] = 0.0
    scores = levels
    if form == "flat":
        scores = np.concatenate(
            [host.points_nms(level).reshape(2, 3, -1) for level in levels], axis=2
        )
    options = {"score_threshold": 0.3, "max_candidates": most}
    got = host.select_candidates(scores, **options)
    want = reference.select_candidates(*tensors(scores), **options)
    for array, tensor in zip(got, want, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())
        assert array.dtype == tensor.numpy().dtype
    assert got.valid_count.max() > min(most, 20) - 1


@pytest.mark.parametrize("size", [(13, 19), (8, 16), (1, 5)])
def test_packed_masks_and_their_scores_equal_the_definition(size):
    levels, mask_kernels, features, _ = scene(2, size=size)
    scores, labels, cells, count = host.select_candidates(
        levels, score_threshold=0.3, max_candidates=60
    )
    assert (count < 60).all()
    assert len(np.unique(cells[0, : count[0]])) < count[0]  # two classes of one cell share a mask
    arrays = (features, mask_kernels, cells, count)
    packed = host.dynamic_conv_pack(*arrays, mask_threshold=0.5)
    want = reference.dynamic_conv_pack(*tensors(*arrays), mask_threshold=0.5)
    for array, tensor in zip(packed, want, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=2e-6)
        assert array.dtype == tensor.numpy().dtype

    iou = host.mask_iou_packed(packed.words, packed.areas)
    wanted_iou = reference.mask_iou_packed(*tensors(packed.words, packed.areas))
    np.testing.assert_allclose(iou, wanted_iou.numpy(), rtol=1e-6)

    scores[0, 3], scores[1, 5] = np.nan, -np.inf
    scores[0, 9:12] = scores[0, 8]
    scores[1] = scores[1, ::-1].copy()
    arrays = (packed.words, packed.areas, labels, scores, count)
    for decay in ("gaussian", "linear"):
        got = host.matrix_nms_packed(*arrays, decay=decay, sigma=2.0)
        wanted = reference.matrix_nms_packed(*tensors(*arrays), decay=decay, sigma=2.0)
        np.testing.assert_allclose(got, wanted.numpy(), rtol=0, atol=5e-7)
        assert got[0, 3] == got[1, 5] == 0
        assert not got[0, count[0] :].any()


@pytest.mark.parametrize("changes", [{}, {"decay": "linear"}, {"max_candidates": 300}])
@pytest.mark.parametrize("form", ["levels", "flat"])
def test_the_whole_chain_equals_the_definition(form, changes):
    levels, *arrays = scene(3)
    levels[0][1], levels[1][1] = 0.0, 0.0  # nothing in the second image
    scores = levels
    if form == "flat":
        scores = host._flat_scores(levels)
    thresholds = {**THRESHOLDS, **changes}
    got = host.postprocess(scores, *arrays, **thresholds)
    want = reference.postprocess(*tensors(scores, *arrays), **thresholds)
    assert got.valid_count.tolist() == want.valid_count.tolist()
    assert got.valid_count[0] > 5
    assert got.valid_count[1] == 0
    np.testing.assert_array_equal(got.labels, want.labels.numpy())
    np.testing.assert_allclose(got.scores, want.scores.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(got.probabilities, want.probabilities.numpy(), rtol=0, atol=2e-6)
    assert [array.dtype for array in got] == [np.int32, np.float32, np.float32, np.int32]


def test_logits_are_kept_or_computed_again_and_the_result_is_the_same(monkeypatch):
    scores, mask_kernels, features, strides = scene(5)
    arrays = (host._flat_scores(scores)[0], mask_kernels[0], features[0], strides)
    kept = host.best_instances(*arrays, **THRESHOLDS)
    masks = host.dynamic_masks(features[0], mask_kernels[0].T.copy(), 0.5, keep_logits=True)
    np.testing.assert_array_equal(
        masks.logits > 0, host.unpack_masks(masks.words, (1, 13 * 19))[:, 0]
    )
    monkeypatch.setattr(host, "_KEPT_FLOATS", 0)
    monkeypatch.setattr(host, "_SCRATCH_FLOATS", 1 << 10)  # many tiles
    again = host.best_instances(*arrays, **THRESHOLDS)
    assert len(kept.scores) > 5
    np.testing.assert_array_equal(again.labels, kept.labels)
    np.testing.assert_allclose(again.scores, kept.scores, rtol=2e-6)
    np.testing.assert_allclose(again.probabilities, kept.probabilities, atol=2e-6)
    assert host.dynamic_masks(features[0], mask_kernels[0].T, 0.5, keep_logits=True).logits is None


def test_half_precision_is_computed_in_single():
    levels, *arrays, strides = scene(4)
    halves = [array.astype(np.float16) for array in arrays]
    same = [array.astype(np.float32) for array in halves]
    got = host.postprocess(levels, *halves, strides, **THRESHOLDS)
    want = host.postprocess(levels, *same, strides, **THRESHOLDS)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
