"""The convolution whose weights the network predicts."""

from __future__ import annotations

from typing import Any

from solo_edge.kernels.backend import ArrayT, is_float, is_integer, run
from solo_edge.kernels.results import PackedMasks

__all__ = ["check_network_outputs", "dynamic_conv", "dynamic_conv_pack"]


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


def dynamic_conv_pack(
    mask_features: Any,
    mask_kernels: Any,
    cells: Any,
    valid_count: Any,
    *,
    mask_threshold: float = 0.5,
    backend: str = "auto",
) -> PackedMasks:
    """The candidates' masks, of which only bits, areas and sums of probabilities are ever written.

    Args:
        mask_features: [B, E, H, W].
        mask_kernels: [B, E, T], one kernel for each cell.
        cells: [B, K] integers, the cell of each candidate.
        valid_count: [B] integers, how many of an image's candidates count.
        mask_threshold: a pixel is inside if its probability is above it; in (0, 1). Where the two
            are equal to the last bits, versions of this may differ.

    Returns:
        `PackedMasks`; rows from `valid_count` on are 0. `probability_sums / areas` is the maskness.

    Raises:
        ValueError: shapes disagree, a wrong type, threshold or backend.
    """
    check_network_outputs(mask_kernels, mask_features)
    batch = mask_features.shape[0]
    if cells.ndim != 2 or cells.shape[0] != batch or not is_integer(cells):
        got = f"{cells.dtype} {tuple(cells.shape)}"
        raise ValueError(f"cells must be integers [{batch}, K] like mask_features, got {got}")
    if tuple(valid_count.shape) != (batch,) or not is_integer(valid_count):
        got = f"{valid_count.dtype} {tuple(valid_count.shape)}"
        raise ValueError(f"valid_count must be integers [{batch}], got {got}")
    if not 0 < mask_threshold < 1:
        raise ValueError(f"mask_threshold must be between 0 and 1, got {mask_threshold}")
    arrays = (mask_features, mask_kernels, cells, valid_count)
    result: PackedMasks = run("dynamic_conv_pack", backend, *arrays, mask_threshold=mask_threshold)
    return result


def check_network_outputs(mask_kernels: Any, mask_features: Any) -> None:
    """Raise ValueError unless they are floats [B, E, T] and [B, E, H, W]."""
    for name, array, axes in (
        ("mask_features", mask_features, "B, E, H, W"),
        ("mask_kernels", mask_kernels, "B, E, T"),
    ):
        if array.ndim != axes.count(",") + 1 or not is_float(array):
            got = f"{array.dtype} {tuple(array.shape)}"
            raise ValueError(f"{name} must be floats [{axes}], got {got}")
    if tuple(mask_kernels.shape[:2]) != tuple(mask_features.shape[:2]):
        raise ValueError(
            "mask_kernels [B, E, T] and mask_features [B, E, H, W] disagree:"
            f" {tuple(mask_kernels.shape)} and {tuple(mask_features.shape)}"
        )
