"""The WebSocket of one browser.

The browser says which sources it shows and how large: `{"watch": {"0": "full", "2": "small"}}`. For
each of them it gets one picture, and the next one, the newest there is then, only after
`{"ack": SOURCE}`. A slow browser gets fewer pictures; it never gets old ones, and nobody waits for it.

Texts from here are JSON: `hello` (names, classes, history) at the start, `status` and `events`
whenever there are any. Pictures are binary, see `Pictures.packet`.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from solo_edge import __version__
from solo_edge.video.web.board import Shown
from solo_edge.video.web.desk import Desk
from solo_edge.video.web.pictures import QUALITIES, Quality

__all__ = ["Channel"]

LONGEST_MESSAGE = 4096
HEARTBEAT_S = 15.0  # a browser that is gone without a word is noticed within this and half of it
QUIET_S = 2.0  # so often a browser hears something
CLOSE_S = 0.3  # for the browser to say goodbye


class Channel:
    """One browser's connection."""

    def __init__(self, desk: Desk):
        self.socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S, max_msg_size=LONGEST_MESSAGE, compress=False, timeout=CLOSE_S
        )
        self._desk = desk
        self._bell = asyncio.Event()
        self._watched: dict[int, Quality] = {}
        self._sent: dict[int, int] = {}  # by source: serial of the latest picture
        self._owed: set[int] = set()  # sources of which a picture was sent and not acknowledged
        self._status_serial = -1
        self._point_serial = desk.board.point_serial
        self._event_serial = 0

    async def run(self, request: web.Request) -> web.WebSocketResponse:
        """Talk until one side has enough."""
        await self.socket.prepare(request)
        self._desk.add_bell(self._bell)
        sender = asyncio.create_task(self._talk())
        try:
            async for message in self.socket:
                if message.type is not WSMsgType.TEXT or not self._take(message.data):
                    await self.socket.close(code=WSCloseCode.POLICY_VIOLATION)
        finally:
            sender.cancel()
            self._desk.remove_bell(self._bell)
            (error,) = await asyncio.gather(sender, return_exceptions=True)
        if isinstance(error, Exception):
            raise error
        return self.socket

    async def close(self) -> None:
        """Say that the server goes away; a browser that does not answer is left alone."""
        with suppress(ConnectionError, asyncio.TimeoutError):
            goodbye = self.socket.close(code=WSCloseCode.GOING_AWAY)
            await asyncio.wait_for(goodbye, CLOSE_S)

    def _take(self, text: str) -> bool:
        """Do what the browser asks for; False if that makes no sense."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if not isinstance(message, dict):
            return False
        watched, acknowledged = message.get("watch"), message.get("ack")
        if watched is not None:
            chosen = self._read_watched(watched)
            if chosen is None:
                return False
            self._watch(chosen)
        if acknowledged is not None:
            if not isinstance(acknowledged, int):
                return False
            self._owed.discard(acknowledged)
        self._bell.set()
        return True

    def _read_watched(self, watched: Any) -> dict[int, Quality] | None:
        names = {str(index): index for index in range(len(self._desk.board.sources))}
        if not isinstance(watched, dict) or not watched.keys() <= names.keys():
            return None
        if not all(isinstance(value, str) and value in QUALITIES for value in watched.values()):
            return None
        return {names[key]: value for key, value in watched.items()}

    def _watch(self, chosen: dict[int, Quality]) -> None:
        for source, quality in chosen.items():
            if self._watched.get(source) != quality:  # the picture that is shown, in that quality
                self._sent.pop(source, None)
        self._watched = chosen

    async def _talk(self) -> None:
        try:
            with suppress(ConnectionError):  # it left
                await self._send()
        except Exception:
            await self.socket.close(code=WSCloseCode.INTERNAL_ERROR)
            raise

    async def _send(self) -> None:
        """Everything new, one message at a time: what is not yet sent is not yet made."""
        await self.socket.send_str(json.dumps(self._hello()))
        while True:
            try:
                await asyncio.wait_for(self._bell.wait(), QUIET_S)
            except asyncio.TimeoutError:
                self._status_serial = -1  # say the same again: the browser knows that we are there
            self._bell.clear()
            await self._send_texts()
            for source, quality in self._watched.copy().items():
                shown = self._due(source)
                if shown is not None:
                    self._owed.add(source)
                    self._sent[source] = shown.serial
                    await self.socket.send_bytes(await self._desk.packet(shown, quality))

    def _due(self, source: int) -> Shown | None:
        shown = self._desk.board.shown(source)
        if shown is None or source in self._owed or self._sent.get(source) == shown.serial:
            return None
        return shown

    async def _send_texts(self) -> None:
        board = self._desk.board
        if self._status_serial != board.status_serial:
            self._status_serial = board.status_serial
            status = {"type": "status", "classes": board.class_names, "sources": board.describe()}
            if self._point_serial != board.point_serial:
                self._point_serial = board.point_serial
                status["point"] = board.history()[-1]
            await self.socket.send_str(json.dumps(status))
        events = board.events_after(self._event_serial)
        if events:
            self._event_serial = events[-1].serial
            values = [event.value for event in events]
            await self.socket.send_str(json.dumps({"type": "events", "events": values}))

    def _hello(self) -> dict[str, Any]:
        board = self._desk.board
        events = board.events_after(0)
        self._event_serial = events[-1].serial if events else 0
        self._point_serial = board.point_serial
        return {
            "type": "hello",
            "version": __version__,
            "min_score": board.min_score,
            "classes": board.class_names,
            "sources": board.describe(),
            "history": board.history(),
            "events": [event.value for event in events],
        }
