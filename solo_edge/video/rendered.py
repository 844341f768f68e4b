"""A rendered scene as a source, and as a camera with faults: `test://?...`."""

from __future__ import annotations

import threading
from collections.abc import Generator
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from solo_edge.video.addresses import TestScene
from solo_edge.video.base import Frame, Source
from solo_edge.video.clock import now
from solo_edge.video.connection import Connection, DamagedError, Picture, Piece
from solo_edge.video.failures import SourceFailure
from solo_edge.video.reconnect import LiveSource
from solo_edge.video.states import Failure, OnStateChange

__all__ = ["open_test_scene"]

STRIP = 20  # pictures that are rendered, in about 0.1 s each at 1280x720
STEP_S = 1.0 / 15.0  # of the scene from one to the next
QUALITY = 90
SMALLER = 0.75  # the other size of `resize`


def open_test_scene(scene: TestScene, name: str, on_state: OnStateChange | None = None) -> Source:
    """The source of a `test://` address.

    A scene that is neither live nor faulty is rendered frame by frame, exactly. Otherwise it is that
    of a camera: some pictures are rendered before the first frame, and go to and fro as JPEG.
    """
    faulty = scene.drop or scene.corrupt or scene.resize or scene.gray
    if not (scene.live or faulty):
        return _RenderedSource(scene, name, on_state)
    camera = _Camera(scene)
    if not scene.live:
        return _CameraFilm(camera, name, on_state)
    knock = camera.knock if scene.gone else None
    return LiveSource(
        name, lambda stopped: _CameraConnection(camera, stopped), knock=knock, on_state=on_state
    )


class _RenderedSource(Source):
    """Every frame as the renderer makes it."""

    def __init__(self, scene: TestScene, name: str, on_state: OnStateChange | None):
        super().__init__(on_state)
        self._scene = scene
        self.name, self.live, self.size = name, False, scene.size
        self.fps, self.frame_count = scene.fps, scene.frames

    def _read(self) -> Generator[Frame, None, None]:
        from solo_edge.data.synthetic import SceneAnimation

        animation = SceneAnimation(self._scene.seed, self._scene.size)
        for index in range(self._scene.frames):
            at_s = index / self._scene.fps
            image, _ = animation.frame(at_s)
            yield Frame(image, index, at_s, now())


class _CameraFilm(Source):
    """The pictures of a camera with faults, as fast as they are read."""

    def __init__(self, camera: _Camera, name: str, on_state: OnStateChange | None):
        super().__init__(on_state)
        scene = camera.scene
        self._camera, self._scene = camera, scene
        self.name, self.live, self.size, self.fps = name, False, scene.size, scene.fps
        self.frame_count = sum(not camera.drops(number) for number in range(scene.frames))

    def _read(self) -> Generator[Frame, None, None]:
        index = 0
        for number in range(self._scene.frames):
            if self._camera.drops(number):
                continue
            try:
                image = self._camera.decode(number, self._camera.jpeg(number))
            except DamagedError:
                self.damaged += 1
                continue
            yield Frame(image, index, number / self._scene.fps, now())
            index += 1


class _Camera:
    """What a camera sends and when. It runs on, whether somebody is connected or not."""

    def __init__(self, scene: TestScene):
        self.scene = scene
        self._strip = _render(scene)
        self._started_s: float | None = None

    def clock(self) -> float:
        """Seconds since somebody asked first."""
        if self._started_s is None:
            self._started_s = now()
        return now() - self._started_s

    def drops(self, number: int) -> bool:
        return bool(self._chance(number, 0).random() < self.scene.drop)

    def sends(self, number: int) -> bool:
        """Whether frame `number` leaves the camera."""
        due_s = number / self.scene.fps
        return not (self.drops(number) or _is_out(self.scene.stall, due_s))

    def is_gone(self, at_s: float) -> bool:
        return _is_out(self.scene.gone, at_s)

    def knock(self) -> SourceFailure | None:
        if self.is_gone(self.clock()):
            return SourceFailure(Failure.GONE, "connection refused", where="")
        return None

    def jpeg(self, number: int) -> bytes:
        """The bytes of a frame; those of some are damaged."""
        data = self._strip[_to_and_fro(number, len(self._strip))]
        chance = self._chance(number, 1)
        if chance.random() >= self.scene.corrupt:
            return data
        # Cut off, or overwritten from somewhere on: some decoders make half a picture of it.
        damaged = bytearray(data[: int(chance.integers(2, len(data)))])
        begin = int(chance.integers(0, len(damaged)))
        damaged[begin : begin + 64] = chance.bytes(len(damaged[begin : begin + 64]))
        return bytes(damaged)

    def decode(self, number: int, data: bytes) -> NDArray[np.uint8]:
        """[H, W, 3] RGB. Raises DamagedError."""
        from PIL import Image

        at_s = number / self.scene.fps
        try:
            with Image.open(BytesIO(data), formats=("JPEG",)) as picture:
                if self.scene.gray and int(at_s / self.scene.gray) % 2:
                    picture.draft("L", picture.size)
                image = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            image = None
        if image is None or image.shape[:2] != self.scene.size:
            raise DamagedError
        if self.scene.resize and int(at_s / self.scene.resize) % 2:
            return _smaller(image)
        return image

    def _chance(self, number: int, branch: int) -> np.random.Generator:
        return np.random.default_rng((self.scene.seed, number, branch))


class _CameraConnection(Connection):
    """Somebody who looks at the camera."""

    def __init__(self, camera: _Camera, stopped: threading.Event):
        since_s = camera.clock()
        if camera.is_gone(since_s):
            raise SourceFailure(Failure.GONE, "connection refused", where="")
        self._camera, self._stopped = camera, stopped
        scene = camera.scene
        self.fps, self.frame_count = scene.fps, scene.frames or None
        self._number = int(since_s * scene.fps)

    def read(self) -> Piece | None:
        camera, scene = self._camera, self._camera.scene
        while not scene.frames or self._number < scene.frames:
            number, due_s = self._number, self._number / scene.fps
            self._number += 1
            if self._stopped.wait(max(0.0, due_s - camera.clock())):
                return None
            if camera.is_gone(due_s):
                raise SourceFailure(Failure.GONE, "the connection was lost", where="")
            if camera.sends(number):
                data = camera.jpeg(number)
                return Piece((number, data), len(data), True, now())
        return None

    def decode(self, piece: Piece, *, wanted: bool) -> list[Picture]:
        number, data = piece.data
        image = self._camera.decode(number, data) if wanted else None
        return [Picture(image, number / self._camera.scene.fps, now())]

    def close(self) -> None:
        """Nothing is held."""


def _render(scene: TestScene) -> list[bytes]:
    """Pictures of the scene as JPEG."""
    from PIL import Image

    from solo_edge.data.synthetic import SceneAnimation

    animation = SceneAnimation(scene.seed, scene.size)
    strip = []
    for number in range(max(2, min(STRIP, scene.frames or STRIP))):
        image, _ = animation.frame(number * STEP_S)
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=QUALITY)
        strip.append(file.getvalue())
    return strip


def _to_and_fro(number: int, count: int) -> int:
    """0, 1 ... count - 1, count - 2 ... 1, 0, 1 ...: nothing jumps."""
    position = number % (2 * count - 2)
    return min(position, 2 * count - 2 - position)


def _is_out(outage: tuple[float, float] | None, at_s: float) -> bool:
    """Whether a time lies in one of the outages: the last part of each round."""
    if outage is None:
        return False
    lasts_s, after_s = outage
    return at_s % (after_s + lasts_s) >= after_s


def _smaller(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    height, width = (2 * round(SMALLER * side / 2) for side in image.shape[:2])
    resized: NDArray[np.uint8] = np.asarray(cv2.resize(image, (width, height)), np.uint8)
    return resized
