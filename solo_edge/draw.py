"""Masks, outlines and names on top of an image, fast enough for video.

All masks go into one map of instance numbers, which a table turns into colours: the cost hardly
depends on how many instances there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

__all__ = ["draw_instances", "draw_status", "instance_colors"]

Image = NDArray[np.uint8]  # [H, W, 3] RGB

# Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart with every kind of colour vision.
# Black is left out: it is too common in photographs.
PALETTE = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ],
    dtype=np.float32,
)
# Towards white (positive) or black: tells neighbours of one class apart.
SHADES = (0.0, 0.3, -0.25, 0.5, -0.45)
# With more instances than this, names wider than their objects would hide the rest of the picture.
CROWD = 10
# Looked for, in this order, when a name needs letters that Pillow's own font lacks.
FONTS = (
    "NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf",
    "Arial.ttf",
)  # fmt: skip


def draw_instances(
    image: Image, instances: Instances, *, alpha: float = 0.5, labels: bool = True
) -> Image:
    """A copy of `image` with the masks tinted and outlined, and each instance's name and score.

    Where masks overlap, the one with the better score is seen. The colour stands for the class, its
    shade for the instance. Names are moved so that they stay inside the image and off each other; they
    are left out where there is no room, and on small objects in a crowd.

    Args:
        image: [H, W, 3] uint8 RGB; not changed.
        alpha: opacity of the tint, in [0, 1].
        labels: whether to write names and scores.

    Raises:
        ValueError: the instances belong to an image of another size.
    """
    import cv2

    if image.shape != (*instances.image_size, 3) or image.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8 {(*instances.image_size, 3)}, got {image.dtype} {image.shape}"
        )
    if len(instances) == 0:
        return image.copy()
    ids, boxes = _id_map(instances)
    colors = instance_colors(instances.labels, boxes[:, 0] + boxes[:, 2])
    table = np.concatenate([np.zeros((1, 3), dtype=np.uint8), colors])
    tint = _look_up(table, ids)
    blended = cv2.addWeighted(image, 1.0 - alpha, tint, alpha, 0.0)

    height, width = instances.image_size
    thickness = max(1, round(min(height, width) / 480))
    window = np.ones((2 * thickness + 1, 2 * thickness + 1), dtype=np.uint8)
    border = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, window)
    inside = ids > 0
    output = image.copy()
    cv2.copyTo(blended, inside.view(np.uint8), output)
    cv2.copyTo(tint, (inside & (border > 0)).view(np.uint8), output)
    if labels:
        _draw_labels(output, instances, boxes, colors)
    return output


def draw_status(image: Image, text: str) -> Image:
    """A copy of `image` with a line of text in the upper left corner."""
    output = image.copy()
    height, width = image.shape[:2]
    patch = _fitting_text(text, "", _font_size(height, width), height, width)
    if patch is not None:
        black, white = np.zeros(3, dtype=np.float32), np.full(3, 255, dtype=np.float32)
        _stamp(output, patch, 0, 0, black, white)
    return output


def instance_colors(labels: NDArray[np.int64], positions: NDArray[Any]) -> Image:
    """An RGB colour for each instance, [N, 3] uint8.

    Args:
        labels: [N].
        positions: [N]. Shades are given out in this order among the instances of a class: with a
            place in the image, unlike the score, they change little from frame to frame.
    """
    labels = np.asarray(labels, dtype=np.int64)
    shade = labels // len(PALETTE)  # classes that share a hue start with different shades
    for label in np.unique(labels):
        same = np.flatnonzero(labels == label)
        shade[same[np.argsort(positions[same], kind="stable")]] += np.arange(len(same))
    amount = np.array(SHADES, dtype=np.float32)[shade % len(SHADES), None]
    target = np.where(amount > 0, np.float32(255.0), np.float32(0.0))
    mixed = PALETTE[labels % len(PALETTE)] * (1.0 - abs(amount)) + target * abs(amount)
    return np.rint(mixed).astype(np.uint8)


def _id_map(instances: Instances) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """[H, W] with the number of the best instance at each pixel, from 1, 0 for none; and the boxes.

    Boxes are (left, top, right, bottom), the end exclusive; all 0 for an empty mask.
    """
    import cv2

    ids = np.zeros(instances.image_size, dtype=np.uint8 if len(instances) < 256 else np.uint16)
    boxes = np.zeros((len(instances), 4), dtype=np.int64)
    regions = list(instances.regions())
    for i in reversed(range(len(regions))):
        region = regions[i]
        if region.mask.size == 0:
            continue
        mask = np.ascontiguousarray(region.mask)
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        left, top = region.left + x, region.top + y
        boxes[i] = (left, top, left + width, top + height) if width else 0
        target = ids[top : top + height, left : left + width]
        target[mask[y : y + height, x : x + width]] = i + 1
    return ids, boxes


def _look_up(table: Image, ids: NDArray[Any]) -> Image:
    """table[ids], but several times faster."""
    import cv2

    if ids.dtype != np.uint8:
        taken: NDArray[Any] = np.take(table, ids, axis=0)
        return taken
    full = np.zeros((256, 1, 3), dtype=np.uint8)
    full[: len(table), 0] = table
    colored: NDArray[Any] = cv2.applyColorMap(ids, full)
    return colored


class _Rectangle(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: _Rectangle) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def _draw_labels(
    output: Image, instances: Instances, boxes: NDArray[np.int64], colors: Image
) -> None:
    height, width = instances.image_size
    size = _font_size(height, width)
    placed: list[tuple[_Rectangle, Image, int]] = []
    for i, (name, score) in enumerate(zip(instances.names, instances.scores, strict=True)):
        if boxes[i, 2] == 0:
            continue
        patch = _fitting_text(name, f" {score:.2f}", size, height, width)
        if patch is None:
            continue
        if len(instances) > CROWD and patch.shape[1] > boxes[i, 2] - boxes[i, 0]:
            continue
        taken = [rectangle for rectangle, _, _ in placed]
        rectangle = _place(boxes[i], patch.shape, (height, width), taken)
        if rectangle is not None:
            placed.append((rectangle, patch, i))
    for rectangle, patch, i in reversed(placed):
        plate = colors[i].astype(np.float32)
        luminance = plate @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        ink = np.full(3, 0 if luminance > 110 else 255, dtype=np.float32)
        _stamp(output, patch, rectangle.top, rectangle.left, plate, ink)


def _place(
    box: NDArray[np.int64],
    patch_size: tuple[int, ...],
    image_size: tuple[int, int],
    taken: Sequence[_Rectangle],
) -> _Rectangle | None:
    """Where a name goes: above its box, or inside or below it; None where other names leave no room."""
    left, top, _, bottom = box.tolist()
    height, width = patch_size
    x = min(max(left, 0), image_size[1] - width)
    spots = []
    inside = range(top + height, bottom - height, height)
    for y in (top - height, top, bottom, bottom - height, *inside):
        if 0 <= y <= image_size[0] - height:
            spots.append(_Rectangle(x, y, x + width, y + height))
    if not spots:
        y = min(max(top, 0), image_size[0] - height)
        spots.append(_Rectangle(x, y, x + width, y + height))
    free = (spot for spot in spots if not any(spot.overlaps(other) for other in taken))
    return next(free, None)


def _stamp(
    output: Image,
    patch: Image,
    top: int,
    left: int,
    plate: NDArray[np.float32],
    ink: NDArray[np.float32],
) -> None:
    """Lay a rectangle of the colour `plate` with the text `patch` (coverage, 0..255) in `ink`."""
    height, width = patch.shape
    coverage = patch[:, :, None] * np.float32(1 / 255)
    output[top : top + height, left : left + width] = np.rint(plate + (ink - plate) * coverage)


def _font_size(height: int, width: int) -> int:
    return min(max(round(min(height, width) / 34), 12), 44)


def _fitting_text(text: str, tail: str, size: int, height: int, width: int) -> Image | None:
    """text + tail as a picture, the text cut with "…" to fit; None where there is no room for that."""
    patch = _text(text + tail, size)
    if patch.shape[0] > height:
        return None
    end = len(text)
    while patch.shape[1] > width and end > 1:
        end -= 1
        patch = _text(text[:end].rstrip() + "…" + tail, size)
    return patch if patch.shape[1] <= width else None


@lru_cache(maxsize=2048)
def _text(text: str, size: int) -> Image:
    """[h, w] coverage of one line of text, with a little room around it."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    text = "".join(letter if letter.isprintable() else " " for letter in text)
    font = _font(size, text.replace("…", "").isascii())
    # Of letters with and without tails, so that all names are equally high.
    _, top, _, bottom = font.getbbox("Ågj|")
    room = max(1, size // 8)
    width, height = int(np.ceil(font.getlength(text))) + 2 * room, int(bottom - top) + 2 * room
    picture = Pillow.new("L", (width, height), 0)
    ImageDraw.Draw(picture).text((room, room - top), text, fill=255, font=font)
    return np.array(picture)


@lru_cache(maxsize=64)
def _font(size: int, plain: bool) -> FreeTypeFont | ImageFont:
    """Pillow's own font, which has ASCII alone, or one of the system's for other letters."""
    from PIL import ImageFont

    for name in () if plain else FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
