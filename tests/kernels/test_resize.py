from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from solo_edge.kernels.resize import mask_regions, render_masks


def smooth(count: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Random smooth probabilities [N, h, w]."""
    coarse = np.random.default_rng(seed).random((count, 1, 7, 9), dtype=np.float32)
    enlarged = F.interpolate(
        torch.from_numpy(coarse), size=size, mode="bicubic", align_corners=False
    )
    return enlarged.clamp(0, 1)[:, 0].numpy()


def two_steps(probabilities, resized_size, original_size, threshold) -> np.ndarray:
    """What the authors do, on whole images."""
    x = torch.from_numpy(probabilities)[None]
    x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)
    x = x[:, :, : resized_size[0], : resized_size[1]]
    x = F.interpolate(x, size=original_size, mode="bilinear", align_corners=False)[0]
    return (x > threshold).numpy()


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.8])
@pytest.mark.parametrize(
    ("low", "resized", "original"),
    [
        ((28, 48), (112, 192), (180, 320)),  # upscaling, no padding
        ((28, 48), (108, 192), (433, 771)),  # padding below, odd
        ((28, 48), (112, 149), (24, 33)),  # padding on the right, downscaling
        ((28, 48), (111, 190), (111, 190)),  # the size of the input
        ((16, 16), (64, 43), (641, 427)),  # upright
        ((8, 8), (5, 32), (1, 7)),  # a strip
    ],
)
def test_equals_the_two_steps_on_whole_images(low, resized, original, threshold):
    probabilities = smooth(8, low, seed=1)
    want = two_steps(probabilities, resized, original, threshold)
    got = render_masks(probabilities, resized, original, threshold)
    assert got.shape == want.shape
    # Probabilities within float32 rounding of the threshold may fall on either side: 1 pixel in 10,000.
    intersection, union = (got & want).sum((1, 2)), (got | want).sum((1, 2))
    assert (intersection >= 0.9999 * union).all()
    assert 0 < want.sum() < want.size or threshold != 0.5


def test_regions_hold_every_pixel_and_little_more():
    y, x = np.mgrid[:28, :48]
    probabilities = np.exp(-((y - 10) ** 2 + (x - 30) ** 2) / 20.0).astype(np.float32)[None]
    (region,) = mask_regions(probabilities, (112, 192), (224, 384), 0.5)
    whole = two_steps(probabilities, (112, 192), (224, 384), 0.5)[0]
    rows, columns = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
    assert region.mask.sum() == whole.sum()
    for start, length, inside in (
        (region.top, region.mask.shape[0], rows),
        (region.left, region.mask.shape[1], columns),
    ):
        assert start <= inside[0] < inside[-1] < start + length
        assert length <= inside[-1] - inside[0] + 1 + 2 * 12  # 1.5 low pixels on each side, 8x


@pytest.mark.parametrize("exact", [True, False])
def test_an_aligned_region_begins_earlier_and_is_the_same_mask(exact):
    probabilities = smooth(6, (28, 48), seed=2) * 0.8
    sizes = (108, 192), (433, 771)
    plain = mask_regions(probabilities, *sizes, 0.5, exact=exact)
    aligned = mask_regions(probabilities, *sizes, 0.5, exact=exact, align=32)
    for one, other in zip(plain, aligned, strict=True):
        assert other.left == one.left - one.left % 32
        assert not other.mask[:, : one.left - other.left].any()
        np.testing.assert_array_equal(other.mask[:, one.left - other.left :], one.mask)


def test_one_damaged_pixel_is_missing_and_no_more():
    probabilities = np.full((1, 28, 48), 0.9, dtype=np.float32)
    probabilities[0, 10, 20] = np.nan
    masks = render_masks(probabilities, (112, 192), (224, 384), 0.5)
    want = two_steps(probabilities, (112, 192), (224, 384), 0.5)
    np.testing.assert_array_equal(masks, want)
    assert 0 < (~masks).sum() < 20 * 20


def test_nothing_inside_only_padding_and_nan():
    probabilities = np.zeros((3, 8, 8), dtype=np.float32)
    probabilities[1, 7, 7] = 1.0  # in the padding: the image ends at row 16
    probabilities[2] = np.nan
    assert not render_masks(probabilities, (16, 32), (64, 128), 0.5).any()
    assert [r.mask.size for r in mask_regions(probabilities, (16, 32), (64, 128), 0.5)] == [0, 0, 0]
    assert render_masks(probabilities[:0], (16, 32), (64, 128), 0.5).shape == (0, 64, 128)
