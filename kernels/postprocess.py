"""The whole chain: from the network's outputs to the instances' slots, without leaving the device."""

from __future__ import annotations

from typing import Any, Literal

from solo_edge.kernels.backend import run
from solo_edge.kernels.candidates import check_category_scores
from solo_edge.kernels.dynamic_conv import check_network_outputs
from solo_edge.kernels.matrix_nms import check_decay
from solo_edge.kernels.results import InstanceSlots

__all__ = ["postprocess"]


def postprocess(
    category_scores: Any,
    mask_kernels: Any,
    mask_features: Any,
    cell_strides: Any,
    *,
    score_threshold: float = 0.1,
    mask_threshold: float = 0.5,
    update_threshold: float = 0.05,
    max_candidates: int = 500,
    max_instances: int = 100,
    decay: Literal["gaussian", "linear"] = "gaussian",
    sigma: float = 2.0,
    backend: str = "auto",
) -> InstanceSlots:
    """The instances of each image of a batch.

    Points NMS (for levels), the best (cell, class) pairs above `score_threshold`, dynamic
    convolution, masks not larger than their level's stride dropped, score x maskness, Matrix NMS,
    scores of at least `update_threshold`, the best `max_instances`. On a GPU nothing waits for the
    device, and a CUDA graph can capture the call together with the network's.

    Args:
        category_scores: levels [B, C, S, S] after the sigmoid, or [B, C, T] after points NMS too.
        mask_kernels: [B, E, T].
        mask_features: [B, E, h, w].
        cell_strides: [T] floats, the stride of each cell's level: the largest area (in pixels of the
            mask features) that is dropped.

    Returns:
        `InstanceSlots` with M = `max_instances`.

    Raises:
        ValueError: shapes disagree, or a wrong type, limit or backend.
    """
    batch, _, cells = check_category_scores(category_scores)
    check_network_outputs(mask_kernels, mask_features)
    got = (mask_kernels.shape[0], mask_kernels.shape[2], *cell_strides.shape)
    if got != (batch, cells, cells):
        raise ValueError(
            f"category_scores have B = {batch}, T = {cells}, but mask_kernels are"
            f" {tuple(mask_kernels.shape)} and cell_strides {tuple(cell_strides.shape)}"
        )
    check_decay(decay, sigma)
    for name, value in (("max_candidates", max_candidates), ("max_instances", max_instances)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not (score_threshold >= 0 and 0 < mask_threshold < 1 and update_threshold >= 0):
        raise ValueError(
            "want score_threshold >= 0, 0 < mask_threshold < 1 and update_threshold >= 0, got"
            f" {score_threshold}, {mask_threshold} and {update_threshold}"
        )
    result: InstanceSlots = run(
        "postprocess",
        backend,
        category_scores,
        mask_kernels,
        mask_features,
        cell_strides,
        score_threshold=score_threshold,
        mask_threshold=mask_threshold,
        update_threshold=update_threshold,
        max_candidates=max_candidates,
        max_instances=max_instances,
        decay=decay,
        sigma=sigma,
    )
    return result
