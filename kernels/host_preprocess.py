"""`preprocess` in NumPy: OpenCV's INTER_LINEAR on bytes, written out. It needs no OpenCV.

Weights are whole 2048ths and sums are 32-bit integers, as in OpenCV's `resize` for 8-bit images. With
OpenCV 5.0 on x86 every value is the same; builds for other processors may round otherwise, by one grey
level.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Taps", "axis_taps", "preprocess"]

ONE = 2048  # a weight of 1


class Taps(NamedTuple):
    """The resize along one axis: for each output position two source pixels and their weights."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight_first: NDArray[np.int32]  # of 2048
    weight_second: NDArray[np.int32]


def axis_taps(size: int, resized: int, *, whole_at_borders: bool) -> Taps:
    """How `size` pixels become `resized`; pixel centres are aligned.

    Beyond the centres of the outermost pixels both pixels are the same one. Along rows OpenCV gives
    the first of them all the weight, along columns it leaves the weights as they are: that changes
    nothing but the rounding.
    """
    position = np.arange(resized)
    centre = ((2 * position + 1) * size - resized).astype(np.float32)
    place = centre / np.float32(2 * resized)
    below = np.floor(place)
    first, second = (np.clip(below + step, 0, size - 1).astype(np.int64) for step in (0, 1))
    weight = place - below
    if whole_at_borders:
        weight = np.where(first == second, np.float32(0), weight)
    both = (np.rint(each * np.float32(ONE)).astype(np.int32) for each in (1 - weight, weight))
    return Taps(first, second, *both)


def preprocess(
    frame: NDArray[np.uint8],
    *,
    resized_size: tuple[int, int],
    input_size: tuple[int, int],
    pixel_mean: tuple[float, float, float],
    pixel_std: tuple[float, float, float],
    bgr: bool,
    dtype: str,
) -> NDArray[Any]:
    """[H, W, 3] uint8 -> [1, 3, height, width] of `dtype`."""
    pixels = (frame[:, :, ::-1] if bgr else frame).astype(np.int32)
    rows = axis_taps(frame.shape[0], resized_size[0], whole_at_borders=False)
    columns = axis_taps(frame.shape[1], resized_size[1], whole_at_borders=True)
    across = pixels[:, columns.first] * columns.weight_first[:, None]
    across += pixels[:, columns.second] * columns.weight_second[:, None]
    across >>= 4
    down = (across[rows.first] * rows.weight_first[:, None, None]) >> 16
    down += (across[rows.second] * rows.weight_second[:, None, None]) >> 16
    levels = ((down + 2) >> 2).astype(np.float32)
    factor = np.asarray([1.0 / std for std in pixel_std], dtype=np.float32)
    normal = (levels - np.asarray(pixel_mean, dtype=np.float32)) * factor
    image = np.zeros((1, 3, *input_size), dtype=dtype)
    image[0, :, : resized_size[0], : resized_size[1]] = normal.transpose(2, 0, 1)
    return image
