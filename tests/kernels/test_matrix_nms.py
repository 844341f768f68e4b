from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solo_edge.kernels import mask_iou, mask_iou_packed, matrix_nms, matrix_nms_packed

BACKENDS = ["numpy", "torch"]
DECAYS = ["gaussian", "linear"]
# Both work in float32 on exact pixel counts; what is left is a few roundings of a number below 1.
TOLERANCE = 5e-7


def blobs(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Ellipses [N, H, W] that overlap a lot; some are equal, some are empty."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((count, *size), dtype=bool)
    for i in range(count):
        center, radius = rng.random(2) * size, rng.random(2) * size[0] / 2
        masks[i] = ((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2 < 1
        if i and rng.random() < 0.1:
            masks[i] = masks[rng.integers(i)]
    return masks


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("case", range(5))
def test_golden_scores_of_the_authors_code(shared, case, decay, backend):
    with np.load(shared / "golden" / "matrix_nms.npz") as golden:
        shape = golden[f"shape_{case}"]
        bits = np.unpackbits(golden[f"masks_{case}"], axis=-1, count=shape[-1])
        masks = bits.reshape(shape).astype(bool)
        labels, scores = golden[f"labels_{case}"], golden[f"scores_{case}"]
        want = golden[f"{decay}_{case}"]
    got = matrix_nms(masks, labels, scores, decay=decay, sigma=2.0, backend=backend)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("size", [(17, 23), (32, 64)])
@pytest.mark.parametrize("count", [0, 1, 3, 60, 500])
def test_numpy_equals_torch(count, size, decay):
    rng = np.random.default_rng(count)
    masks = blobs(count, size, seed=count)
    labels = rng.integers(0, 4, count)
    scores = rng.random(count).astype(np.float32).round(2)  # many ties
    want = matrix_nms(*map(torch.from_numpy, (masks, labels, scores)), decay=decay).numpy()
    got = matrix_nms(masks, labels, scores, decay=decay)
    assert got.dtype == np.float32
    assert count < 10 or (want < 0.9 * scores).any()
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)
    iou = mask_iou(masks)
    np.testing.assert_allclose(iou, mask_iou(torch.from_numpy(masks)).numpy(), rtol=1e-6)


def test_results_are_of_the_kind_of_the_arguments():
    masks, labels, scores = np.ones((2, 3, 3), bool), np.zeros(2, int), np.array([0.5, 0.4])
    assert isinstance(matrix_nms(masks, labels, scores, backend="torch"), np.ndarray)
    tensors = [torch.from_numpy(array) for array in (masks, labels, scores)]
    assert isinstance(matrix_nms(*tensors, backend="numpy"), torch.Tensor)
    half = matrix_nms(tensors[0], tensors[1], tensors[2].bfloat16(), backend="numpy")
    assert half.dtype == torch.bfloat16
    assert matrix_nms(masks, labels, scores).dtype == np.float64


small = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(seed=small, backend=st.sampled_from(BACKENDS), decay=st.sampled_from(DECAYS))
def test_properties(seed, backend, decay):
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(1, 12)), tuple(rng.integers(1, 14, 2))
    masks = blobs(count, size, seed)
    labels, scores = rng.integers(0, 3, count), rng.permutation(count) / count + 0.5 / count

    def nms(index):
        return matrix_nms(masks[index], labels[index], scores[index], decay=decay, backend=backend)

    everything = np.arange(count)
    result = nms(everything)
    assert (result <= scores + 1e-12).all()
    assert (result >= 0).all()
    # the best of each class keeps its score, and a mask alone does
    for label in np.unique(labels):
        best = np.flatnonzero(labels == label)[scores[labels == label].argmax()]
        assert result[best] == scores[best]
        assert nms([best]) == scores[best]
        # other classes have no say
        members = np.flatnonzero(labels == label)
        np.testing.assert_allclose(nms(members), result[members], rtol=1e-6)
    # the order of the arguments has none either
    order = rng.permutation(count)
    np.testing.assert_allclose(nms(order), result[order], rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_duplicates_are_suppressed_and_ties_go_to_the_first(backend):
    masks = np.zeros((3, 5, 5), dtype=bool)
    masks[:2, 1:4, 1:4] = True
    masks[2, 1:4, 1:4] = True
    labels, scores = np.array([0, 0, 1]), np.array([0.8, 0.8, 0.8])
    got = matrix_nms(masks, labels, scores, decay="gaussian", sigma=2.0, backend=backend)
    np.testing.assert_allclose(got, [0.8, 0.8 * np.exp(-2.0), 0.8], rtol=1e-6)
    got = matrix_nms(masks, labels, scores, decay="linear", backend=backend)
    assert got.tolist() == [0.8, 0.0, 0.8]


def test_wrong_arguments_are_named():
    masks, labels, scores = np.ones((2, 3, 3), bool), np.zeros(2, int), np.array([0.5, 0.4])
    with pytest.raises(ValueError, match=r"masks must be bool \[N, H, W\], got float64"):
        matrix_nms(masks.astype(float), labels, scores)
    with pytest.raises(ValueError, match=r"masks must be bool"):
        mask_iou(masks[0])
    with pytest.raises(
        ValueError, match=r"labels must be integers \[2\] like masks, got int64 \(1,\)"
    ):
        matrix_nms(masks, labels[:1], scores)
    with pytest.raises(ValueError, match=r"scores must be floats \[2\] like masks, got int64"):
        matrix_nms(masks, labels, labels)
    with pytest.raises(ValueError, match="decay must be 'gaussian' or 'linear', got 'hard'"):
        matrix_nms(masks, labels, scores, decay="hard")
    with pytest.raises(ValueError, match="sigma must be a positive number, got 0"):
        matrix_nms(masks, labels, scores, sigma=0)
    words, areas = np.zeros((1, 2, 3), np.uint32), np.zeros((1, 2), np.int32)
    with pytest.raises(
        ValueError, match=r"words must be uint32 \[B, K, words\], got int32 \(1, 2\)"
    ):
        mask_iou_packed(areas, areas)
    with pytest.raises(ValueError, match=r"labels must be integers \[1, 2\] like words, got float"):
        matrix_nms_packed(words, areas, scores[None], scores[None], np.array([2]))
    with pytest.raises(ValueError, match=r"valid_count must be integers \[1\], got int64 \(2,\)"):
        matrix_nms_packed(words, areas, areas, scores[None], np.array([2, 2]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_score_that_is_not_finite_takes_no_part(backend):
    masks, labels = np.ones((4, 3, 3), bool), np.zeros(4, int)
    scores = np.array([np.nan, 0.5, np.inf, 0.4])
    got = matrix_nms(masks, labels, scores, decay="linear", backend=backend)
    assert got.tolist() == [0.0, 0.5, 0.0, 0.0]
    alone = matrix_nms(masks[:1], labels[:1], scores[:1], backend=backend)
    assert alone.tolist() == [0.0]
