from __future__ import annotations

import numpy as np
import pytest

from solo_edge.config import preset
from solo_edge.preprocess import Preprocess

PREPROCESS = Preprocess((64, 96), (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))


def test_equal_size_is_only_normalised() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    tensor, geometry = PREPROCESS(image)
    expected = (image.astype(np.float64) - PREPROCESS.pixel_mean) / PREPROCESS.pixel_std
    np.testing.assert_allclose(tensor, expected.transpose(2, 0, 1), atol=1e-5)
    assert geometry.resized_size == geometry.input_size == (64, 96)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((128, 192), (64, 96)),
        ((100, 100), (64, 64)),
        ((10, 300), (3, 96)),
        ((1, 5000), (1, 96)),
        ((33, 47), (64, 91)),
    ],
)
def test_ratio_is_kept_and_padding_is_zero(size: tuple[int, int], resized: tuple[int, int]) -> None:
    tensor, geometry = PREPROCESS(np.full((*size, 3), 200, dtype=np.uint8))
    assert geometry.resized_size == resized
    assert tensor.shape == (3, 64, 96)
    assert (tensor[:, : resized[0], : resized[1]] > 0).all()
    assert (tensor[:, resized[0] :] == 0).all()
    assert (tensor[:, :, resized[1] :] == 0).all()


def test_digest_follows_every_field() -> None:
    assert Preprocess.from_dict(PREPROCESS.to_dict()).digest == PREPROCESS.digest
    for name in ("solov2-nano-256", "solov2-light-r18-448", "solov2-light-mbv2-448"):
        assert Preprocess.from_config(preset(name)).digest != PREPROCESS.digest


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 RGB"):
        PREPROCESS(image)
