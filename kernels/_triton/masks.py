"""Dynamic convolution straight to packed masks, and to the probabilities of the few that remain."""

import triton
import triton.language as tl


@triton.jit
def gather_kernels_kernel(
    mask_kernels,  # [B, E, T]
    cells,  # [B, K] int32
    valid_count,  # [B] int32
    chosen_kernels,  # [B, K, E], out
    candidates,  # K
    cell_count,  # T
    CHANNELS: tl.constexpr,  # E
    BLOCK_E: tl.constexpr,  # a power of two >= E
    BLOCK_N: tl.constexpr,
):
    """One program copies the kernels of BLOCK_N candidates; those that are not valid become 0."""
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.arange(0, BLOCK_E)
    valid = row < tl.load(valid_count + image)
    cell = tl.load(cells + image * candidates + row, mask=valid, other=0)
    inside = channel[None, :] < CHANNELS
    source = mask_kernels + image * CHANNELS * cell_count
    value = tl.load(
        source + channel[None, :] * cell_count + cell[:, None],
        mask=valid[:, None] & inside,
        other=0.0,
    )
    target = chosen_kernels + image * candidates * CHANNELS
    tl.store(
        target + row[:, None] * CHANNELS + channel[None, :],
        value,
        mask=(row < candidates)[:, None] & inside,
    )


@triton.jit
def _logits(
    mask_features,  # [B, E, pixels]
    mask_kernels,  # [B, candidates, E]
    image,
    row,  # [N] which kernels
    pixel,  # [P] which pixels
    row_mask,  # [N]
    candidates,
    pixels,
    CHANNELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The 1x1 convolution of one tile: [N, E] @ [E, P] in float32."""
    rows = mask_kernels + (image * candidates + row) * CHANNELS
    columns = mask_features + image * CHANNELS * pixels + pixel
    column_mask = pixel < pixels
    channel = tl.arange(0, BLOCK_E)
    logits = tl.zeros((BLOCK_N, BLOCK_P), dtype=tl.float32)
    for start in range(0, CHANNELS, BLOCK_E):
        inside = start + channel < CHANNELS
        weight = tl.load(
            rows[:, None] + (start + channel)[None, :],
            mask=row_mask[:, None] & inside[None, :],
            other=0.0,
        )
        feature = tl.load(
            columns[None, :] + (start + channel)[:, None] * pixels,
            mask=inside[:, None] & column_mask[None, :],
            other=0.0,
        )
        logits = tl.dot(weight, feature, logits, input_precision=PRECISION)
    return logits


@triton.jit
def _sigmoid(logits):
    return 1.0 / (1.0 + tl.exp(-logits))


@triton.jit
def _packed_bits(inside, BLOCK_N: tl.constexpr, BLOCK_P: tl.constexpr):
    """[N, P] bool -> words [N, P / 32] uint32, the first pixel in the lowest bit."""
    bits = tl.reshape(inside.to(tl.uint32), (BLOCK_N, BLOCK_P // 32, 32))
    # Each bit has its own place: their sum is their union.
    return tl.sum(bits << tl.arange(0, 32).to(tl.uint32)[None, None, :], axis=2)


@triton.jit
def dynamic_conv_pack_kernel(
    mask_features,  # [B, E, pixels]
    chosen_kernels,  # [B, K, E]
    valid_count,  # [B] int32
    words,  # [B, K, word_count] uint32, out
    partial_areas,  # [B, K, parts] int32, out
    partial_sums,  # [B, K, parts] float32, out
    candidates,  # K
    pixels,
    word_count,
    parts,
    mask_logit,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One program makes BLOCK_P pixels of BLOCK_N masks: their bits, how many, and their probabilities' sum.

    Programs of one pixel tile are neighbours, so that its features come from the L2 cache.
    """
    image = tl.program_id(2).to(tl.int64)
    part = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = part * BLOCK_P + tl.arange(0, BLOCK_P)
    word = part * (BLOCK_P // 32) + tl.arange(0, BLOCK_P // 32)
    row_mask = row < candidates
    pixel_mask = pixel < pixels
    valid = tl.load(valid_count + image)
    target = words + (image * candidates + row)[:, None] * word_count + word[None, :]
    target_mask = row_mask[:, None] & (word < word_count)[None, :]
    partial = (image * candidates + row) * parts + part

    if tl.program_id(0) * BLOCK_N >= valid:
        nothing = tl.zeros((BLOCK_N, BLOCK_P // 32), dtype=tl.uint32)
        tl.store(target, nothing, mask=target_mask)
        tl.store(partial_areas + partial, tl.zeros((BLOCK_N,), dtype=tl.int32), mask=row_mask)
        tl.store(partial_sums + partial, tl.zeros((BLOCK_N,), dtype=tl.float32), mask=row_mask)
    else:
        logits = _logits(
            mask_features,
            chosen_kernels,
            image,
            row,
            pixel,
            row_mask,
            candidates,
            pixels,
            CHANNELS,
            BLOCK_N,
            BLOCK_P,
            BLOCK_E,
            PRECISION,
        )
        inside = (logits > mask_logit) & pixel_mask[None, :] & (row < valid)[:, None]
        probability = tl.where(inside, _sigmoid(logits), 0.0)

        tl.store(target, _packed_bits(inside, BLOCK_N, BLOCK_P), mask=target_mask)
        tl.store(partial_areas + partial, tl.sum(inside.to(tl.int32), axis=1), mask=row_mask)
        tl.store(partial_sums + partial, tl.sum(probability, axis=1), mask=row_mask)


@triton.jit
def reduce_masks_kernel(
    partial_areas,  # [B, K, parts] int32
    partial_sums,  # [B, K, parts] float32
    scores,  # [B, K] float32, read if RESCORE
    cells,  # [B, K] int32
    cell_strides,  # [T] float32, read if RESCORE
    valid_count,  # [B] int32
    areas,  # [B, K] int32, out
    probability_sums,  # [B, K] float32, out
    rescored,  # [B, K] float32, out if RESCORE
    candidates,  # K
    parts,
    BLOCK_PARTS: tl.constexpr,  # a power of two >= parts
    RESCORE: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One program adds up the parts of BLOCK_N masks, always in the same order.

    RESCORE: score x maskness, and -inf for a mask not larger than its level's stride.
    """
    image = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.arange(0, BLOCK_PARTS)
    row_mask = row < candidates
    position = image * candidates + row
    source = position[:, None] * parts + part[None, :]
    source_mask = row_mask[:, None] & (part < parts)[None, :]
    area = tl.sum(tl.load(partial_areas + source, mask=source_mask, other=0), axis=1)
    total = tl.sum(tl.load(partial_sums + source, mask=source_mask, other=0.0), axis=1)

    tl.store(areas + position, area, mask=row_mask)
    tl.store(probability_sums + position, total, mask=row_mask)
    if RESCORE:
        valid = row < tl.load(valid_count + image)
        score = tl.load(scores + position, mask=valid, other=0.0)
        cell = tl.load(cells + position, mask=valid, other=0)
        stride = tl.load(cell_strides + cell, mask=valid, other=0.0)
        maskness = total / tl.maximum(area, 1).to(tl.float32)
        large = valid & (area.to(tl.float32) > stride)
        tl.store(
            rescored + position, tl.where(large, score * maskness, float("-inf")), mask=row_mask
        )


@triton.jit
def instance_probabilities_kernel(
    mask_features,  # [B, E, pixels]
    chosen_kernels,  # [B, K, E]
    instance_candidates,  # [B, M] int32
    instance_count,  # [B] int32
    probabilities,  # [B, M, pixels] float32, out
    candidates,  # K
    instances,  # M
    pixels,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One program computes BLOCK_P probabilities of BLOCK_N instances again, this time to be kept."""
    image = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    count = tl.load(instance_count + image)
    target = probabilities + (image * instances + row)[:, None] * pixels + pixel[None, :]
    target_mask = (row < instances)[:, None] & (pixel < pixels)[None, :]

    if tl.program_id(0) * BLOCK_N >= count:
        nothing = tl.zeros((BLOCK_N, BLOCK_P), dtype=tl.float32)
        tl.store(target, nothing, mask=target_mask)
    else:
        filled = row < count
        candidate = tl.load(
            instance_candidates + image * instances + row, mask=row < instances, other=0
        )
        logits = _logits(
            mask_features,
            chosen_kernels,
            image,
            candidate,
            pixel,
            filled,
            candidates,
            pixels,
            CHANNELS,
            BLOCK_N,
            BLOCK_P,
            BLOCK_E,
            PRECISION,
        )
        tl.store(target, tl.where(filled[:, None], _sigmoid(logits), 0.0), mask=target_mask)


@triton.jit
def dynamic_conv_kernel(
    mask_features,  # [E, pixels]
    mask_kernels,  # [N, E]
    logits_out,  # [N, pixels], out
    count,  # N
    pixels,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One program computes BLOCK_P logits of BLOCK_N masks."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    row_mask, pixel_mask = row < count, pixel < pixels
    logits = _logits(
        mask_features,
        mask_kernels,
        tl.program_id(2).to(tl.int64),
        row,
        pixel,
        row_mask,
        count,
        pixels,
        CHANNELS,
        BLOCK_N,
        BLOCK_P,
        BLOCK_E,
        PRECISION,
    )
    target = logits_out + row.to(tl.int64)[:, None] * pixels + pixel[None, :]
    mask = row_mask[:, None] & pixel_mask[None, :]
    tl.store(target, logits.to(logits_out.dtype.element_ty), mask=mask)


@triton.jit
def pack_masks_kernel(
    masks,  # [N, pixels] uint8, 0 or 1
    words,  # [N, word_count] uint32, out
    areas,  # [N] int32, in: 0, out
    count,  # N
    pixels,
    word_count,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One program packs BLOCK_P pixels of BLOCK_N masks."""
    row = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    word = tl.program_id(1) * (BLOCK_P // 32) + tl.arange(0, BLOCK_P // 32)
    row_mask = row < count
    start = row.to(tl.int64)[:, None]
    mask = row_mask[:, None] & (pixel < pixels)[None, :]
    inside = tl.load(masks + start * pixels + pixel[None, :], mask=mask, other=0) != 0

    packed = _packed_bits(inside, BLOCK_N, BLOCK_P)
    target_mask = row_mask[:, None] & (word < word_count)[None, :]
    tl.store(words + start * word_count + word[None, :], packed, mask=target_mask)
    tl.atomic_add(areas + row, tl.sum(inside.to(tl.int32), axis=1), mask=row_mask)
