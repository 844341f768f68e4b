"""A frame to the network's input: the public operation, and what the GPU launches for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from solo_edge.kernels.backend import run
from solo_edge.kernels.launches import Buffer, ceil_div, launch
from solo_edge.kernels.plan import Plan
from solo_edge.kernels.tiles import Tiles

__all__ = [
    "LAYOUT_FIELDS",
    "MAX_SIDE",
    "FrameSizes",
    "frame_layout",
    "preprocess",
    "preprocess_plan",
]

# Positions are computed from whole numbers up to 2 * side * side, which must fit into 31 bits.
MAX_SIDE = 16384
# The entries of `layout`, in order; sizes in pixels. `red` is the place of red in a pixel: 0 or 2.
LAYOUT_FIELDS = ("height", "width", "row_bytes", "resized_height", "resized_width", "red")
# Of a frame of 1080 x 1920: what is allocated where nobody gives other memory.
USUAL_FRAME_BYTES = 1080 * 1920 * 3

DataType = Literal["float32", "float16"]
Colours = tuple[float, float, float]


def preprocess(
    frame: Any,
    resized_size: tuple[int, int],
    input_size: tuple[int, int],
    *,
    pixel_mean: Colours = (0.0, 0.0, 0.0),
    pixel_std: Colours = (1.0, 1.0, 1.0),
    bgr: bool = False,
    dtype: DataType = "float32",
    backend: str = "auto",
) -> Any:
    """Resize, pad right and below with 0, normalise: what `solo_edge.preprocess.Preprocess` does.

    The resize is OpenCV's bilinear one on bytes (INTER_LINEAR); the result is within one grey level
    of it, and nearly always the same. On a GPU it is one launch, and only the bytes of the frame are
    read.

    Args:
        frame: [H, W, 3] uint8; rows may have gaps between them.
        resized_size: (height, width) of the frame inside the input.
        input_size: (height, width) of the network's input.
        pixel_mean, pixel_std: of red, green and blue; a pixel becomes (level - mean) / std.
        bgr: the frame's pixels are blue, green, red. The result is RGB in any case.

    Returns:
        [1, 3, height, width] of `dtype`.

    Raises:
        ValueError: a wrong shape, type, size, number or backend.
    """
    if frame.ndim != 3 or frame.shape[2] != 3 or str(frame.dtype).rpartition(".")[2] != "uint8":
        raise ValueError(f"frame must be uint8 [H, W, 3], got {frame.dtype} {tuple(frame.shape)}")
    height, width = frame.shape[:2]
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"frame must have sides from 1 to {MAX_SIDE}, got {(height, width)}")
    for inner, outer in zip(resized_size, input_size, strict=True):
        if not 1 <= inner <= outer <= MAX_SIDE:
            raise ValueError(
                f"want 1 <= resized_size <= input_size <= {MAX_SIDE},"
                f" got {tuple(resized_size)} and {tuple(input_size)}"
            )
    if not (all(map(math.isfinite, pixel_mean)) and all(0 < std < math.inf for std in pixel_std)):
        raise ValueError(f"want finite means and positive stds, got {pixel_mean} and {pixel_std}")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    return run(
        "preprocess",
        backend,
        frame,
        resized_size=tuple(resized_size),
        input_size=tuple(input_size),
        pixel_mean=tuple(pixel_mean),
        pixel_std=tuple(pixel_std),
        bgr=bgr,
        dtype=dtype,
    )


@dataclass(frozen=True)
class FrameSizes:
    """The shapes of one preprocessing."""

    height: int  # of the network's input
    width: int
    frame_bytes: int = USUAL_FRAME_BYTES


def frame_layout(
    frame_size: tuple[int, int], row_bytes: int, resized_size: tuple[int, int], *, bgr: bool = False
) -> tuple[int, ...]:
    """The six numbers that tell the kernel of a frame; see LAYOUT_FIELDS."""
    return (*frame_size, row_bytes, *resized_size, 2 if bgr else 0)


def preprocess_plan(
    sizes: FrameSizes,
    tiles: Tiles,
    *,
    pixel_mean: Colours,
    pixel_std: Colours,
    dtype: DataType = "float32",
) -> Plan:
    """frame, layout -> image [1, 3, height, width].

    The kernel reads `layout` (int32, LAYOUT_FIELDS) anew in every run, so a captured graph may be
    replayed for frames of any size that the memory of `frame` holds.
    """
    tile, colours = tiles.preprocess, ("red", "green", "blue")
    means = {f"mean_{name}": float(mean) for name, mean in zip(colours, pixel_mean, strict=True)}
    factors = {f"factor_{name}": 1.0 / std for name, std in zip(colours, pixel_std, strict=True)}
    only = launch(
        "preprocess_kernel",
        (ceil_div(sizes.width, tile["BLOCK_X"]), ceil_div(sizes.height, tile["BLOCK_Y"]), 1),
        {
            "frame": "frame",
            "layout": "layout",
            "image": "image",
            "height": sizes.height,
            "width": sizes.width,
            **means,
            **factors,
        },
        tile,
    )
    buffers = {
        "frame": Buffer((sizes.frame_bytes,), "uint8"),
        "layout": Buffer((len(LAYOUT_FIELDS),), "int32"),
        "image": Buffer((1, 3, sizes.height, sizes.width), dtype),
    }
    return Plan(("frame", "layout"), ("image",), buffers, (only,))
