"""The definition of `render_masks`, in plain torch: slow and obvious, what the others must equal.

It computes in the type of the probabilities. In float64 it is the definition to the last pixel;
float32 rounds the positions, too, as the authors' code does: about 1e-7 of the image's size.

Arguments are checked by the public function of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from solo_edge.kernels.resize import STRIDE

__all__ = ["pack_rows", "render_masks", "resize_probabilities"]

_BITS_PER_WORD = 32
# Stands for NaN: where it has any weight, the sum is below every threshold.
_NEVER = -1e30


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
    """[B, M, h, w], [B] -> [B, M, H, W] uint8, or packed [B, M, H, ceil(W / 32)] uint32."""
    batch, count = probabilities.shape[:2]
    size = (max(size[0] for size in original_sizes), max(size[1] for size in original_sizes))
    masks = torch.zeros(batch, count, *size, dtype=torch.bool, device=probabilities.device)
    valid = torch.arange(count, device=probabilities.device) < valid_count[:, None]
    for image, (resized, original) in enumerate(zip(resized_sizes, original_sizes, strict=True)):
        values = resize_probabilities(probabilities[image], resized, original, exact=exact)
        inside = (values > mask_threshold) & valid[image][:, None, None]
        masks[image, :, : original[0], : original[1]] = inside
    return pack_rows(masks) if packed else masks.to(torch.uint8)


def resize_probabilities(
    probabilities: Tensor,
    resized_size: tuple[int, int],
    original_size: tuple[int, int],
    *,
    exact: bool,
) -> Tensor:
    """The probabilities [N, h, w] of one image at its original size [N, H, W].

    Exact is what the authors do: enlarged to the network's input, the padding cut off, resized.
    Else it is one bilinear resize of those low-resolution pixels that the image covers at least in
    part. What lies wholly in the padding takes no part; beyond the centres of the outermost pixels
    the value stays as it is there. What a NaN is mixed into becomes a number far below 0.
    """
    probabilities = torch.where(probabilities.isnan(), _NEVER, probabilities)
    if exact:
        x = probabilities[:, None]
        x = F.interpolate(x, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        x = x[:, :, : resized_size[0], : resized_size[1]]
        x = F.interpolate(x, size=original_size, mode="bilinear", align_corners=False)
        return x[:, 0]
    x = _resize_rows(probabilities, resized_size[0], original_size[0])
    return _resize_rows(x.mT, resized_size[1], original_size[1]).mT


def pack_rows(masks: Tensor) -> Tensor:
    """[..., W] bool -> [..., ceil(W / 32)] uint32: lowest bit first, surplus bits 0."""
    masks = F.pad(masks, (0, -masks.shape[-1] % _BITS_PER_WORD))
    bits = masks.unflatten(-1, (-1, _BITS_PER_WORD)).to(torch.int64)
    lanes = torch.arange(_BITS_PER_WORD, device=masks.device)
    words: Tensor = (bits << lanes).sum(-1)
    return words.to(torch.uint32)


def _resize_rows(x: Tensor, resized: int, original: int) -> Tensor:
    """[N, h, w] at stride 4 of an image `resized` pixels high -> [N, original, w], bilinear."""
    covered = -(-resized // STRIDE)
    row = torch.arange(original, dtype=x.dtype, device=x.device)
    # Pixel centres are aligned: row + 0.5 of the image is position + 0.5 of the low resolution.
    position = (row + 0.5) * (resized / (STRIDE * original)) - 0.5
    position = position.clamp(min=0, max=covered - 1)
    first = position.long()
    second = (first + 1).clamp(max=covered - 1)
    weight = (position - first)[:, None]
    return x[:, first] * (1 - weight) + x[:, second] * weight
