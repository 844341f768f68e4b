"""A fingerprint of what an image looks like: frames of one video nearly share it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIKE", "NEAR", "distance", "fingerprint", "thumbnail"]

# Of 128 bits. Different photographs and different rendered scenes are 23 and more apart in their
# closest of 240,000 pairs; the frames of a video stay within this for about a second.
NEAR = 12
CELLS = 8
# Correlation of thumbnails from which two pictures with near fingerprints are nearly the same: a few
# spots on black have near fingerprints wherever the spots are.
ALIKE = 0.9
THUMBNAIL = 32


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


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The picture's gray at 32 x 32 places [1024], without its mean and of length 1 (0 if it is even).

    The product of two is their correlation.

    Args:
        image: [H, W, 3] uint8 RGB.
    """
    import cv2

    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    values = small.astype(np.float32).reshape(-1)
    values -= values.mean()
    length = float(np.linalg.norm(values))
    return values / np.float32(length) if length else values


def distance(one: int, others: Iterable[int]) -> int:
    """Bits in which a fingerprint differs from the nearest of the others; 128 if there are none."""
    return min(((one ^ other).bit_count() for other in others), default=2 * CELLS * CELLS)
