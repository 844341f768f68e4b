"""A frame as it came, to the network's input: resize, padding, normalisation and layout in one launch.

The arithmetic is that of OpenCV's INTER_LINEAR on bytes: weights are whole 2048ths, sums are 32-bit
integers. Where the frame lies and how large it is, the kernel reads from memory: one compiled kernel, and
one captured CUDA graph, serve frames of every size.
"""

import triton
import triton.language as tl


@triton.jit
def _rounded(value):
    """To the nearest whole number, halves to the even one: for 0 <= value < 2**22."""
    return ((value + 12582912.0) - 12582912.0).to(tl.int32)


@triton.jit
def _axis_taps(position, size, resized, WHOLE_AT_BORDERS: tl.constexpr):
    """For each output position: the two source pixels, and their weights in 2048ths.

    Beyond the centres of the outermost pixels both are the same one.
    """
    centre = ((2 * position + 1) * size - resized).to(tl.float32)
    place = tl.math.div_rn(centre, (2 * resized).to(tl.float32) + tl.zeros_like(centre))
    below = tl.floor(place)
    first = below.to(tl.int32)
    second = tl.minimum(tl.maximum(first + 1, 0), size - 1)
    first = tl.minimum(tl.maximum(first, 0), size - 1)
    weight = place - below
    if WHOLE_AT_BORDERS:
        weight = tl.where(first == second, 0.0, weight)
    return first, second, _rounded((1.0 - weight) * 2048.0), _rounded(weight * 2048.0)


@triton.jit
def _write_plane(
    upper_left,  # pointers [Y, X] to the source pixels' bytes of one colour
    upper_right,
    lower_left,
    lower_right,
    upper,  # [Y, 1] weights
    lower,
    left,  # [1, X] weights
    right,
    inside,  # [Y, X]: else padding
    mean,
    factor,
    target,  # pointers [Y, X]
    exists,  # [Y, X]
):
    top = tl.load(upper_left, mask=inside, other=0).to(tl.int32) * left
    top += tl.load(upper_right, mask=inside, other=0).to(tl.int32) * right
    bottom = tl.load(lower_left, mask=inside, other=0).to(tl.int32) * left
    bottom += tl.load(lower_right, mask=inside, other=0).to(tl.int32) * right
    level = ((upper * (top >> 4)) >> 16) + ((lower * (bottom >> 4)) >> 16)
    value = (((level + 2) >> 2).to(tl.float32) - mean) * factor
    value = tl.where(inside, value, 0.0)
    tl.store(target, value.to(target.dtype.element_ty), mask=exists)


@triton.jit
def preprocess_kernel(
    frame,  # uint8; rows of pixels of three bytes
    layout,  # [6] int32: height, width, bytes from row to row, resized height and width, red's byte (0 or 2)
    image,  # [3, height, width] float, out: red, green, blue
    height,  # of the network's input
    width,
    mean_red,
    mean_green,
    mean_blue,
    factor_red,  # 1 / standard deviation
    factor_green,
    factor_blue,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """One program writes BLOCK_Y x BLOCK_X pixels of all three colours."""
    row = (tl.program_id(1) * BLOCK_Y + tl.arange(0, BLOCK_Y))[:, None]
    column = (tl.program_id(0) * BLOCK_X + tl.arange(0, BLOCK_X))[None, :]
    frame_height, frame_width = tl.load(layout), tl.load(layout + 1)
    row_bytes = tl.load(layout + 2)
    resized_height, resized_width = tl.load(layout + 3), tl.load(layout + 4)
    red = tl.load(layout + 5)

    # OpenCV sets the weights right at the left and right border only, and rounds accordingly.
    first_row, second_row, upper, lower = _axis_taps(row, frame_height, resized_height, False)
    first_column, second_column, left, right = _axis_taps(column, frame_width, resized_width, True)
    upper_left = frame + first_row * row_bytes + first_column * 3
    upper_right = frame + first_row * row_bytes + second_column * 3
    lower_left = frame + second_row * row_bytes + first_column * 3
    lower_right = frame + second_row * row_bytes + second_column * 3
    inside = (row < resized_height) & (column < resized_width)
    exists = (row < height) & (column < width)
    target = image + row * width + column
    plane = height * width

    for colour in tl.static_range(3):
        byte = red if colour == 0 else (1 if colour == 1 else 2 - red)
        mean = mean_red if colour == 0 else (mean_green if colour == 1 else mean_blue)
        factor = factor_red if colour == 0 else (factor_green if colour == 1 else factor_blue)
        _write_plane(
            upper_left + byte,
            upper_right + byte,
            lower_left + byte,
            lower_right + byte,
            upper,
            lower,
            left,
            right,
            inside,
            mean,
            factor,
            target + colour * plane,
            exists,
        )
