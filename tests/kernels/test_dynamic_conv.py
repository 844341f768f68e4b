from __future__ import annotations

import numpy as np
import pytest
import torch

from solo_edge.kernels import dynamic_conv, host


@pytest.mark.parametrize("count", [0, 1, 3, 60, 500])
def test_numpy_equals_torch(count):
    rng = np.random.default_rng(count)
    features = rng.standard_normal((16, 13, 19)).astype(np.float32)
    kernels = rng.standard_normal((count, 16)).astype(np.float32)
    want = dynamic_conv(torch.from_numpy(features), torch.from_numpy(kernels))
    got = dynamic_conv(features, kernels)
    assert got.shape == (count, 13, 19)
    # sums of 16 products of standard normal numbers, in another order
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("count", [0, 1, 3, 60, 500])
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_dynamic_masks_equal_the_operations_one_by_one(count, threshold, monkeypatch):
    monkeypatch.setattr(host, "_SCRATCH_FLOATS", 1 << 12)  # many tiles, the last one not full
    rng = np.random.default_rng(count)
    features = rng.standard_normal((16, 31, 37)).astype(np.float32)
    kernels = rng.standard_normal((count, 16)).astype(np.float32)
    if count > 2:
        kernels[1] = 0.0  # probability 0.5 everywhere
        kernels[2] = np.nan
    got = host.dynamic_masks(features, kernels, threshold)
    probabilities = dynamic_conv(torch.from_numpy(features), torch.from_numpy(kernels)).sigmoid()
    inside = probabilities > threshold
    masks = host.unpack_masks(got.words, (31, 37))
    # A probability within rounding of the threshold may fall on either side of it.
    clear = (probabilities - threshold).abs().nan_to_num(1.0).numpy() > 1e-6
    np.testing.assert_array_equal(masks[clear], inside.numpy()[clear])
    np.testing.assert_array_equal(got.areas, masks.sum((1, 2)))
    total = torch.where(torch.from_numpy(masks), probabilities, 0.0).sum((1, 2)).numpy()
    np.testing.assert_allclose(got.maskness, total / np.maximum(got.areas, 1), rtol=1e-5)
    if count > 2:
        assert got.areas[1] == (0 if threshold == 0.5 else 31 * 37)
        assert got.areas[2] == 0


def test_sigmoid_of_extreme_logits():
    logits = np.array([-np.inf, -200, 0, 200, np.inf], dtype=np.float32)
    np.testing.assert_array_equal(host.sigmoid(logits), [0, 0, 0.5, 1, 1])


def test_wrong_arguments_are_named():
    features = np.zeros((8, 4, 4), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r"mask_features must be floats \[E, H, W\], got float32 \(8, 4\)"
    ):
        dynamic_conv(features[:, 0], np.zeros((2, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"mask_kernels must be floats \[N, 8\]"):
        dynamic_conv(features, np.zeros((2, 7), dtype=np.float32))
