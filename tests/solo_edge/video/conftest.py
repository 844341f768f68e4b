"""A tiny engine, a camera, a sink, and tiny videos."""

from __future__ import annotations

import importlib.util
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from solo_edge.errors import SourceError
from solo_edge.instances import Instances
from solo_edge.runtime.engine import StageTimes
from solo_edge.video.base import Frame, Source
from solo_edge.video.result import Sink


class FixedEngine:
    """Finds the same two rectangles in every image, after `delay_s`.

    Args:
        fail_at: the image at which `start` raises; `fail_finish_at`: the same of `finish`.
    """

    class_names = ("a", "b")
    category_ids = (7, 9)

    def __init__(
        self,
        delay_s: float = 0.0,
        fail_at: int | None = None,
        *,
        batch_size: int = 1,
        finish_delay_s: float = 0.0,
        fail_finish_at: int | None = None,
    ):
        self.delay_s, self.fail_at, self.batch_size = delay_s, fail_at, batch_size
        self.finish_delay_s, self.fail_finish_at = finish_delay_s, fail_finish_at
        self.means: list[float] = []  # of each image that came
        self.batches: list[int] = []  # how many came together
        self.started = self.finished = 0  # batches
        self.most_under_way = 0

    def run(self, image):
        return self.finish(self.start([image]))[0]

    def start(self, images):
        assert 1 <= len(images) <= self.batch_size
        if self.fail_at is not None and len(self.means) <= self.fail_at < len(self.means) + len(
            images
        ):
            raise RuntimeError("the network broke")
        self.started += 1
        self.most_under_way = max(self.most_under_way, self.started - self.finished)
        self.means += [float(image[::8, ::8].mean()) for image in images]
        self.batches.append(len(images))
        time.sleep(self.delay_s)
        return [image.shape[:2] for image in images]

    def finish(self, started):
        if self.finished == self.fail_finish_at:
            raise RuntimeError("the post-processing broke")
        time.sleep(self.finish_delay_s)
        self.finished += 1
        return [(self._found(size), StageTimes(1.0, 2.0, 3.0)) for size in started]

    def _found(self, size):
        height, width = size
        masks = np.zeros((2, height, width), dtype=bool)
        masks[0, : height // 2, : width // 2] = True
        masks[1, height // 2 :, width // 2 :] = True
        return Instances(
            np.array([0.9, 0.6]), np.array([1, 0]), masks, class_names=self.class_names,
            image_size=size,
        )  # fmt: skip


class Camera(Source):
    """A live source of plain frames, `interval_s` apart; fails after `frames` of them, or ends."""

    def __init__(
        self, frames=100_000, interval_s=0.005, sizes=((48, 64),), hang_s=0.0, ends=False,
        name="camera", live=True,
    ):  # fmt: skip
        super().__init__()
        self.name, self.live, self.fps, self.frame_count = name, live, 1 / interval_s, None
        self.size, self.sizes, self.ends = sizes[0], sizes, ends
        self.frames, self.interval_s, self.hang_s = frames, interval_s, hang_s
        self.delivered = 0

    def _read(self):
        start = time.perf_counter()
        for index in range(self.frames):
            if self.live:
                time.sleep(max(0.0, start + index * self.interval_s - time.perf_counter()))
            size = self.sizes[index % len(self.sizes)]
            self.delivered += 1
            yield Frame(np.full((*size, 3), index % 250, np.uint8), index, index * self.interval_s)
        time.sleep(self.hang_s)
        if not self.ends:
            raise SourceError("the camera went away", where=self.name)


class Collector(Sink):
    """Keeps what it gets; every call takes `delay_s`; raises at the frame number `fail_at`."""

    name = "collect"

    def __init__(self, delay_s=0.0, fail_at=None, overlay=False, fail_close=False):
        self.delay_s, self.fail_at, self.overlay = delay_s, fail_at, overlay
        self.fail_close = fail_close
        self.results, self.changes, self.statuses = [], [], []
        self.threads = set()
        self.closed = 0

    @property
    def wants_overlay(self):
        return self.overlay

    def write(self, result):
        assert not self.closed
        self.threads.add(threading.current_thread())
        time.sleep(self.delay_s)
        if len(self.results) == self.fail_at:
            raise OSError("the disk is full")
        self.results.append(result)

    def source_changed(self, source_index, change):
        self.changes.append((source_index, change))

    def status(self, statuses):
        self.statuses.append(statuses)

    def close(self):
        self.closed += 1
        if self.fail_close:
            raise OSError("the disk is gone")

    def indexes(self, source_index=0):
        """The indexes of the frames of a source, as they came."""
        return [r.frame.index for r in self.results if r.source_index == source_index]


@pytest.fixture(scope="session")
def servers():
    """The module `servers.py` beside this file."""
    spec = importlib.util.spec_from_file_location("servers", Path(__file__).with_name("servers.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def fixed_engine():
    return FixedEngine


@pytest.fixture
def camera():
    return Camera


@pytest.fixture
def collector():
    return Collector


@pytest.fixture
def no_thread_is_left():
    """Afterwards, all threads of the test have ended."""
    before = set(threading.enumerate())
    yield
    deadline = time.perf_counter() + 5
    while set(threading.enumerate()) - before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


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
