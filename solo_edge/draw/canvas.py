"""The image that a layer is drawn on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["canvas"]


def canvas(image: NDArray[np.uint8], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """A copy of `image` [H, W, 3], in `out` if it is given; `image` itself if that is `out`.

    Raises:
        ValueError: no such image, or `out` has another shape or cannot be written to.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if out is None:
        return image.copy()
    if out.dtype != np.uint8 or out.shape != image.shape or not out.flags.writeable:
        kind = "writeable" if out.flags.writeable else "read-only"
        raise ValueError(
            f"out must be a writeable uint8 {list(image.shape)} like image,"
            f" got {kind} {out.dtype} {list(out.shape)}"
        )
    # OpenCV draws on arrays whose pixels lie side by side, and on a copy of any other.
    if out.strides[1:] != (3, 1):
        raise ValueError("out must have its pixels side by side; make it with np.ascontiguousarray")
    if out is not image:
        np.copyto(out, image)
    return out
