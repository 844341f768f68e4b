"""From an annotated image to what the network sees: once as on the device, once varied for training.

Masks never become full-size planes of the original image: each instance is resized inside its box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import TrainConfig
from solo_edge.data.masks import Box, GroundTruth, tight_box
from solo_edge.preprocess import Preprocess, check_image

__all__ = [
    "MIN_VISIBLE_PIXELS",
    "MIN_VISIBLE_SHARE",
    "Sample",
    "fitted_truth",
    "plain_sample",
    "training_sample",
]

# An instance that the crop leaves less of than this teaches more about the crop than about it.
MIN_VISIBLE_PIXELS = 4
MIN_VISIBLE_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Sample:
    """One image as the network gets it, with its instances. No mask is empty."""

    image: NDArray[np.float32]  # [3, H, W] normalised, padded right and below with 0
    extent: tuple[int, int]  # height and width of the picture in it; the rest is padding
    masks: NDArray[np.uint8]  # [N, H, W] 0/1
    boxes: NDArray[np.float32]  # [N, 4] left, top, right, bottom (exclusive), tight
    labels: NDArray[np.int64]  # [N] 0-based
    image_id: int


def plain_sample(
    image: NDArray[np.uint8],  # [H, W, 3] RGB
    ground_truth: GroundTruth,
    preprocess: Preprocess,
    image_id: int,
) -> Sample:
    """Without augmentation: exactly what `preprocess` gives the device.

    Instances of which no pixel is left after the resize are dropped.
    """
    _check(image, ground_truth)
    tensor, geometry = preprocess(image)
    window = (0, 0, *geometry.resized_size)
    placed = _place(ground_truth, geometry.resized_size, window, preprocess.input_size, 1, 0.0)
    return Sample(tensor, geometry.resized_size, *placed, image_id)


def training_sample(
    image: NDArray[np.uint8],  # [H, W, 3] RGB
    ground_truth: GroundTruth,
    preprocess: Preprocess,
    config: TrainConfig,
    rng: np.random.Generator,
    image_id: int,
    limit: tuple[int, int] | None = None,
) -> Sample:
    """Flipped, scaled, cropped and recoloured at random; all randomness comes from `rng`.

    The image is resized to the device's size times a factor that is uniform in log(jitter). Where
    that is larger than the input a random window is cut out; where it is smaller the image lies
    top left, as on the device. Brightness and contrast are multiplied by factors from 1 - x to
    1 + x, in this order and contrast around the mean gray; saturation likewise; the hue is turned
    by up to `hue` of the circle. Masks follow the same geometry (nearest neighbour). Instances of
    which less than 4 pixels or less than a tenth remains in view are dropped.

    Args:
        limit: (height, width) of the window, where the picture gets but a part of the input.
    """
    _check(image, ground_truth)
    # Always the same number of draws: what one option does never changes what another one gets.
    flip, scale, down, right, *colours = rng.random(8).tolist()
    if flip < config.flip:
        image, ground_truth = image[:, ::-1], ground_truth.flipped()

    low, high = np.log(config.jitter)
    factor = float(np.exp(low + (high - low) * scale))
    fitted = preprocess.geometry((image.shape[0], image.shape[1])).resized_size
    resized = (max(round(fitted[0] * factor), 1), max(round(fitted[1] * factor), 1))
    image = _resize(image, resized)
    limit = preprocess.input_size if limit is None else limit
    height, width = min(resized[0], limit[0]), min(resized[1], limit[1])
    top = int(down * (resized[0] - height + 1))
    left = int(right * (resized[1] - width + 1))
    image = image[top : top + height, left : left + width]

    image = _recolour(image, config, *(2.0 * draw - 1.0 for draw in colours))
    window = (top, left, height, width)
    least = MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE
    placed = _place(ground_truth, resized, window, preprocess.input_size, *least)
    return Sample(preprocess.normalise(image), (height, width), *placed, image_id)


def _check(image: NDArray[np.uint8], ground_truth: GroundTruth) -> None:
    check_image(image)
    if image.shape[:2] != ground_truth.image_size:
        raise ValueError(
            f"the image is {image.shape[:2]}, its ground truth {ground_truth.image_size}"
        )


def _place(
    ground_truth: GroundTruth,
    resized_size: tuple[int, int],
    window: tuple[int, int, int, int],  # top, left, height, width in the resized image
    input_size: tuple[int, int],
    min_pixels: int,
    min_share: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Masks, boxes and labels of the instances that remain in view after resizing and cropping."""
    kept = _visible(ground_truth, resized_size, window, min_pixels, min_share)
    masks = np.zeros((len(kept), *input_size), dtype=np.uint8)
    for plane, (box, inside, _) in zip(masks, kept, strict=True):
        plane[box[1] : box[3], box[0] : box[2]] = inside
    return (
        masks,
        np.array([box for box, _, _ in kept], dtype=np.float32).reshape(-1, 4),
        ground_truth.labels[[i for _, _, i in kept]],
    )


def fitted_truth(ground_truth: GroundTruth, preprocess: Preprocess) -> GroundTruth:
    """The instances as `plain_sample` places them in the input; those without a pixel there are dropped."""
    size = preprocess.geometry(ground_truth.image_size).resized_size
    kept = _visible(ground_truth, size, (0, 0, *size), 1, 0.0)
    regions = [(box, inside, int(ground_truth.labels[i])) for box, inside, i in kept]
    return GroundTruth.from_regions(preprocess.input_size, regions)


def _visible(
    ground_truth: GroundTruth,
    resized_size: tuple[int, int],
    window: tuple[int, int, int, int],
    min_pixels: int,
    min_share: float,
) -> list[tuple[Box, NDArray[np.uint8], int]]:
    """Box in the window, the mask inside it and index of the instances that remain in view, see `_place`."""
    top, left, height, width = window
    rows = _nearest(ground_truth.image_size[0], resized_size[0])
    columns = _nearest(ground_truth.image_size[1], resized_size[1])
    kept: list[tuple[Box, NDArray[np.uint8], int]] = []
    # Which resized rows and columns each box covers: the maps ascend, so a search finds them.
    boxes = ground_truth.boxes.astype(np.int64)
    first_columns, last_columns = np.searchsorted(columns, boxes[:, 0::2]).T
    first_rows, last_rows = np.searchsorted(rows, boxes[:, 1::2]).T
    for i, crop in enumerate(ground_truth.crops):
        x0, y0, x1, y1 = first_columns[i], first_rows[i], last_columns[i], last_rows[i]
        if x1 <= left or y1 <= top or x0 >= left + width or y0 >= top + height:
            continue
        mask = crop[rows[y0:y1] - boxes[i, 1]][:, columns[x0:x1] - boxes[i, 0]]
        seen = mask[max(top - y0, 0) : top + height - y0, max(left - x0, 0) : left + width - x0]
        visible = np.count_nonzero(seen)
        total = visible if seen.size == mask.size else np.count_nonzero(mask)
        box = tight_box(seen)
        if box is None or visible < max(min_pixels, min_share * total):
            continue
        x, y = max(x0 - left, 0), max(y0 - top, 0)
        inside = seen[box[1] : box[3], box[0] : box[2]]
        kept.append(((x + box[0], y + box[1], x + box[2], y + box[3]), inside, i))
    return kept


def _nearest(size: int, resized: int) -> NDArray[np.int64]:
    """The source pixel of each resized one: pixel centres correspond, as in OpenCV's bilinear resize."""
    centers = (np.arange(resized) + 0.5) * (size / resized)
    return np.minimum(centers.astype(np.int64), size - 1)


def _resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """To (height, width) as `Preprocess` does it."""
    import cv2

    if image.shape[:2] == size:
        return image
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)


def _recolour(
    image: NDArray[np.uint8],
    config: TrainConfig,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> NDArray[np.uint8]:
    """The last four are in [-1, 1]: how much of the configured range is used, and in which direction."""
    import cv2

    levels = np.arange(256, dtype=np.float64)
    if config.brightness or config.contrast:
        bright = max(1.0 + config.brightness * brightness, 0.0)
        steep = max(1.0 + config.contrast * contrast, 0.0)
        red, green, blue, _ = cv2.mean(image)
        gray = (0.299 * red + 0.587 * green + 0.114 * blue) * bright
        table = _to_levels((levels * bright - gray) * steep + gray)
        image = cv2.LUT(image, table).astype(np.uint8, copy=False)
    if config.saturation or config.hue:
        # OpenCV's 8-bit hue counts in steps of two degrees: 0 to 179.
        turned = np.mod(np.rint(levels + 180.0 * config.hue * hue), 180.0)
        richer = levels * max(1.0 + config.saturation * saturation, 0.0)
        table = np.stack([_to_levels(turned), _to_levels(richer), _to_levels(levels)], axis=-1)
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table[None])
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)
    return image


def _to_levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
