"""The GPU kernels (Triton) and what launches them on tensors. Importing this package imports neither."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["KERNEL_MODULES", "kernel"]

# Where each function that a plan can name is written.
KERNEL_MODULES = {
    "preprocess_kernel": "preprocess",
    "collect_candidates_kernel": "selection",
    "select_candidates_kernel": "selection",
    "select_instances_kernel": "selection",
    "gather_kernels_kernel": "masks",
    "dynamic_conv_pack_kernel": "masks",
    "reduce_masks_kernel": "masks",
    "instance_probabilities_kernel": "masks",
    "dynamic_conv_kernel": "masks",
    "pack_masks_kernel": "masks",
    "order_candidates_kernel": "suppression",
    "mask_overlap_kernel": "suppression",
    "decay_scores_kernel": "suppression",
    "scatter_scores_kernel": "suppression",
    "collect_blocks_kernel": "unzeroed",
    "join_blocks_kernel": "unzeroed",
    "highest_overlaps_kernel": "unzeroed",
    "mask_boxes_kernel": "render",
    "render_masks_kernel": "render",
    "draw_overlay_kernel": "overlay",
}


def kernel(name: str) -> Any:
    """The Triton function of that name."""
    module = importlib.import_module(f"{__name__}.{KERNEL_MODULES[name]}")
    return getattr(module, name)
