"""The light of a scene, and what a camera makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.parts import Light, noise

__all__ = ["Camera", "random_light"]


def random_light(rng: np.random.Generator) -> Light:
    """A lamp from any side, 35 to 65 degrees high, warm or cold."""
    azimuth, height = rng.uniform(0.0, 2.0 * np.pi), np.radians(rng.uniform(35.0, 65.0))
    flat = np.cos(height)
    direction = (
        float(flat * np.cos(azimuth)),
        float(flat * np.sin(azimuth)),
        float(np.sin(height)),
    )
    warm = rng.uniform(-0.08, 0.12)
    power = rng.uniform(0.85, 1.1)
    fill = rng.uniform(0.22, 0.42)
    return Light(
        direction=direction,
        colour=(power * (1.0 + warm), power, power * (1.0 - warm)),
        ambient=(fill * (1.0 - 0.5 * warm), fill, fill * (1.0 + 0.7 * warm)),
        shadow=float(rng.uniform(0.35, 0.7)),
    )


@dataclass(frozen=True)
class Camera:
    """What the lens and the sensor do to the light."""

    gain: NDArray[np.float32]  # [H, W, 3] exposure, white balance, vignette and uneven light
    blur: float  # sigma in pixels; 0: none
    read_noise: float  # deviation at black, in linear light
    shot_noise: float  # deviation at white

    @classmethod
    def random(cls, rng: np.random.Generator, size: tuple[int, int]) -> Camera:
        """A camera with its own exposure and faults, and the unevenness of the room's light."""
        rows = np.linspace(-1.0, 1.0, size[0], dtype=np.float32)[:, None]
        columns = np.linspace(-1.0, 1.0, size[1], dtype=np.float32)[None, :]
        slope, way = rng.uniform(0.0, 0.28), rng.uniform(0.0, 2.0 * np.pi)
        field = 1.0 + np.float32(slope) * (
            np.float32(np.cos(way)) * columns + np.float32(np.sin(way)) * rows
        )
        field *= 1.0 - np.float32(rng.uniform(0.03, 0.22)) * (rows * rows + columns * columns)
        if rng.random() < 0.25:  # the shadow of a window's bars
            tilt = rng.uniform(0.0, np.pi)
            wave = np.cos(tilt) * columns + np.sin(tilt) * rows + 0.04 * noise(rng, size, 3)
            bars = 1.0 / (
                1.0 + np.exp(-6.0 * np.sin(rng.uniform(3.0, 6.0) * wave + rng.uniform(0.0, 6.3)))
            )
            field *= 1.0 - np.float32(rng.uniform(0.1, 0.35)) * bars.astype(np.float32)
        exposure = np.exp(rng.normal(0.0, 0.16))
        warm, tint = rng.normal(0.0, 0.07), rng.normal(0.0, 0.02)
        balance = np.exp(np.array([warm + tint, -tint, -warm + tint]))
        gain = field[..., None] * (exposure * balance).astype(np.float32)
        blur = float(rng.uniform(0.35, 0.8)) * min(size) / 256.0 if rng.random() < 0.5 else 0.0
        return cls(gain, blur, float(rng.uniform(0.0005, 0.004)), float(rng.uniform(0.004, 0.022)))

    def shoot(self, picture: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
        """[H, W, 3] linear light to sRGB-like uint8; the sensor's noise comes from `rng`."""
        import cv2

        exposed = picture * self.gain
        if self.blur:
            cv2.GaussianBlur(exposed, (0, 0), self.blur, dst=exposed)
        grains = rng.standard_normal(exposed.shape, dtype=np.float32)
        exposed += grains * np.sqrt(
            np.float32(self.read_noise**2) + np.float32(self.shot_noise**2) * exposed
        )
        np.clip(exposed, 0.0, _WHITE_POINT, out=exposed)
        steps = (np.sqrt(exposed) * np.float32(_STEPS / np.sqrt(_WHITE_POINT))).astype(np.uint16)
        encoded: NDArray[np.uint8] = _ENCODED[steps]
        return encoded


def _encoding() -> NDArray[np.uint8]:
    """uint8 by `_STEPS` times the root of linear light over the white point: gamma 2.2 with a soft shoulder.

    The table is ten times faster than the power; steps of the root are finer than the output's everywhere.
    """
    light = _WHITE_POINT * np.linspace(0.0, 1.0, _STEPS + 1) ** 2
    knee = 0.75
    above = (1.0 - knee) * np.tanh(np.maximum(light - knee, 0.0) / (1.0 - knee))
    return np.rint(255.0 * (np.minimum(light, knee) + above) ** (1.0 / 2.2)).astype(np.uint8)


_STEPS = 4095
_WHITE_POINT = 1.5  # linear light that saturates the sensor
_ENCODED = _encoding()
