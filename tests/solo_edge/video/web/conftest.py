"""Rendered frames, and a browser to look at them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import numpy as np
import pytest

from solo_edge.data.synthetic import CLASS_NAMES, SceneAnimation
from solo_edge.instances import Instances
from solo_edge.video.base import Frame
from solo_edge.video.clock import now
from solo_edge.video.result import ProcessedFrame, StreamStatus
from solo_edge.video.web import WebViewer

PATIENCE_S = 20.0  # for a busy machine


def _load_driver():
    spec = importlib.util.spec_from_file_location(
        "solo_edge_test_browser", Path(__file__).with_name("browser.py")
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One headless Chromium for all tests."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no program called chromium")
    with _load_driver().Browser(program, tmp_path_factory.mktemp("chromium")) as running:
        yield running


class Scenes:
    """A short film with everything in it found; the scores go down from 0.95 in steps of 0.1."""

    def __init__(self, frames: int = 12, size: tuple[int, int] = (180, 320)):
        film = SceneAnimation(seed=3, size=size)
        self.scenes = [film.frame(k / 3)[1] for k in range(frames)]

    def result(self, index: int, source: int = 0, **more: object) -> ProcessedFrame:
        scene = self.scenes[index % len(self.scenes)]
        count = len(scene.labels)
        instances = Instances(
            np.maximum(0.95 - 0.1 * np.arange(count), 0.35), scene.labels, scene.masks,
            class_names=CLASS_NAMES, image_size=scene.image.shape[:2],
        )  # fmt: skip
        frame = Frame(scene.image, index, index / 25, now())
        times = {"preprocess": 1.0, "network": 20.0 + index % 5, "postprocess": 4.0}
        return ProcessedFrame(source, f"camera {source}", frame, instances, stage_ms=times, **more)


@pytest.fixture(scope="session")
def scenes() -> Scenes:
    return Scenes()


class Feeder:
    """Gives a viewer 25 frames a second, and a status now and then, from a thread of its own."""

    def __init__(self, viewer: WebViewer, scenes: Scenes, sources: int = 1):
        self.viewer, self._scenes, self._sources = viewer, scenes, sources
        self.index = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(0.04):
            for source in range(self._sources):
                self.viewer.write(self._scenes.result(self.index, source))
            if self.index % 5 == 0:
                self.viewer.status(tuple(self._status(source) for source in range(self._sources)))
            self.index += 1

    def _status(self, source: int) -> StreamStatus:
        times = {"preprocess": 1.0, "network": 20.0 + self.index % 7, "postprocess": 4.0}
        return StreamStatus(
            f"camera {source}", "playing", self.index + 3, self.index + 1, 2, 25.0 + self.index % 3,
            3, None, 30.0 + self.index % 9, times,
        )  # fmt: skip

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def feed(scenes: Scenes):
    """feed(viewer, sources=1) -> a running `Feeder`, a context manager."""
    return lambda viewer, sources=1: Feeder(viewer, scenes, sources)


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@pytest.fixture
def ask():
    """ask(url, **more of aiohttp's request) -> `Answer`; redirects are not followed."""

    async def request(url: str, method: str = "GET", **more: object) -> Answer:
        async with (
            aiohttp.ClientSession() as client,
            client.request(method, url, allow_redirects=False, **more) as response,
        ):
            return Answer(response.status, response.headers, await response.read())

    return lambda url, **more: asyncio.run(request(url, **more))


@pytest.fixture
def open_viewer() -> Iterator[Callable[..., WebViewer]]:
    """open_viewer(address="127.0.0.1:0", **more) -> a `WebViewer` that is closed at the end of the test."""
    with ExitStack() as stack:

        def make(address: str = "127.0.0.1:0", **more: object) -> WebViewer:
            more.setdefault("sources", ["camera 0"])
            return stack.enter_context(WebViewer(address, **more))

        yield make


class Looker:
    """A WebSocket client that acknowledges only when told to."""

    def __init__(self, client: aiohttp.ClientSession, url: str):
        self._client, self._url = client, url

    def another(self) -> Looker:
        """One more, to be entered."""
        return Looker(self._client, self._url)

    async def __aenter__(self):
        self.socket = await self._client.ws_connect(self._url, max_msg_size=0)
        return self

    async def __aexit__(self, *_):
        await self.socket.close()

    async def picture(self, timeout_s: float = PATIENCE_S) -> dict:
        """The header of the next picture; texts before it are passed over."""
        while True:
            message = await self.socket.receive(timeout_s)
            if message.type is aiohttp.WSMsgType.BINARY:
                (length,) = struct.unpack_from("<I", message.data)
                return json.loads(message.data[4 : 4 + length])
            assert message.type is aiohttp.WSMsgType.TEXT, message

    async def text(self, kind: str) -> dict:
        while True:
            message = json.loads((await self.socket.receive(PATIENCE_S)).data)
            if message["type"] == kind:
                return message

    async def say(self, **message: object) -> None:
        await self.socket.send_json(message)


@pytest.fixture
def look():
    """look(viewer, talk): run talk(client, looker) with an aiohttp client and a `Looker`."""

    async def run(viewer: WebViewer, talk) -> None:
        async with (
            aiohttp.ClientSession() as client,
            Looker(client, viewer.url + "ws") as looker,
        ):
            await talk(client, looker)

    return lambda viewer, talk: asyncio.run(run(viewer, talk))
