"""Kernels that do without zeroed memory and atomic operations. See `solo_edge.kernels.unzeroed`."""

import triton
import triton.language as tl

from solo_edge.kernels._triton.selection import INDEX_MASK, MAX_SCORE


@triton.jit
def collect_blocks_kernel(
    category_scores,  # [B, total] float32, total = C * T, after points NMS
    block_keys,  # [B, total] int64, out: of each block, the first block_counts keys
    block_counts,  # [B, blocks] int32, out
    total,
    blocks,
    score_threshold,
    BLOCK: tl.constexpr,
):
    """One program writes the keys of BLOCK pairs of one image, at the start of its own BLOCK places."""
    image = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    score = tl.load(category_scores + image * total + index, mask=inside, other=0.0)
    # Both comparisons are false for NaN.
    chosen = inside & (score > score_threshold) & (score < MAX_SCORE)
    position = tl.program_id(0) * BLOCK + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
    key = (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (INDEX_MASK - index)
    tl.store(block_keys + image * total + position, key, mask=chosen)
    count = tl.sum(chosen.to(tl.int32))
    tl.store(block_counts + image * blocks + tl.program_id(0), count)


@triton.jit
def join_blocks_kernel(
    block_keys,  # [B, total] int64
    block_counts,  # [B, blocks] int32
    keys,  # [B, total] int64, out: the first key_count of them, in the order of the pairs
    key_count,  # [B] int32, out
    total,
    blocks,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,  # a power of two >= blocks
):
    """One program moves the keys of one block behind those of the blocks before it."""
    image = tl.program_id(1).to(tl.int64)
    own = tl.program_id(0)
    block = tl.arange(0, BLOCKS)
    counts = tl.load(block_counts + image * blocks + block, mask=block < blocks, other=0)
    first = tl.sum(tl.where(block < own, counts, 0))
    count = tl.sum(tl.where(block == own, counts, 0))
    offset = tl.arange(0, BLOCK)
    source = block_keys + image * total + own * BLOCK
    key = tl.load(source + offset, mask=offset < count, other=0)
    tl.store(keys + image * total + first + offset, key, mask=offset < count)
    if own == blocks - 1:
        tl.store(key_count + image, first + count)


@triton.jit
def highest_overlaps_kernel(
    overlaps,  # [B, SLOTS, SLOTS] float32, undefined but for places i < j of one label
    sorted_labels,  # [B, SLOTS] int32
    kept_count,  # [B] int32
    highest_overlaps,  # [B, SLOTS] float32, out: the highest of each column, 0 from kept_count on
    SLOTS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """One program finds the highest overlap of BLOCK_J masks with the better ones of their label."""
    image = tl.program_id(1).to(tl.int64)
    first_j = tl.program_id(0) * BLOCK_J
    row_j = first_j + tl.arange(0, BLOCK_J)
    base = image * SLOTS
    count = tl.load(kept_count + image)
    inside_j = row_j < count
    label_j = tl.load(sorted_labels + base + row_j, mask=inside_j, other=-2)
    highest = tl.zeros((BLOCK_J,), dtype=tl.float32)
    for start in range(0, tl.minimum(first_j + BLOCK_J, count), BLOCK_I):
        row_i = start + tl.arange(0, BLOCK_I)
        label_i = tl.load(sorted_labels + base + row_i, mask=row_i < count, other=-1)
        related = (label_i[:, None] == label_j[None, :]) & (row_i[:, None] < row_j[None, :])
        source = overlaps + (base + row_i)[:, None] * SLOTS + row_j[None, :]
        highest = tl.maximum(highest, tl.max(tl.load(source, mask=related, other=0.0), axis=0))
    tl.store(highest_overlaps + base + row_j, highest, mask=row_j < SLOTS)
