"""Bit-packed masks in NumPy: row-major pixels, the first in the lowest bit, surplus bits 0.

Words of 64 pixels inside, because they halve the number of steps; words of 32 at the public border,
because GPUs count bits in those.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PIXELS_PER_WORD",
    "from_words_32",
    "mask_areas",
    "pack_masks",
    "pack_rows",
    "popcount",
    "to_words_32",
    "unpack_masks",
]

PIXELS_PER_WORD = 64


def pack_masks(masks: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """[N, H, W] or [N, pixels] bool -> [N, ceil(pixels / 64)] uint64; surplus bits are 0."""
    pixels = int(np.prod(masks.shape[1:]))  # unlike -1 in a reshape it is known without a mask, too
    return _words(masks.reshape(len(masks), pixels), 8, "<u8").astype(np.uint64, copy=False)


def pack_rows(masks: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """[..., W] bool -> [..., ceil(W / 32)] uint32; surplus bits are 0."""
    return _words(masks, 4, "<u4").astype(np.uint32, copy=False)


def unpack_masks(words: NDArray[np.uint64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """[N, words] uint64 -> [N, H, W] bool, the inverse of `pack_masks`."""
    octets = words.astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets, axis=1, count=size[0] * size[1], bitorder="little")
    return bits.view(np.bool_).reshape(len(words), *size)


def to_words_32(words: NDArray[np.uint64], pixels: int) -> NDArray[np.uint32]:
    """[N, ceil(pixels / 64)] uint64 -> [N, ceil(pixels / 32)] uint32."""
    halves = words.astype("<u8", copy=False).view("<u4")[:, : -(-pixels // 32)]
    return halves.astype(np.uint32, copy=False)


def from_words_32(words: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """[N, words] uint32 -> [N, ceil(words / 2)] uint64."""
    count, width = words.shape
    halves = np.zeros((count, width + width % 2), dtype="<u4")
    halves[:, :width] = words
    return halves.view("<u8").astype(np.uint64, copy=False)


def mask_areas(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[N, words] -> [N]: the pixels inside each mask."""
    areas: NDArray[np.int64] = popcount(words).sum(axis=1, dtype=np.int64)
    return areas


def _words(masks: NDArray[np.bool_], octets_per_word: int, dtype: str) -> NDArray[Any]:
    octets = np.packbits(masks, axis=-1, bitorder="little")
    missing = -octets.shape[-1] % octets_per_word
    if missing:
        octets = np.pad(octets, ((0, 0),) * (octets.ndim - 1) + ((0, missing),))
    return octets.view(dtype)


def _popcount_by_table(
    words: NDArray[np.uint64], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`np.bitwise_count` for NumPy before 2.0."""
    quarters = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    return _BITS_OF_16[quarters].sum(axis=-1, dtype=np.uint8, out=out)


def _bits_of_16() -> NDArray[np.uint8]:
    octets = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    bits: NDArray[np.uint8] = np.unpackbits(octets, axis=1).sum(1, dtype=np.uint8)
    return bits


_BITS_OF_16 = _bits_of_16()
if hasattr(np, "bitwise_count"):
    popcount: Any = np.bitwise_count
else:
    popcount = _popcount_by_table
