"""How a viewer begins and ends."""

from __future__ import annotations

import asyncio
import sys
import threading

import aiohttp
import pytest

from solo_edge.errors import ResourceError
from solo_edge.video.web import WebViewer

PATIENCE_S = 20.0


def test_a_taken_port_is_one_line(open_viewer):
    port = open_viewer().url.strip("/").rpartition(":")[2]
    with pytest.raises(ResourceError, match="another program uses this port"):
        open_viewer(f"127.0.0.1:{port}")
    assert sum(thread.name == "solo-edge-web" for thread in threading.enumerate()) == 1


def test_close_tells_viewers_and_leaves_nothing_behind(open_viewer, scenes, look):
    viewer = open_viewer()
    viewer.write(scenes.result(0))

    async def talk(client, looker):
        await looker.say(watch={"0": "full"})
        await looker.picture()
        async with client.get(viewer.url + "mjpeg/0") as stream:
            await stream.content.readuntil(b"\r\n\r\n")
            closing = asyncio.create_task(asyncio.to_thread(viewer.close))
            while (await looker.socket.receive(PATIENCE_S)).type is aiohttp.WSMsgType.TEXT:
                pass
            assert looker.socket.close_code == 1001
            await asyncio.wait_for(stream.content.read(), PATIENCE_S)  # it ends
            await closing

    look(viewer, talk)
    names = {thread.name for thread in threading.enumerate()}
    assert not any(name.startswith("solo-edge-web") for name in names)
    viewer.close()
    again = open_viewer(viewer.url.strip("/").rpartition("/")[2])
    assert again.url == viewer.url


def test_write_and_close_do_not_meet_in_the_wrong_order(open_viewer, scenes):
    """The server may go away while the pipeline's thread is still writing."""
    result = scenes.result(0)

    def write_to(viewer):
        for _ in range(200):
            viewer.write(result)

    for _ in range(20):
        viewer = open_viewer()
        writer = threading.Thread(target=write_to, args=(viewer,))
        writer.start()
        viewer.close()
        writer.join()


def test_without_aiohttp_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    for name in [name for name in sys.modules if name.startswith("solo_edge.video.web.")]:
        if name.rpartition(".")[2] in (
            "access",
            "server",
            "routes",
            "channel",
            "limits",
            "notices",
        ):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ResourceError, match="pip install 'solo-edge"):
        WebViewer("127.0.0.1:0", sources=["a"])
