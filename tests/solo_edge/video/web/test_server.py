"""What is served, and that nobody who looks is felt by the pipeline."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import weakref
from collections import Counter

import aiohttp
import numpy as np
import pytest

from solo_edge import __version__
from solo_edge.instances import Instances
from solo_edge.video.base import Frame
from solo_edge.video.result import ProcessedFrame, StreamStatus
from solo_edge.video.states import Failure, SourceState, StateChange
from solo_edge.video.web.pictures import Pictures

PATIENCE_S = 20.0


@pytest.fixture
def encoded(monkeypatch) -> Counter:
    """How often each kind of picture of each frame was made."""
    counts: Counter = Counter()
    packet, drawn = Pictures.packet, Pictures.drawn

    def count_packet(self, shown, quality):
        counts[quality, shown.result.frame.index] += 1
        return packet(self, shown, quality)

    def count_drawn(self, result):
        counts["drawn", result.frame.index] += 1
        return drawn(self, result)

    monkeypatch.setattr(Pictures, "packet", count_packet)
    monkeypatch.setattr(Pictures, "drawn", count_drawn)
    return counts


def status_of(source="camera 0", captured=9):
    return StreamStatus(source, "playing", captured, 8, 1, 25.0, 3, None, 30.0, {"network": 20.0})


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_browser_is_greeted_with_all_it_needs(open_viewer, scenes, look):
    viewer = open_viewer(sources=["a", "b"], class_names=("x", "y"), min_score=0.4)
    viewer.status((status_of("a"), status_of("b")))

    async def talk(client, looker):
        hello = await looker.text("hello")
        assert hello["version"] == __version__
        assert [source["source"] for source in hello["sources"]] == ["a", "b"]
        assert (hello["classes"], hello["min_score"]) == (["x", "y"], 0.4)
        assert len(hello["history"]) == 1

    look(viewer, talk)


def test_the_next_picture_comes_after_the_last_was_acknowledged_and_is_the_newest(
    open_viewer, scenes, encoded, look
):
    viewer = open_viewer()
    viewer.write(scenes.result(0))

    async def talk(client, looker):
        await looker.say(watch={"0": "full"})
        assert (await looker.picture())["index"] == 0
        for index in range(1, 100):
            viewer.write(scenes.result(index))
        with pytest.raises(asyncio.TimeoutError):
            await looker.picture(0.3)
        assert sum(encoded.values()) == 1
        await looker.say(ack=0)
        assert (await looker.picture())["index"] == 99
        assert sum(encoded.values()) == 2

    look(viewer, talk)


def test_pictures_are_made_once_however_many_look(open_viewer, scenes, encoded, look):
    viewer = open_viewer()

    async def talk(client, looker):
        async with looker.another() as second, looker.another() as third:
            for one, quality in ((looker, "full"), (second, "full"), (third, "small")):
                await one.say(watch={"0": quality})
                await one.text("status")
            for index in range(5):
                viewer.write(scenes.result(index))
                for one in (looker, second, third):
                    assert (await one.picture())["index"] == index
                    await one.say(ack=0)

    look(viewer, talk)
    assert encoded == {(quality, i): 1 for quality in ("full", "small") for i in range(5)}


def test_nothing_is_made_while_nobody_looks(open_viewer, scenes, encoded, look):
    viewer = open_viewer()
    for index in range(50):
        viewer.write(scenes.result(index))

    async def talk(client, looker):  # it watches nothing
        await looker.text("status")
        viewer.write(scenes.result(50))
        viewer.status((status_of(),))
        await looker.text("status")

    look(viewer, talk)
    assert not encoded
    assert not viewer.wants_overlay


def test_frames_that_were_passed_over_are_given_up(open_viewer, scenes, look):
    viewer = open_viewer()
    written = []

    async def talk(client, looker):
        await looker.say(watch={"0": "full"})
        for index in range(50):
            result = scenes.result(index)
            written.append(weakref.ref(result))
            viewer.write(result)
            if index == 0:
                await looker.picture()  # and never says that it has it

    look(viewer, talk)
    wait_until(lambda: sum(reference() is not None for reference in written) <= 1)


def test_sources_and_qualities_are_chosen_by_the_browser(open_viewer, scenes, look):
    viewer = open_viewer(sources=["a", "b"])

    async def talk(client, looker):
        await looker.say(watch={"1": "small"})
        await looker.text("status")
        viewer.write(scenes.result(3, source=0))
        viewer.write(scenes.result(4, source=1))
        assert (await looker.picture())["source"] == 1
        await looker.say(ack=1)
        await looker.say(watch={"1": "full"})  # the same frame, larger
        assert (await looker.picture())["index"] == 4

    look(viewer, talk)


@pytest.mark.parametrize(
    "message",
    ["", "nonsense", "[]", "3", '{"watch": {"7": "full"}}', '{"watch": {"0": "huge"}}', '{"ack": "0"}',
     '{"watch": [0]}', '{"watch": {"0": {}}}', "[" * 4000, "x" * 5000],
)  # fmt: skip
def test_nonsense_ends_the_connection(open_viewer, message, look):
    viewer = open_viewer()

    async def talk(client, looker):
        await looker.socket.send_str(message)
        while (await looker.socket.receive(PATIENCE_S)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert looker.socket.close_code in (1008, 1009)

    look(viewer, talk)


def test_states_and_events_reach_the_browser(open_viewer, scenes, look):
    viewer = open_viewer()

    async def talk(client, looker):
        await looker.text("status")
        lost = StateChange("camera 0", SourceState.WAITING, Failure.STALLED, "no frame", 0.0, 2)
        viewer.source_changed(0, lost)
        (source,) = (await looker.text("status"))["sources"]
        assert (source["state"], source["lost"]["code"]) == ("waiting", "stalled")
        viewer.write(scenes.result(0, events=({"event": "enter", "zone": "door"},)))
        (event,) = (await looker.text("events"))["events"]
        assert event == {"event": "enter", "zone": "door", "source_index": 0}

    look(viewer, talk)


def test_status_for_programs(open_viewer, ask, scenes):
    viewer = open_viewer(sources=["rtsp://user:secret@host/a"])
    viewer.status((status_of("rtsp://***@host/a"),))
    answer = ask(viewer.url + "status.json")
    assert b"secret" not in answer.body
    told = json.loads(answer.body)
    assert told["viewers"] == 0
    assert told["sources"][0]["captured"] == 9
    assert told["sources"][0]["source"] == "rtsp://***@host/a"


def test_snapshot(open_viewer, ask, scenes):
    viewer = open_viewer()
    assert ask(viewer.url + "snapshot/0.jpg").status == 503
    viewer.write(scenes.result(0))
    answer = ask(viewer.url + "snapshot/0.jpg")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert answer.body.startswith(b"\xff\xd8")
    assert ask(viewer.url + "snapshot/1.jpg").status == 404


async def parts_of(response, count):
    reader = aiohttp.MultipartReader.from_response(response)
    found = []
    while len(found) < count:
        part = await reader.next()
        found.append(await part.read())
    return found


def test_mjpeg_is_drawn_by_the_pipeline_while_somebody_looks(open_viewer, scenes):
    viewer = open_viewer()

    async def look():
        async with aiohttp.ClientSession() as client:
            viewer.write(scenes.result(0))
            async with client.get(viewer.url + "mjpeg/0") as response:
                assert (await parts_of(response, 1))[0].startswith(b"\xff\xd8")
                assert viewer.wants_overlay
            return client

    asyncio.run(look())
    wait_until(lambda: not viewer.wants_overlay)


def test_a_program_that_takes_nothing_holds_nobody_up(open_viewer, encoded, look):
    """Its pictures stop being made when the system's buffers are full; others go on."""
    viewer = open_viewer()
    noise = np.random.default_rng(1).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    none = Instances(
        np.zeros(0), np.zeros(0, int), np.zeros((0, 1080, 1920), bool), class_names=("a",),
        image_size=(1080, 1920),
    )  # fmt: skip

    def write(index):
        frame = Frame(noise, index, 0.0)
        viewer.write(ProcessedFrame(0, "camera 0", frame, none, overlay=noise))

    host, _, port = viewer.url.strip("/").rpartition("/")[2].partition(":")
    with socket.create_connection((host, int(port))) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /mjpeg/0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: viewer.wants_overlay)
        count = -1
        for index in range(40):  # 40 frames of 3 MB each
            if len(encoded) == count:
                break
            count = len(encoded)
            write(index)
            time.sleep(0.1)
        assert len(encoded) < 30

        async def talk(client, looker):
            await looker.say(watch={"0": "full"})
            await looker.picture()
            await looker.say(ack=0)
            for index in range(100, 103):
                write(index)
                assert (await looker.picture())["index"] == index
                await looker.say(ack=0)

        look(viewer, talk)


def test_events_for_programs_go_on_where_they_stopped(open_viewer, scenes):
    viewer = open_viewer()
    for index in range(3):
        viewer.write(scenes.result(index, events=({"count": index},)))

    async def look():
        async with aiohttp.ClientSession() as client:
            headers = {"Last-Event-ID": "1"}
            async with client.get(viewer.url + "events", headers=headers) as response:
                assert response.content_type == "text/event-stream"
                assert await response.content.readuntil(b"\n\n") == (
                    b'id: 2\ndata: {"count": 1, "source_index": 0}\n\n'
                )
                assert (await response.content.readuntil(b"\n\n")).startswith(b"id: 3")

    asyncio.run(look())
