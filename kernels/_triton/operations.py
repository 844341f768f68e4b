"""The operations on CUDA tensors: each makes its plan and runs it. `reference` is the definition.

Arguments are checked by the public functions of the same names. Nothing here waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from solo_edge.kernels import reference
from solo_edge.kernels._triton.launch import run_plan
from solo_edge.kernels.overlay import OverlaySizes, overlay_plan
from solo_edge.kernels.plan import (
    MAX_SLOTS,
    Decay,
    Sizes,
    Thresholds,
    dynamic_conv_plan,
    mask_iou_plan,
    matrix_nms_plan,
    pack_masks_plan,
    pack_plan,
    postprocess_plan,
    select_plan,
)
from solo_edge.kernels.preprocess import (
    Colours,
    DataType,
    FrameSizes,
    frame_layout,
    preprocess_plan,
)
from solo_edge.kernels.render import RenderSizes, render_plan
from solo_edge.kernels.results import Candidates, InstanceSlots, PackedMasks
from solo_edge.kernels.tiles import Tiles, load_tiles

__all__ = [
    "draw_overlay",
    "dynamic_conv",
    "dynamic_conv_pack",
    "mask_iou",
    "mask_iou_packed",
    "matrix_nms",
    "matrix_nms_packed",
    "points_nms",
    "postprocess",
    "preprocess",
    "render_masks",
    "select_candidates",
    "tiles_for",
]

points_nms = reference.points_nms  # one pooling; inside `select_candidates` it is fused


def select_candidates(
    category_scores: Tensor | Sequence[Tensor], *, score_threshold: float, max_candidates: int
) -> Candidates:
    """Levels [B, C, S, S], or [B, C, T] after points NMS -> Candidates."""
    flat, offsets = _flat_levels(category_scores)
    batch, classes, cells = flat.shape
    _limit("max_candidates", max_candidates)
    sizes = Sizes(batch, classes, cells, 1, 1, 1, max_candidates)
    tiles = tiles_for(flat.device)
    plan = select_plan(sizes, Thresholds(score=score_threshold), tiles, suppress=bool(offsets))
    return Candidates(*run_plan(plan, {"category_scores": flat, **offsets}).values())


def dynamic_conv(mask_features: Tensor, mask_kernels: Tensor) -> Tensor:
    """[E, H, W], [N, E] -> mask logits [N, H, W]."""
    count, (channels, height, width) = len(mask_kernels), mask_features.shape
    dtype = torch.promote_types(mask_features.dtype, mask_kernels.dtype)
    if count == 0 or dtype == torch.float64:  # a kernel cannot be launched on nothing
        return reference.dynamic_conv(mask_features, mask_kernels)
    sizes = Sizes(1, 1, 1, channels, height, width, count)
    plan = dynamic_conv_plan(sizes, tiles_for(mask_features.device), dtype=_name(dtype))
    inputs = {
        "mask_features": mask_features[None].to(dtype),
        "mask_kernels": mask_kernels.to(dtype),
    }
    return run_plan(plan, inputs)["logits"]


def dynamic_conv_pack(
    mask_features: Tensor,
    mask_kernels: Tensor,
    cells: Tensor,
    valid_count: Tensor,
    *,
    mask_threshold: float,
) -> PackedMasks:
    """[B, E, H, W], [B, E, T], [B, K], [B] -> PackedMasks."""
    batch, channels, height, width = mask_features.shape
    dtype = _common_type(mask_features, mask_kernels)
    sizes = Sizes(batch, 1, mask_kernels.shape[2], channels, height, width, cells.shape[1])
    thresholds = Thresholds(mask_logit=_logit(mask_threshold))
    plan = pack_plan(sizes, thresholds, tiles_for(cells.device), dtype=_name(dtype))
    inputs = {
        "mask_features": mask_features.to(dtype),
        "mask_kernels": mask_kernels.to(dtype),
        "cells": cells.to(torch.int32),
        "valid_count": valid_count.to(torch.int32),
    }
    return PackedMasks(*run_plan(plan, inputs).values())


def mask_iou_packed(words: Tensor, areas: Tensor) -> Tensor:
    """[B, K, W], [B, K] -> [B, K, K]."""
    batch, count, width = words.shape
    _limit("the number of masks", count)
    sizes = Sizes(batch, 1, 1, 1, 1, width * 32, count)
    plan = mask_iou_plan(sizes, tiles_for(words.device))
    areas = areas.to(torch.int32)
    nothing = torch.zeros_like(areas)  # one label and one score: the order stays as it is
    inputs = {"words": words, "areas": areas, "labels": nothing, "rescored": nothing.float()}
    upper = run_plan(plan, inputs)["overlaps"][:, :count, :count]
    above = torch.ones_like(upper, dtype=torch.bool).triu(1)
    upper = torch.where(above, upper, 0.0)
    return upper + upper.transpose(1, 2) + torch.diag_embed((areas > 0).float())


def matrix_nms_packed(
    words: Tensor,
    areas: Tensor,
    labels: Tensor,
    scores: Tensor,
    valid_count: Tensor,
    *,
    decay: Decay,
    sigma: float,
) -> Tensor:
    """[B, K, W], [B, K], [B, K], [B, K], [B] -> [B, K]."""
    batch, count, width = words.shape
    _limit("the number of masks", count)
    sizes = Sizes(batch, 1, 1, 1, 1, width * 32, count)
    plan = matrix_nms_plan(sizes, Thresholds(decay=decay, sigma=sigma), tiles_for(words.device))
    valid = torch.arange(count, device=words.device) < valid_count[:, None]
    inputs = {
        "words": words,
        "areas": areas.to(torch.int32),
        "labels": labels.to(torch.int32),
        "rescored": torch.where(valid, scores.float(), float("-inf")),
    }
    return run_plan(plan, inputs)["decayed"].to(scores.dtype)


def mask_iou(masks: Tensor) -> Tensor:
    """[N, H, W] bool -> [N, N] float32."""
    if len(masks) == 0:
        return reference.mask_iou(masks)
    words, areas = _packed(masks)
    return mask_iou_packed(words, areas)[0]


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, *, decay: Decay, sigma: float
) -> Tensor:
    """[N, H, W] bool, [N], [N] -> [N]."""
    if len(masks) == 0:
        return scores.clone()
    # Labels may be any integers: numbered from 0, they are what the kernel sorts by.
    labels = (labels[:, None] == labels[None, :]).to(torch.int32).argmax(dim=1)
    words, areas = _packed(masks)
    count = torch.full((1,), len(masks), device=masks.device)
    return matrix_nms_packed(
        words, areas, labels[None], scores[None], count, decay=decay, sigma=sigma
    )[0]


def postprocess(
    category_scores: Tensor | Sequence[Tensor],
    mask_kernels: Tensor,
    mask_features: Tensor,
    cell_strides: Tensor,
    *,
    score_threshold: float,
    mask_threshold: float,
    update_threshold: float,
    max_candidates: int,
    max_instances: int,
    decay: Decay,
    sigma: float,
) -> InstanceSlots:
    """Levels [B, C, S, S] or [B, C, T], [B, E, T], [B, E, h, w], [T] -> InstanceSlots."""
    flat, offsets = _flat_levels(category_scores)
    batch, channels, height, width = mask_features.shape
    _limit("max_candidates", max_candidates)
    _limit("max_instances", max_instances)
    classes, cells = flat.shape[1:]
    sizes = Sizes(batch, classes, cells, channels, height, width, max_candidates, max_instances)
    thresholds = Thresholds(score_threshold, _logit(mask_threshold), update_threshold, decay, sigma)
    dtype = _common_type(mask_features, mask_kernels)
    plan = postprocess_plan(
        sizes, thresholds, tiles_for(flat.device), dtype=_name(dtype), suppress=bool(offsets)
    )
    inputs = {
        "category_scores": flat,
        "mask_kernels": mask_kernels.to(dtype),
        "mask_features": mask_features.to(dtype),
        "cell_strides": cell_strides.float(),
        **offsets,
    }
    return InstanceSlots(*run_plan(plan, inputs).values())


def render_masks(
    probabilities: Tensor,
    valid_count: Tensor,
    resized_sizes: Sequence[tuple[int, int]],
    original_sizes: Sequence[tuple[int, int]],
    *,
    mask_threshold: float,
    exact: bool,
    packed: bool,
) -> Tensor:
    """[B, M, h, w], [B] -> [B, M, H, W] uint8 or [B, M, H, ceil(W / 32)] uint32."""
    device = probabilities.device
    output = tuple(max(size[axis] for size in original_sizes) for axis in (0, 1))
    if probabilities.shape[1] == 0:
        width = -(-output[1] // 32) if packed else output[1]
        dtype = torch.uint32 if packed else torch.uint8
        return torch.empty((*probabilities.shape[:2], output[0], width), dtype=dtype, device=device)
    batch, instances, height, width = probabilities.shape
    sizes = RenderSizes(batch, instances, height, width, output[0], output[1])
    both = [(*a, *b) for a, b in zip(resized_sizes, original_sizes, strict=True)]
    inputs = {
        "probabilities": probabilities.float(),
        "valid_count": valid_count.to(torch.int32),
        "image_sizes": _on_device(tuple(both), device),
    }
    plan = render_plan(
        sizes, tiles_for(device), mask_threshold=mask_threshold, exact=exact, packed=packed
    )
    return run_plan(plan, inputs)["masks"]


def preprocess(
    frame: Tensor,
    *,
    resized_size: tuple[int, int],
    input_size: tuple[int, int],
    pixel_mean: Colours,
    pixel_std: Colours,
    bgr: bool,
    dtype: DataType,
) -> Tensor:
    """[H, W, 3] uint8 -> [1, 3, height, width] of `dtype`."""
    flat, row_bytes = _bytes_in_memory(frame)
    height, width = frame.shape[:2]
    layout = frame_layout((height, width), row_bytes, resized_size, bgr=bgr)
    plan = preprocess_plan(
        FrameSizes(*input_size, len(flat)),
        tiles_for(frame.device),
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        dtype=dtype,
    )
    return run_plan(plan, {"frame": flat, "layout": _on_device(layout, frame.device)})["image"]


def draw_overlay(
    frame: Tensor,
    probabilities: Tensor,
    valid_count: Tensor,
    colors: Tensor,
    *,
    resized_size: tuple[int, int],
    alpha: float,
    mask_threshold: float,
    thickness: int,
) -> Tensor:
    """[H, W, 3] uint8, [M, h, w], [1], [M, 3] uint8 -> [H, W, 3] uint8."""
    if len(probabilities) == 0:
        return frame.clone(memory_format=torch.contiguous_format)
    flat, row_bytes = _bytes_in_memory(frame)
    height, width = frame.shape[:2]
    count, low_height, low_width = probabilities.shape
    plan = overlay_plan(
        OverlaySizes(count, low_height, low_width, height, width, len(flat)),
        tiles_for(frame.device),
        alpha=alpha,
        mask_threshold=mask_threshold,
        thickness=thickness,
    )
    inputs = {
        "frame": flat,
        "layout": _on_device((height, width, row_bytes, *resized_size), frame.device),
        "probabilities": probabilities.float(),
        "valid_count": valid_count.to(torch.int32),
        "colors": colors,
    }
    return run_plan(plan, inputs)["drawn"]


def _bytes_in_memory(frame: Tensor) -> tuple[Tensor, int]:
    """The bytes of [H, W, 3] as they lie, with the gaps between rows, and from row to row."""
    height, width = frame.shape[:2]
    if frame.stride()[1:] != (3, 1) or frame.stride(0) < 3 * width:
        frame = frame.contiguous()
    row_bytes = frame.stride(0)
    return frame.as_strided(((height - 1) * row_bytes + 3 * width,), (1,)), row_bytes


@lru_cache(maxsize=64)  # a camera's frames have one size, and a copy to the device would wait
def _on_device(values: tuple[int | tuple[int, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=device)


@lru_cache(maxsize=8)
def tiles_for(device: torch.device) -> Tiles:
    """The tiles tuned for the device's GPU, or the defaults."""
    return load_tiles(torch.cuda.get_device_name(device)) if device.type == "cuda" else Tiles()


def _flat_levels(scores: Tensor | Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """[B, C, T] float32, and for levels that still need points NMS the way to each cell's neighbours."""
    if isinstance(scores, Tensor):
        return scores.float(), {}
    flat = torch.cat([level.float().flatten(2) for level in scores], dim=2)
    up, left = _neighbours(tuple(level.shape[-1] for level in scores), flat.device)
    return flat, {"up_offsets": up, "left_offsets": left}


def _neighbours(grid_sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """[T] distance to the cell above (0 in a first row) and [T] to the left (0 in a first column)."""
    up, left = [], []
    for size in grid_sizes:
        cell = torch.arange(size * size, dtype=torch.int32, device=device)
        up.append((cell >= size) * size)
        left.append((cell % size > 0).to(torch.int64))
    return torch.cat(up).to(torch.int32), torch.cat(left).to(torch.int32)


def _packed(masks: Tensor) -> tuple[Tensor, Tensor]:
    """[N, H, W] bool -> words [1, N, W] uint32, areas [1, N] int32."""
    count, height, width = masks.shape
    sizes = Sizes(1, 1, 1, 1, height, width, count)
    inputs = {"masks": masks.reshape(count, -1).view(torch.uint8)}
    found = run_plan(pack_masks_plan(sizes, tiles_for(masks.device)), inputs)
    return found["words"], found["areas"]


def _common_type(features: Tensor, kernels: Tensor) -> torch.dtype:
    """float16 stays as it is if both are; everything else is computed as float32."""
    half = features.dtype == kernels.dtype == torch.float16
    return torch.float16 if half else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _logit(probability: float) -> float:
    return math.log(probability / (1.0 - probability))


def _limit(name: str, value: int) -> None:
    if value > MAX_SLOTS:
        raise ValueError(f"{name} is at most {MAX_SLOTS} with backend 'triton', got {value}")
