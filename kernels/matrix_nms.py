"""Matrix NMS: scores fall with the overlap of better masks, without a loop over the instances."""

from __future__ import annotations

import math
from typing import Any, Literal

from solo_edge.kernels.backend import ArrayT, is_bool, is_float, is_integer, run

__all__ = ["check_decay", "mask_iou", "mask_iou_packed", "matrix_nms", "matrix_nms_packed"]


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
    identical to a better one decays to 0 under the linear form, also where the formula says 0/0. A
    mask whose score is not finite takes no part, and its score comes out as 0.

    Args:
        masks: [N, H, W] bool; N may be 0.
        labels: [N] integers.
        scores: [N] floats, in any order.
        decay: the form of f.
        sigma: strength of the Gaussian form; the linear form has none.

    Returns:
        The new scores [N], of the type and in the order of `scores`.

    Raises:
        ValueError: shapes disagree, a wrong type, or an unknown decay or backend.
    """
    _check_masks(masks)
    count = (masks.shape[0],)
    if tuple(labels.shape) != count or not is_integer(labels):
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"labels must be integers {list(count)} like masks, got {got}")
    if tuple(scores.shape) != count or not is_float(scores):
        got = f"{scores.dtype} {tuple(scores.shape)}"
        raise ValueError(f"scores must be floats {list(count)} like masks, got {got}")
    check_decay(decay, sigma)
    result: ArrayT = run("matrix_nms", backend, masks, labels, scores, decay=decay, sigma=sigma)
    return result


def mask_iou_packed(words: ArrayT, areas: ArrayT, *, backend: str = "auto") -> ArrayT:
    """Intersection over union of every pair of packed masks of an image.

    Args:
        words: [B, K, W] uint32, as in `PackedMasks`.
        areas: [B, K] integers, the pixels inside each mask.

    Returns:
        [B, K, K] float32. Two empty masks have IoU 0, also an empty mask with itself.

    Raises:
        ValueError: wrong shapes, types or backend.
    """
    _check_words(words)
    _check_rows("areas", areas, words, is_integer, "integers")
    result: ArrayT = run("mask_iou_packed", backend, words, areas)
    return result


def matrix_nms_packed(
    words: ArrayT,
    areas: ArrayT,
    labels: ArrayT,
    scores: ArrayT,
    valid_count: ArrayT,
    *,
    decay: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    backend: str = "auto",
) -> ArrayT:
    """`matrix_nms` on the packed masks of a batch of images.

    Args:
        words: [B, K, W] uint32, as in `PackedMasks`.
        areas: [B, K] integers.
        labels: [B, K] integers, at least 0.
        scores: [B, K] floats, in any order.
        valid_count: [B] integers; masks from there on take no part.
        decay, sigma: as in `matrix_nms`.

    Returns:
        The new scores [B, K], in the order of `scores`; 0 for masks that took no part.

    Raises:
        ValueError: shapes disagree, a wrong type, or an unknown decay or backend.
    """
    _check_words(words)
    _check_rows("areas", areas, words, is_integer, "integers")
    _check_rows("labels", labels, words, is_integer, "integers")
    _check_rows("scores", scores, words, is_float, "floats")
    if tuple(valid_count.shape) != (words.shape[0],) or not is_integer(valid_count):
        got = f"{valid_count.dtype} {tuple(valid_count.shape)}"
        raise ValueError(f"valid_count must be integers [{words.shape[0]}], got {got}")
    check_decay(decay, sigma)
    arrays = (words, areas, labels, scores, valid_count)
    result: ArrayT = run("matrix_nms_packed", backend, *arrays, decay=decay, sigma=sigma)
    return result


def check_decay(decay: str, sigma: float) -> None:
    """Raise ValueError for a form or strength that Matrix NMS does not have."""
    if decay not in ("gaussian", "linear"):
        raise ValueError(f"decay must be 'gaussian' or 'linear', got {decay!r}")
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma must be a positive number, got {sigma}")


def _check_words(words: Any) -> None:
    if words.ndim != 3 or str(words.dtype).removeprefix("torch.") != "uint32":
        got = f"{words.dtype} {tuple(words.shape)}"
        raise ValueError(f"words must be uint32 [B, K, words], got {got}")


def _check_rows(name: str, array: Any, words: Any, right_kind: Any, kind: str) -> None:
    expected = tuple(words.shape[:2])
    if tuple(array.shape) != expected or not right_kind(array):
        got = f"{array.dtype} {tuple(array.shape)}"
        raise ValueError(f"{name} must be {kind} {list(expected)} like words, got {got}")


def _check_masks(masks: ArrayT) -> None:
    if masks.ndim != 3 or not is_bool(masks):
        raise ValueError(
            f"masks must be bool [N, H, W], got {masks.dtype} {tuple(masks.shape)};"
            " compare probabilities with a threshold first"
        )
