"""A tiny engine and tiny videos."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from solo_edge.instances import Instances
from solo_edge.runtime.engine import StageTimes


class FixedEngine:
    """Finds the same two rectangles in every image, after `delay_s`."""

    category_ids = (7, 9)

    def __init__(self, delay_s: float = 0.0, fail_at: int | None = None):
        self.delay_s, self.fail_at = delay_s, fail_at
        self.means: list[float] = []  # of each image that came

    def run(self, image):
        if len(self.means) == self.fail_at:
            raise RuntimeError("the network broke")
        self.means.append(float(image.mean()))
        time.sleep(self.delay_s)
        height, width = image.shape[:2]
        masks = np.zeros((2, height, width), dtype=bool)
        masks[0, : height // 2, : width // 2] = True
        masks[1, height // 2 :, width // 2 :] = True
        found = Instances(
            np.array([0.9, 0.6]), np.array([1, 0]), masks, class_names=("a", "b"),
            image_size=(height, width),
        )  # fmt: skip
        return found, StageTimes(1.0, 2.0, 3.0)


@pytest.fixture
def fixed_engine():
    return FixedEngine


@pytest.fixture
def make_video():
    """Write a video of plain frames, each 5 levels brighter than the one before."""

    def make(
        path: Path,
        frames: int = 12,
        size: tuple[int, int] = (48, 64),
        fps: int = 10,
        codec="libx264",
    ) -> Path:
        with av.open(str(path), "w") as container:
            video = container.add_stream(codec, rate=fps)
            video.height, video.width = size
            video.pix_fmt = "yuv420p" if codec != "mjpeg" else "yuvj420p"
            video.codec_context.time_base = Fraction(1, fps)
            for i in range(frames):
                picture = np.full((*size, 3), 20 + 5 * (i % 40), dtype=np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        return path

    return make


@pytest.fixture
def frames_in():
    """All frames of a video, as PyAV decodes them."""

    def decode(path: Path) -> list[np.ndarray]:
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    return decode
