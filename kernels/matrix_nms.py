"""Matrix NMS: scores fall with the overlap of better masks, without a loop over the instances."""

from __future__ import annotations

from typing import Literal

import numpy as np

from solo_edge.kernels.backend import ArrayT, is_bool, is_float, is_integer, run

__all__ = ["mask_iou", "matrix_nms"]


def mask_iou(masks: ArrayT, *, backend: str = "auto") -> ArrayT:
    """Intersection over union of every pair of masks.

    Args:
        masks: [N, H, W] bool; N may be 0.

    Returns:
        [N, N] float32. Two empty masks have IoU 0, also an empty mask with itself.

    Raises:
        ValueError: wrong shape, type or backend.
    """
    _check_masks(masks)
    result: ArrayT = run("mask_iou", backend, masks)
    return result


def matrix_nms(
    masks: ArrayT,
    labels: ArrayT,
    scores: ArrayT,
    *,
    decay: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    backend: str = "auto",
) -> ArrayT:
    """Lower the score of each mask by its overlap with better masks of the same class.

        decay_j = min over i before j of f(iou[i, j]) / f(max over k before i of iou[k, i])

    with f(x) = exp(-sigma * x**2) or 1 - x (SOLOv2, arXiv:2003.10152, Matrix NMS). As in the
    authors' code sigma multiplies: their 2.0 is the paper's division by 0.5. "Before" means a higher
    score; equal scores count in the order given. Nothing is removed and the order is kept. A mask
    identical to a better one decays to 0 under the linear form, also where the formula says 0/0.

    Args:
        masks: [N, H, W] bool; N may be 0.
        labels: [N] integers.
        scores: [N] floats, finite, in any order.
        decay: the form of f.
        sigma: strength of the Gaussian form; the linear form has none.

    Returns:
        The new scores [N], of the type and in the order of `scores`.

    Raises:
        ValueError: shapes disagree, a wrong type, a score that is not finite, or an unknown decay
            or backend.
    """
    _check_masks(masks)
    count = (masks.shape[0],)
    if tuple(labels.shape) != count or not is_integer(labels):
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels must be integers {list(count)} like masks, got {got}")
    if tuple(scores.shape) != count or not is_float(scores):
        got = f"{scores.dtype} {tuple(scores.shape)}"
        raise ValueError(f"scores must be floats {list(count)} like masks, got {got}")
    if decay not in ("gaussian", "linear"):
        raise ValueError(f"decay must be 'gaussian' or 'linear', got {decay!r}")
    if not (np.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number, got {sigma}")
    result: ArrayT = run("matrix_nms", backend, masks, labels, scores, decay=decay, sigma=sigma)
    return result


def _check_masks(masks: ArrayT) -> None:
    if masks.ndim != 3 or not is_bool(masks):
        raise ValueError(
            f"masks must be bool [N, H, W], got {masks.dtype} {tuple(masks.shape)};"
            " compare probabilities with a threshold first"
        )
