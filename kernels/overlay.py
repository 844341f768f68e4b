"""Masks drawn on a frame: the public operation, and what the GPU launches for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from solo_edge.kernels.backend import ArrayT, is_float, is_integer, run
from solo_edge.kernels.launches import Buffer, ceil_div, launch
from solo_edge.kernels.plan import Plan
from solo_edge.kernels.preprocess import MAX_SIDE
from solo_edge.kernels.resize import STRIDE
from solo_edge.kernels.tiles import Tiles

__all__ = ["MAX_THICKNESS", "OVERLAY_FIELDS", "OverlaySizes", "draw_overlay", "overlay_plan"]

# A program on the GPU computes this many pixels around those that it writes, on each side.
MAX_THICKNESS = 8
# The entries of `layout`, in order; sizes in pixels, of the frame and of it inside the network's input.
OVERLAY_FIELDS = ("height", "width", "row_bytes", "resized_height", "resized_width")


def draw_overlay(
    frame: ArrayT,
    probabilities: ArrayT,
    valid_count: ArrayT,
    colors: ArrayT,
    resized_size: tuple[int, int],
    *,
    alpha: float = 0.5,
    mask_threshold: float = 0.5,
    thickness: int = 1,
    backend: str = "auto",
) -> ArrayT:
    """A copy of the frame with every instance's mask tinted and outlined.

    Masks are those of `render_masks`, in its two exact steps. Where they overlap the first one is
    seen. A pixel inside becomes (1 - alpha) * pixel + alpha * color, rounded; or the color itself if
    it belongs to the outline: if another instance, or none, is seen at most `thickness` rows and
    columns away, inside the frame. On a GPU it is one launch, and no mask ever reaches memory.

    Args:
        frame: [H, W, 3] uint8; rows may have gaps between them.
        probabilities: [M, h, w] at stride 4 of the network's input, best first; M may be 0.
        valid_count: [1] integers: how many of the M slots hold an instance.
        colors: [M, 3] uint8, in the frame's order of channels.
        resized_size: (height, width) of the frame inside the network's input, at most (4 h, 4 w).
        alpha: opacity of the tint, in [0, 1].
        mask_threshold: in (0, 1).
        thickness: of the outline in pixels, from 0 to MAX_THICKNESS.

    Returns:
        [H, W, 3] uint8. Backends differ by one grey level where rounding decides, and by a pixel of
        a mask where its value is within rounding of the threshold.

    Raises:
        ValueError: wrong shape, type, size, number or backend.
    """
    _check_arrays(frame, probabilities, valid_count, colors)
    for inner, low in zip(resized_size, probabilities.shape[1:], strict=True):
        if not 1 <= inner <= min(STRIDE * low, MAX_SIDE):
            shape = list(probabilities.shape[1:])
            raise ValueError(
                f"probabilities {shape} at stride {STRIDE} do not cover an image of {resized_size}"
            )
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if not 0.0 < mask_threshold < 1.0:
        raise ValueError(f"mask_threshold must be in (0, 1), got {mask_threshold}")
    if not 0 <= thickness <= MAX_THICKNESS:
        raise ValueError(f"thickness must be from 0 to {MAX_THICKNESS}, got {thickness}")
    result: ArrayT = run(
        "draw_overlay",
        backend,
        frame,
        probabilities,
        valid_count,
        colors,
        resized_size=(int(resized_size[0]), int(resized_size[1])),
        alpha=float(alpha),
        mask_threshold=float(mask_threshold),
        thickness=int(thickness),
    )
    return result


@dataclass(frozen=True)
class OverlaySizes:
    """The shapes of one drawing; none is 0."""

    instances: int  # M
    height: int  # of the probabilities
    width: int
    output_height: int  # of the largest frame
    output_width: int
    frame_bytes: int  # with the gaps between rows


def overlay_plan(
    sizes: OverlaySizes, tiles: Tiles, *, alpha: float, mask_threshold: float, thickness: int
) -> Plan:
    """frame, layout, probabilities, valid_count, colors -> drawn [output_height, output_width, 3].

    The kernel reads `layout` (int32, OVERLAY_FIELDS) and `valid_count` anew in every run, so a
    captured graph may be replayed for other frames, up to the output's size; beyond a smaller one's
    size nothing is written.
    """
    tile = tiles.draw_overlay
    step_x, step_y = (tile[name] - 2 * thickness for name in ("BLOCK_X", "BLOCK_Y"))
    only = launch(
        "draw_overlay_kernel",
        (ceil_div(sizes.output_width, step_x), ceil_div(sizes.output_height, step_y), 1),
        {
            **{name: name for name in ("frame", "layout", "probabilities", "valid_count")},
            **{name: name for name in ("colors", "drawn")},
            "alpha": float(alpha),
            "mask_threshold": float(mask_threshold),
            "instances": sizes.instances,
            "height": sizes.height,
            "width": sizes.width,
            "output_width": sizes.output_width,
        },
        tile,
        THICKNESS=thickness,
    )
    buffers = {
        "frame": Buffer((sizes.frame_bytes,), "uint8"),
        "layout": Buffer((len(OVERLAY_FIELDS),), "int32"),
        "probabilities": Buffer((sizes.instances, sizes.height, sizes.width), "float32"),
        "valid_count": Buffer((1,), "int32"),
        "colors": Buffer((sizes.instances, 3), "uint8"),
        "drawn": Buffer((sizes.output_height, sizes.output_width, 3), "uint8"),
    }
    inputs = ("frame", "layout", "probabilities", "valid_count", "colors")
    return Plan(inputs, ("drawn",), buffers, (only,))


def _check_arrays(frame: Any, probabilities: Any, valid_count: Any, colors: Any) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or not _is_bytes(frame):
        raise ValueError(f"frame must be uint8 [H, W, 3], got {_describe(frame)}")
    if not all(1 <= side <= MAX_SIDE for side in frame.shape[:2]):
        size = tuple(frame.shape[:2])
        raise ValueError(f"frame must have sides from 1 to {MAX_SIDE}, got {size}")
    if (
        probabilities.ndim != 3
        or not is_float(probabilities)
        or 0 in tuple(probabilities.shape[1:])
    ):
        raise ValueError(f"probabilities must be floats [M, h, w], got {_describe(probabilities)}")
    if tuple(valid_count.shape) != (1,) or not is_integer(valid_count):
        raise ValueError(f"valid_count must be integers [1], got {_describe(valid_count)}")
    if tuple(colors.shape) != (probabilities.shape[0], 3) or not _is_bytes(colors):
        want = f"uint8 [{probabilities.shape[0]}, 3] like probabilities"
        raise ValueError(f"colors must be {want}, got {_describe(colors)}")


def _is_bytes(array: Any) -> bool:
    return str(array.dtype).rpartition(".")[2] == "uint8"


def _describe(array: Any) -> str:
    return f"{array.dtype} {list(array.shape)}"
