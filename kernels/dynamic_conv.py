"""The convolution whose weights the network predicts."""

from __future__ import annotations

from solo_edge.kernels.backend import ArrayT, is_float, run

__all__ = ["dynamic_conv"]


def dynamic_conv(mask_features: ArrayT, mask_kernels: ArrayT, *, backend: str = "auto") -> ArrayT:
    """Convolve the mask features with each predicted 1x1 kernel (SOLOv2, arXiv:2003.10152, section 3.2).

    Args:
        mask_features: [E, H, W].
        mask_kernels: [N, E], one kernel for each candidate; N may be 0.

    Returns:
        Mask logits [N, H, W] (before the sigmoid).

    Raises:
        ValueError: wrong shapes, types or backend.
    """
    if mask_features.ndim != 3 or not is_float(mask_features):
        got = f"{mask_features.dtype} {tuple(mask_features.shape)}"
        raise ValueError(f"mask_features must be floats [E, H, W], got {got}")
    length = mask_features.shape[0]
    if mask_kernels.ndim != 2 or mask_kernels.shape[1] != length or not is_float(mask_kernels):
        got = f"{mask_kernels.dtype} {tuple(mask_kernels.shape)}"
        raise ValueError(f"mask_kernels must be floats [N, {length}] like mask_features, got {got}")
    result: ArrayT = run("dynamic_conv", backend, mask_features, mask_kernels)
    return result
