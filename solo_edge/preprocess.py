"""From an image to the network's input: one object for training, calibration, evaluation and the device."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import ModelConfig

__all__ = ["Geometry", "Preprocess"]


@dataclass(frozen=True)
class Geometry:
    """How an image lies in the network's input. Sizes are (height, width) in pixels."""

    original_size: tuple[int, int]  # the image as it came
    resized_size: tuple[int, int]  # after the resize; the padding lies right of and below it
    input_size: tuple[int, int]  # the network's input


@dataclass(frozen=True)
class Preprocess:
    """Resize keeping the ratio, pad right and below with the mean colour, normalise. RGB.

    The resize is OpenCV's bilinear one, as in the authors' pipeline. Small images are enlarged.
    """

    input_size: tuple[int, int]
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: ModelConfig) -> Preprocess:
        return cls(config.input_size, config.pixel_mean, config.pixel_std)

    def geometry(self, original_size: tuple[int, int]) -> Geometry:
        """Where an image of `original_size` (height, width) comes to lie."""
        (height, width), (limit_height, limit_width) = original_size, self.input_size
        scale = min(limit_height / height, limit_width / width)
        resized = (
            min(max(int(height * scale + 0.5), 1), limit_height),
            min(max(int(width * scale + 0.5), 1), limit_width),
        )
        return Geometry(original_size, resized, self.input_size)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Geometry]:
        """image: [H, W, 3] uint8 RGB -> [3, height, width] float32 and where the image lies in it."""
        check_image(image)
        geometry = self.geometry((image.shape[0], image.shape[1]))
        height, width = geometry.resized_size
        if image.shape[:2] != geometry.resized_size:
            import cv2

            resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
            image = np.asarray(resized, dtype=np.uint8)
        return self.normalise(image), geometry

    def normalise(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """image: [h, w, 3] uint8 RGB, no larger than the input -> [3, height, width], padded with 0.

        The three channels of a pixel lie together in memory, as in the image: the result is a view.
        """
        height, width = image.shape[:2]
        output = np.zeros((self.input_size[0], self.input_size[1] * 3), dtype=np.float32)
        rows = output[:height, : width * 3]
        # Whole rows at a time: NumPy is slow where the innermost loop has three steps.
        mean = np.tile(np.asarray(self.pixel_mean, dtype=np.float32), width)
        inverse = [np.float32(1.0 / std) for std in self.pixel_std]
        np.subtract(image.reshape(height, width * 3), mean, out=rows)
        rows *= np.tile(inverse, width)
        return output.reshape(*self.input_size, 3).transpose(2, 0, 1)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        return cls(*(tuple(values[f.name]) for f in dataclasses.fields(cls)))

    @property
    def digest(self) -> str:
        """Short fingerprint: two equal digests mean the same pixels reach the network."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ValueError unless `image` is [H, W, 3] uint8 and not empty."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"image must be a non-empty [H, W, 3] uint8 RGB array, got {image.dtype} {image.shape};"
            " read files with solo_edge.read_image"
        )
