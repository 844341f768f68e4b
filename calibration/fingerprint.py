"""A fingerprint of what an image looks like: frames of one video nearly share it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR", "distance", "fingerprint"]

# Of 128 bits. Different photographs and different rendered scenes are 23 and more apart in their
# closest of 240,000 pairs; the frames of a video stay within this for about a second.
NEAR = 12
CELLS = 8


def fingerprint(image: NDArray[np.uint8]) -> int:
    """Difference hash: for 8 x 8 places, whether it gets brighter to the right and downwards.

    Size, brightness, contrast and compression hardly change it.

    Args:
        image: [H, W, 3] uint8 RGB.

    Returns:
        128 bits.
    """
    import cv2

    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (CELLS + 1, CELLS + 1), interpolation=cv2.INTER_AREA)
    here = small[:-1, :-1]
    bits = np.stack([small[:-1, 1:] > here, small[1:, :-1] > here])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distance(one: int, others: Iterable[int]) -> int:
    """Bits in which a fingerprint differs from the nearest of the others; 128 if there are none."""
    return min(((one ^ other).bit_count() for other in others), default=2 * CELLS * CELLS)
