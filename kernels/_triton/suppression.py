"""Matrix NMS on packed masks.

Candidates are put in the order (label, score): those that can overlap are neighbours, and tiles of
pairs without a common label are skipped whole. A pair's intersection is AND + popcount over words, or
a product of unpacked bits on the int8 tensor cores.
"""

import triton
import triton.language as tl


@triton.jit
def order_candidates_kernel(
    rescored,  # [B, K] float32; a score that is not finite takes no part
    labels,  # [B, K] int32, at least 0 and below 2**30
    areas,  # [B, K] int32
    order,  # [B, SLOTS] int32, out: candidate at each place of the order (label, score)
    sorted_ranks,  # [B, SLOTS] int32, out: its place by score alone
    sorted_labels,  # [B, SLOTS] int32, out
    sorted_areas,  # [B, SLOTS] int32, out
    sorted_scores,  # [B, SLOTS] float32, out
    kept_count,  # [B] int32, out
    candidates,  # K
    SLOTS: tl.constexpr,
):
    """One program orders the candidates of one image. Equal scores count in the order given."""
    image = tl.program_id(1).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    inside = slot < candidates
    labels += image * candidates
    rescored += image * candidates
    score = tl.load(rescored + slot, mask=inside, other=float("-inf"))
    kept = inside & (tl.abs(score) < float("inf"))  # false for NaN
    count = tl.sum(kept.to(tl.int32))

    # Bits of a float as an integer of the same order: those of a negative one are turned round.
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # + 0.0 makes -0.0 and 0.0 equal
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    key = ((0x7FFFFFFF - ordered.to(tl.int64)) << 12) | slot
    key = tl.sort(tl.where(kept, key, 0x7FFFFFFFFFFFFFFF))
    candidate = (key & 4095).to(tl.int32)
    filled = slot < count
    label = tl.load(labels + candidate, mask=filled, other=0)
    key = (label.to(tl.int64) << 24) | (slot << 12) | candidate
    key = tl.sort(tl.where(filled, key, 0x7FFFFFFFFFFFFFFF))
    candidate = tl.where(filled, key & 4095, 0).to(tl.int32)

    output = image * SLOTS + slot
    score = tl.load(rescored + candidate, mask=filled, other=0.0)
    area = tl.load(areas + image * candidates + candidate, mask=filled, other=0)
    tl.store(order + output, candidate)
    tl.store(sorted_ranks + output, tl.where(filled, (key >> 12) & 4095, 0).to(tl.int32))
    tl.store(sorted_labels + output, tl.where(filled, (key >> 24).to(tl.int32), -1))
    tl.store(sorted_areas + output, area)
    tl.store(sorted_scores + output, score)
    tl.store(kept_count + image, count)


@triton.jit
def _popcount(words):
    # The compiler knows this form, with the product at its end, as one instruction (POPC).
    words = words - ((words >> 1) & 0x55555555)
    words = (words & 0x33333333) + ((words >> 2) & 0x33333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F
    return ((words * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _bits(words, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """[ROWS, WORDS] uint32 -> [ROWS, 32 * WORDS] int8 of 0 and 1."""
    lane = tl.arange(0, 32).to(tl.uint32)
    bits = (words[:, :, None] >> lane[None, None, :]) & 1
    return tl.reshape(bits.to(tl.int8), (ROWS, 32 * WORDS))


@triton.jit
def mask_overlap_kernel(
    words,  # [B, K, word_count] uint32
    order,  # [B, SLOTS] int32
    sorted_labels,  # [B, SLOTS] int32
    sorted_areas,  # [B, SLOTS] int32
    kept_count,  # [B] int32
    overlaps,  # [B, SLOTS, SLOTS] float32, out: IoU of places i < j of one label; elsewhere undefined
    highest_overlaps,  # [B, SLOTS] float32, in: 0, out: the highest of each column
    candidates,  # K
    word_count,
    SLOTS: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_W: tl.constexpr,
    METHOD: tl.constexpr,  # "popc" or "int8"
):
    """One program computes the IoU of BLOCK_I x BLOCK_J pairs above the diagonal."""
    image = tl.program_id(2).to(tl.int64)
    first_i = tl.program_id(1) * BLOCK_I
    first_j = tl.program_id(0) * BLOCK_J
    count = tl.load(kept_count + image)
    sorted_labels += image * SLOTS
    # Labels ascend: if the last of i is below the first of j, no pair has one label.
    last_i = tl.minimum(first_i + BLOCK_I, SLOTS) - 1
    lowest_j = tl.load(sorted_labels + first_j)
    highest_i = tl.load(sorted_labels + tl.minimum(last_i, tl.maximum(count - 1, 0)))
    above_diagonal = first_j + BLOCK_J - 1 > first_i
    if above_diagonal & (first_i < count) & (first_j < count) & (highest_i >= lowest_j):
        row_i = first_i + tl.arange(0, BLOCK_I)
        row_j = first_j + tl.arange(0, BLOCK_J)
        inside_i, inside_j = row_i < count, row_j < count
        base = image * SLOTS
        candidate_i = tl.load(order + base + row_i, mask=inside_i, other=0)
        candidate_j = tl.load(order + base + row_j, mask=inside_j, other=0)
        area_i = tl.load(sorted_areas + base + row_i, mask=inside_i, other=0)
        area_j = tl.load(sorted_areas + base + row_j, mask=inside_j, other=0)
        label_i = tl.load(sorted_labels + row_i, mask=inside_i, other=-1)
        label_j = tl.load(sorted_labels + row_j, mask=inside_j, other=-2)
        start_i = words + (image * candidates + candidate_i)[:, None] * word_count
        start_j = words + (image * candidates + candidate_j)[:, None] * word_count

        common = tl.zeros((BLOCK_I, BLOCK_J), dtype=tl.int32)
        for start in range(0, word_count, BLOCK_W):
            word = start + tl.arange(0, BLOCK_W)
            within = (word < word_count)[None, :]
            words_i = tl.load(start_i + word[None, :], mask=inside_i[:, None] & within, other=0)
            words_j = tl.load(start_j + word[None, :], mask=inside_j[:, None] & within, other=0)
            if METHOD == "int8":
                bits_i = _bits(words_i, BLOCK_I, BLOCK_W)
                bits_j = _bits(words_j, BLOCK_J, BLOCK_W)
                common = tl.dot(bits_i, tl.trans(bits_j), common, out_dtype=tl.int32)
            else:
                both = words_i[:, None, :] & words_j[None, :, :]
                common += tl.sum(_popcount(both), axis=2)

        related = (label_i[:, None] == label_j[None, :]) & (row_i[:, None] < row_j[None, :])
        union = tl.maximum(area_i[:, None] + area_j[None, :] - common, 1)
        overlap = tl.where(related, common.to(tl.float32) / union.to(tl.float32), 0.0)
        target = overlaps + (base + row_i)[:, None] * SLOTS + row_j[None, :]
        tl.store(target, overlap, mask=related)
        # The largest is the same in whatever order the programs come.
        tl.atomic_max(highest_overlaps + base + row_j, tl.max(overlap, axis=0), mask=inside_j)


@triton.jit
def decay_scores_kernel(
    overlaps,  # [B, SLOTS, SLOTS] float32
    highest_overlaps,  # [B, SLOTS] float32
    sorted_labels,  # [B, SLOTS] int32
    sorted_scores,  # [B, SLOTS] float32
    kept_count,  # [B] int32
    sorted_decayed,  # [B, SLOTS] float32, out: 0 from kept_count on
    sigma,
    SLOTS: tl.constexpr,
    GAUSSIAN: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """One program decays BLOCK_J scores by the better masks of their label."""
    image = tl.program_id(1).to(tl.int64)
    first_j = tl.program_id(0) * BLOCK_J
    row_j = first_j + tl.arange(0, BLOCK_J)
    base = image * SLOTS
    count = tl.load(kept_count + image)
    inside_j = row_j < count
    label_j = tl.load(sorted_labels + base + row_j, mask=inside_j, other=-2)
    # The best mask of all has the factor 1, so the minimum is never above it.
    factor = tl.full((BLOCK_J,), 1.0, dtype=tl.float32)
    for start in range(0, tl.minimum(first_j + BLOCK_J, count), BLOCK_I):
        row_i = start + tl.arange(0, BLOCK_I)
        inside_i = row_i < count
        label_i = tl.load(sorted_labels + base + row_i, mask=inside_i, other=-1)
        own = tl.load(highest_overlaps + base + row_i, mask=inside_i, other=0.0)[:, None]
        related = (label_i[:, None] == label_j[None, :]) & (row_i[:, None] < row_j[None, :])
        source = overlaps + (base + row_i)[:, None] * SLOTS + row_j[None, :]
        overlap = tl.load(source, mask=related, other=0.0)
        if GAUSSIAN:
            ratio = tl.exp(sigma * (own * own - overlap * overlap))
        else:
            ratio = (1.0 - overlap) / tl.maximum(1.0 - own, 1e-12)
        factor = tl.minimum(factor, tl.min(tl.where(related, ratio, 1.0), axis=0))
    score = tl.load(sorted_scores + base + row_j, mask=inside_j, other=0.0)
    tl.store(sorted_decayed + base + row_j, score * factor, mask=row_j < SLOTS)


@triton.jit
def scatter_scores_kernel(
    sorted_values,  # [B, SLOTS] float32
    order,  # [B, SLOTS] int32
    kept_count,  # [B] int32
    values,  # [B, K] float32, out: 0 for a candidate that took no part
    candidates,  # K
    SLOTS: tl.constexpr,
):
    """One program puts the scores of one image back in the order of the candidates."""
    image = tl.program_id(1).to(tl.int64)
    slot = tl.arange(0, SLOTS)
    tl.store(values + image * candidates + slot, 0.0, mask=slot < candidates)
    tl.debug_barrier()  # the zeros must not come after the values
    filled = slot < tl.load(kept_count + image)
    candidate = tl.load(order + image * SLOTS + slot, mask=filled, other=0)
    value = tl.load(sorted_values + image * SLOTS + slot, mask=filled, other=0.0)
    tl.store(values + image * candidates + candidate, value, mask=filled)
