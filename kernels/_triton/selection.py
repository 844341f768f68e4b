"""Candidates: points NMS, threshold and the best K of all (class, cell) pairs, without a sort of them all.

A score above the threshold is positive, so the bits of its float order like integers. With the pair's
index below them they make a 63-bit key that is unique and whose order is (score descending, index
ascending). Only keys above the threshold are written. If there are more than K, the K-th largest is
found digit by digit; K keys are sorted at the end.
"""

import triton
import triton.language as tl

INDEX_MASK = tl.constexpr(0x7FFFFFFF)
MAX_SCORE = tl.constexpr(2.0)  # see solo_edge.kernels.candidates


@triton.jit
def collect_candidates_kernel(
    category_scores,  # [B, total] float32, total = C * T
    up_offsets,  # [T] int32, distance to the cell above in its level, 0 in the first row
    left_offsets,  # [T] int32, 1, or 0 in the first column
    keys,  # [B, total] int64, out: the first key_count of them, in any order
    key_count,  # [B] int32, in: 0
    total,
    cells,
    score_threshold,
    SUPPRESS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program writes the keys of BLOCK pairs of one image."""
    image = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < total
    category_scores += image * total
    score = tl.load(category_scores + index, mask=inside, other=0.0).to(tl.float32)

    # Both comparisons are false for NaN.
    chosen = inside & (score > score_threshold) & (score < MAX_SCORE)
    if SUPPRESS:
        cell = index % cells
        up = tl.load(up_offsets + cell, mask=chosen, other=0)
        left = tl.load(left_offsets + cell, mask=chosen, other=0)
        above = tl.load(category_scores + index - up, mask=chosen, other=0.0)
        beside = tl.load(category_scores + index - left, mask=chosen, other=0.0)
        diagonal = tl.load(category_scores + index - up - left, mask=chosen, other=0.0)
        chosen &= (score >= above) & (score >= beside) & (score >= diagonal)
    count = tl.sum(chosen.to(tl.int32))
    if count > 0:
        first = tl.atomic_add(key_count + image, count)
        position = first + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        key = (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (INDEX_MASK - index)
        tl.store(keys + image * total + position, key, mask=chosen)


@triton.jit
def _kth_largest(keys, count, wanted, BLOCK: tl.constexpr):
    """The `wanted`-th largest of `count` different keys, 8 bits at a time."""
    digits = tl.arange(0, 512)
    prefix = tl.zeros((), dtype=tl.int64)
    for step in range(0, 8):
        shift = 56 - 8 * step
        # Digit 256 takes the keys that differ from the prefix found so far.
        histogram = tl.zeros((512,), dtype=tl.int32)
        for start in range(0, count, BLOCK):
            offset = start + tl.arange(0, BLOCK)
            key = tl.load(keys + offset, mask=offset < count, other=0)
            # Two shifts, because by 64 at once is undefined.
            alike = (offset < count) & (((key >> shift) >> 8) == ((prefix >> shift) >> 8))
            digit = tl.where(alike, (key >> shift) & 255, 256).to(tl.int32)
            histogram += tl.histogram(digit, 512)
        histogram = tl.where(digits < 256, histogram, 0)
        at_least = tl.sum(histogram) - tl.cumsum(histogram, axis=0) + histogram
        digit = tl.max(tl.where((at_least >= wanted) & (digits < 256), digits, 0))
        wanted -= tl.sum(tl.where(digits > digit, histogram, 0))
        prefix |= digit.to(tl.int64) << shift
    return prefix


@triton.jit
def select_candidates_kernel(
    keys,  # [B, total] int64
    key_count,  # [B] int32
    top_keys,  # [B, SLOTS] int64, scratch
    scores,  # [B, K] float32, out
    labels,  # [B, K] int32, out
    chosen_cells,  # [B, K] int32, out
    valid_count,  # [B] int32, out
    total,
    cells,
    candidates,  # K
    SLOTS: tl.constexpr,  # a power of two >= K
    BLOCK: tl.constexpr,
):
    """One program selects the candidates of one image."""
    image = tl.program_id(1).to(tl.int64)
    keys += image * total
    top_keys += image * SLOTS
    slot = tl.arange(0, SLOTS)
    count = tl.load(key_count + image)
    source = keys
    # K = 1 comes as a constant, which a branch cannot give to a variable.
    limit = tl.zeros((), dtype=tl.int32) + candidates
    if count > limit:
        lowest = _kth_largest(keys, count, limit, BLOCK)
        written = tl.zeros((), dtype=tl.int32)
        for start in range(0, count, BLOCK):
            offset = start + tl.arange(0, BLOCK)
            key = tl.load(keys + offset, mask=offset < count, other=0)
            chosen = key >= lowest  # 0 never is: a key holds a positive score
            position = written + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
            tl.store(top_keys + position, key, mask=chosen)
            written += tl.sum(chosen.to(tl.int32))
        source = top_keys
        count = limit
        tl.debug_barrier()  # what other threads of this block wrote is read next

    best = tl.load(source + slot, mask=slot < count, other=0)
    best = tl.sort(best, descending=True)
    valid = slot < count
    index = tl.where(valid, INDEX_MASK - (best & INDEX_MASK), 0).to(tl.int32)
    score = (best >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    output = image * candidates + slot
    tl.store(scores + output, score, mask=slot < candidates)
    tl.store(labels + output, index // cells, mask=slot < candidates)
    tl.store(chosen_cells + output, index % cells, mask=slot < candidates)
    tl.store(valid_count + image, count)


@triton.jit
def select_instances_kernel(
    sorted_decayed,  # [B, SLOTS] float32, in the order of order_candidates_kernel
    sorted_labels,  # [B, SLOTS] int32
    sorted_ranks,  # [B, SLOTS] int32, place by the score before the decay
    order,  # [B, SLOTS] int32, candidate
    kept_count,  # [B] int32
    instance_scores,  # [B, M] float32, out
    instance_labels,  # [B, M] int32, out
    instance_candidates,  # [B, M] int32, out
    instance_count,  # [B] int32, out
    update_threshold,
    instances,  # M
    SLOTS: tl.constexpr,
):
    """One program selects the best M instances of one image whose score is still high enough."""
    image = tl.program_id(1).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    base = image * SLOTS + slot
    filled = slot < tl.load(kept_count + image)
    score = tl.load(sorted_decayed + base, mask=filled, other=0.0)
    rank = tl.load(sorted_ranks + base, mask=filled, other=0)

    # Equal scores keep the order that they had before the decay. Bits: score 31, rank 12, slot 12.
    kept = filled & (score >= update_threshold)
    key = score.to(tl.int32, bitcast=True).to(tl.int64) << 24
    key |= ((4095 - rank) << 12 | slot).to(tl.int64)
    key = tl.sort(tl.where(kept, key, -1), descending=True)
    count = tl.minimum(tl.sum(kept.to(tl.int32)), instances)
    source = (key & 4095).to(tl.int32)
    valid = slot < count
    label = tl.load(sorted_labels + image * SLOTS + source, mask=valid, other=0)
    candidate = tl.load(order + image * SLOTS + source, mask=valid, other=0)
    score = tl.where(valid, (key >> 24).to(tl.int32).to(tl.float32, bitcast=True), 0.0)

    output = image * instances + slot
    written = slot < instances
    tl.store(instance_scores + output, score, mask=written)
    tl.store(instance_labels + output, label, mask=written)
    tl.store(instance_candidates + output, candidate, mask=written)
    tl.store(instance_count + image, count)
