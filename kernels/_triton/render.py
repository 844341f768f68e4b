"""Masks at the size of the original image, from probabilities at stride 4.

The authors' two bilinear resizes are one weighted sum of at most three neighbouring low-resolution
pixels along each axis. Which ones and with which weights follows from whole numbers: every program
computes it for its own rows and columns, exactly and without a table in memory, so the sizes of the
images can change between two replays of a CUDA graph.

A weighted mean is above the threshold only where one of its terms is. A first kernel finds, for each
mask, the box of the output that such terms reach; outside it the second one only writes zeros.
"""

import triton
import triton.language as tl


@triton.jit
def _outputs_reached(first, last, resized, original):
    """[start, stop) of the output pixels that a low-resolution pixel in [first, last] can reach.

    The two resizes reach one low-resolution pixel and half an enlarged one on each side, the single
    resize one low-resolution pixel: this is enough for both.
    """
    start = (original * (8 * first - 5) - resized) // (2 * resized)
    stop = (original * (8 * last + 13) - resized) // (2 * resized) + 1
    return tl.maximum(start, 0), tl.minimum(stop, original)


@triton.jit
def mask_boxes_kernel(
    probabilities,  # [B, M, h, w] float32
    valid_count,  # [B] int32
    image_sizes,  # [B, 4] int32: height and width, resized and original
    boxes,  # [B, M, 4] int32, out: top, bottom, left, right in output pixels; 0 if there is nothing
    mask_threshold,
    instances,  # M
    height,  # h
    width,  # w
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """One program finds the box of one mask, outside which it is empty."""
    mask = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    slot = image * instances + mask
    probabilities += slot * height * width
    valid = mask < tl.load(valid_count + image)
    resized_height = tl.load(image_sizes + 4 * image)
    resized_width = tl.load(image_sizes + 4 * image + 1)
    original_height = tl.load(image_sizes + 4 * image + 2)
    original_width = tl.load(image_sizes + 4 * image + 3)

    top = tl.full((BLOCK_Y, BLOCK_X), height, dtype=tl.int32)
    bottom = tl.full((BLOCK_Y, BLOCK_X), -1, dtype=tl.int32)
    left = tl.full((BLOCK_Y, BLOCK_X), width, dtype=tl.int32)
    right = tl.full((BLOCK_Y, BLOCK_X), -1, dtype=tl.int32)
    for first_row in range(0, tl.where(valid, height, 0), BLOCK_Y):
        row = first_row + tl.arange(0, BLOCK_Y)[:, None]
        for first_column in range(0, width, BLOCK_X):
            column = first_column + tl.arange(0, BLOCK_X)[None, :]
            inside = (row < height) & (column < width)
            probability = tl.load(probabilities + row * width + column, mask=inside, other=0.0)
            above = inside & (probability > mask_threshold)  # false for NaN
            top = tl.where(above, tl.minimum(top, row), top)
            bottom = tl.where(above, row, bottom)
            left = tl.where(above, tl.minimum(left, column), left)
            right = tl.where(above, tl.maximum(right, column), right)
    first_row, last_row = tl.min(top), tl.max(bottom)
    first_column, last_column = tl.min(left), tl.max(right)
    start_y, stop_y = _outputs_reached(first_row, last_row, resized_height, original_height)
    start_x, stop_x = _outputs_reached(first_column, last_column, resized_width, original_width)
    # What is only in the padding starts behind the image's end.
    found = (last_row >= 0) & (start_y < stop_y) & (start_x < stop_x)

    tl.store(boxes + 4 * slot, tl.where(found, start_y, 0))
    tl.store(boxes + 4 * slot + 1, tl.where(found, stop_y, 0))
    tl.store(boxes + 4 * slot + 2, tl.where(found, start_x, 0))
    tl.store(boxes + 4 * slot + 3, tl.where(found, stop_x, 0))


@triton.jit
def _weight_on(pixel, first, second, weight):
    """The weight of a low-resolution pixel in (1 - weight) * first + weight * second."""
    return tl.where(pixel == first, 1.0 - weight, 0.0) + tl.where(pixel == second, weight, 0.0)


@triton.jit
def _enlarged_weight_on(pixel, enlarged, low):
    """The weight of a low-resolution pixel in a pixel of the image enlarged four times."""
    eighths = tl.maximum(2 * enlarged - 3, 0)
    first = eighths // 8
    return _weight_on(pixel, first, tl.minimum(first + 1, low - 1), (eighths % 8) * 0.125)


@triton.jit
def _axis_taps(position, low, resized, original, EXACT: tl.constexpr):
    """The first low-resolution pixel of each output position, and the weights of it and the next two.

    Pixels outside the image, and positions outside the original image, have weight 0.
    """
    centre = (2 * position + 1) * resized
    if EXACT:
        numerator, denominator = tl.maximum(centre - original, 0), 2 * original
    else:
        numerator, denominator = tl.maximum(centre - 4 * original, 0), 8 * original
    first = numerator // denominator
    weight = (numerator - first * denominator).to(tl.float32) / denominator.to(tl.float32)
    if EXACT:
        second = tl.minimum(first + 1, resized - 1)
        base = tl.maximum(2 * first - 3, 0) // 8
        weight_0 = (1.0 - weight) * _enlarged_weight_on(base, first, low)
        weight_0 += weight * _enlarged_weight_on(base, second, low)
        weight_1 = (1.0 - weight) * _enlarged_weight_on(base + 1, first, low)
        weight_1 += weight * _enlarged_weight_on(base + 1, second, low)
        weight_2 = weight * _enlarged_weight_on(base + 2, second, low)
    else:
        second = tl.minimum(first + 1, (resized + 3) // 4 - 1)
        base = first
        weight_0 = _weight_on(base, first, second, weight)
        weight_1 = _weight_on(base + 1, first, second, weight)
        weight_2 = tl.zeros_like(weight_0)
    inside = position < original
    return (
        base,
        tl.where(inside, weight_0, 0.0),
        tl.where(inside, weight_1, 0.0),
        tl.where(inside, weight_2, 0.0),
    )


@triton.jit
def _weighted_row(pixels, row_weight, weight_0, weight_1, weight_2, EXACT: tl.constexpr):
    """One low-resolution row's part in a tile: `pixels` [Y, X] point to the first one for each output.

    What has no weight is not read: it may lie outside the image, or be NaN.
    """
    used = row_weight[:, None] != 0.0
    value_0 = tl.load(pixels, mask=used & (weight_0 != 0.0)[None, :], other=0.0)
    value_1 = tl.load(pixels + 1, mask=used & (weight_1 != 0.0)[None, :], other=0.0)
    value = value_0 * weight_0[None, :] + value_1 * weight_1[None, :]
    if EXACT:
        value_2 = tl.load(pixels + 2, mask=used & (weight_2 != 0.0)[None, :], other=0.0)
        value += value_2 * weight_2[None, :]
    return value * row_weight[:, None]


@triton.jit
def render_masks_kernel(
    probabilities,  # [B, M, h, w] float32
    image_sizes,  # [B, 4] int32: height and width, resized and original
    boxes,  # [B, M, 4] int32, of mask_boxes_kernel
    masks,  # [B, M, H, W] uint8, or packed [B, M, H, ceil(W / 32)] uint32; out
    mask_threshold,
    instances,  # M
    height,  # h
    width,  # w
    output_height,  # H
    output_width,  # W
    EXACT: tl.constexpr,  # two steps; else one
    PACKED: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,  # a multiple of 32
):
    """One program writes BLOCK_Y rows of one mask, BLOCK_X columns at a time."""
    per_element: tl.constexpr = 32 if PACKED else 1  # pixels in a word or byte
    row_length = (output_width + per_element - 1) // per_element
    image = tl.program_id(2).to(tl.int64)
    slot = image * instances + tl.program_id(1)
    first_row = tl.program_id(0) * BLOCK_Y
    row = first_row + tl.arange(0, BLOCK_Y)
    row_exists = (row < output_height)[:, None]
    masks += slot * output_height * row_length + row[:, None] * row_length
    top, bottom = tl.load(boxes + 4 * slot), tl.load(boxes + 4 * slot + 1)
    left, right = tl.load(boxes + 4 * slot + 2), tl.load(boxes + 4 * slot + 3)
    # The whole tiles of columns that the box reaches: [start, stop).
    near = (first_row < bottom) & (first_row + BLOCK_Y > top)
    start = tl.where(near, left // BLOCK_X * BLOCK_X, 0)
    stop = tl.where(near, (right + BLOCK_X - 1) // BLOCK_X * BLOCK_X, 0)

    for first_element in range(0, row_length, BLOCK_X):
        element = first_element + tl.arange(0, BLOCK_X)
        outside = (element < start // per_element) | (element >= stop // per_element)
        written = row_exists & (outside & (element < row_length))[None, :]
        zeros = tl.zeros((BLOCK_Y, BLOCK_X), dtype=masks.dtype.element_ty)
        tl.store(masks + element[None, :], zeros, mask=written)
    if near:
        resized_height = tl.load(image_sizes + 4 * image)
        resized_width = tl.load(image_sizes + 4 * image + 1)
        original_height = tl.load(image_sizes + 4 * image + 2)
        original_width = tl.load(image_sizes + 4 * image + 3)
        low_row, row_weight_0, row_weight_1, row_weight_2 = _axis_taps(
            row, height, resized_height, original_height, EXACT
        )
        rows = probabilities + slot * height * width + low_row[:, None] * width
        for first_column in range(start, stop, BLOCK_X):
            column = first_column + tl.arange(0, BLOCK_X)
            low_column, weight_0, weight_1, weight_2 = _axis_taps(
                column, width, resized_width, original_width, EXACT
            )
            pixels = rows + low_column[None, :]
            value = _weighted_row(pixels, row_weight_0, weight_0, weight_1, weight_2, EXACT)
            pixels += width
            value += _weighted_row(pixels, row_weight_1, weight_0, weight_1, weight_2, EXACT)
            if EXACT:
                pixels += width
                value += _weighted_row(pixels, row_weight_2, weight_0, weight_1, weight_2, EXACT)
            inside = (value > mask_threshold).to(tl.int32)  # false for NaN
            element = first_column // per_element + tl.arange(0, BLOCK_X // per_element)
            if PACKED:
                bits = tl.reshape(inside, (BLOCK_Y, BLOCK_X // 32, 32))
                inside = tl.sum(bits << tl.arange(0, 32)[None, None, :], axis=2)
            written = row_exists & (element < row_length)[None, :]
            tl.store(masks + element[None, :], inside.to(masks.dtype.element_ty), mask=written)
