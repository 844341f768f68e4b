"""What can be asked for: the page, and plain endpoints for other programs."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import resources

from aiohttp import web

from solo_edge import __version__
from solo_edge.video.clock import now
from solo_edge.video.web.access import Access, Handler
from solo_edge.video.web.channel import Channel
from solo_edge.video.web.desk import Desk
from solo_edge.video.web.limits import NoPlaceError
from solo_edge.video.web.notices import notice

__all__ = ["Routes"]

BOUNDARY = "frame"
# So soon a program that went away is noticed while no frame comes.
QUIET_S = 1.0
# A program that takes nothing for so long is gone.
PATIENCE_S = 20.0
KEEP_ALIVE_S = 15.0


class Routes:
    """The handlers. Every one is a GET, and nothing that is asked for changes anything."""

    def __init__(self, desk: Desk, access: Access):
        self._desk = desk
        self._access = access
        self._channels: set[Channel] = set()
        self._files = _read_static()
        self._closing = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        for path, handler in (
            ("/", self.page),
            ("/static/{name}", self.static),
            ("/ws", self._with_place(self.channel)),
            ("/status.json", self.status),
            ("/events", self._with_place(self.events)),
            (r"/snapshot/{source:\d{1,3}}.jpg", self.snapshot),
            (r"/mjpeg/{source:\d{1,3}}", self._with_place(self.mjpeg)),
        ):
            app.router.add_get(path, handler, allow_head=False)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """The viewer. A token in the address becomes a cookie, and leaves the address."""
        if self._access.has_token(request):
            response: web.StreamResponse = web.Response(status=303, headers={"Location": "/"})
            self._access.start_session(response)
            return response
        if self._desk.places.full:
            return self._full(request)
        body, kind = self._files["index.html"]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def static(self, request: web.Request) -> web.StreamResponse:
        """What the page is made of."""
        name = request.match_info["name"]
        if name not in self._files or name == "index.html":
            return notice(request, 404, "Not found", "There is no such file.")
        body, kind = self._files[name]
        return web.Response(body=body, content_type=kind, headers={"Cache-Control": "no-cache"})

    async def channel(self, request: web.Request) -> web.StreamResponse:
        """Pictures and numbers for the page, see `Channel`."""
        if not web.WebSocketResponse().can_prepare(request):
            return notice(request, 426, "For the page alone", "This address speaks WebSocket.")
        channel = Channel(self._desk)
        self._channels.add(channel)
        try:
            return await channel.run(request)
        finally:
            self._channels.discard(channel)

    async def status(self, _: web.Request) -> web.StreamResponse:
        """How the stream is doing."""
        desk = self._desk
        status = {
            "version": __version__,
            "uptime_s": round(now() - desk.started_s, 1),
            "viewers": desk.places.taken,
            "most_viewers": desk.places.most,
            "classes": desk.board.class_names,
            "sources": desk.board.describe(),
        }
        return web.json_response(status)

    async def snapshot(self, request: web.Request) -> web.StreamResponse:
        """The newest picture with everything drawn into it."""
        source = self._source(request)
        shown = None if source is None else self._desk.board.shown(source)
        if shown is None:
            return self._nothing(request, source)
        name = f"inline; filename=snapshot-{shown.result.frame.index}.jpg"
        body = await self._desk.drawn(shown)
        return web.Response(
            body=body, content_type="image/jpeg", headers={"Content-Disposition": name}
        )

    async def mjpeg(self, request: web.Request) -> web.StreamResponse:
        """Pictures without end, with everything drawn into them; each the newest there is."""
        source = self._source(request)
        if source is None:
            return self._nothing(request, source)
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        desk, sent = self._desk, 0
        async with self._streaming(request, kind) as (response, bell):
            desk.overlay_watchers += 1
            try:
                while await self._woken(request, bell):
                    shown = desk.board.shown(source)
                    if shown is not None and shown.serial != sent:
                        sent = shown.serial
                        part = _part(await desk.drawn(shown), shown.result.frame.timestamp_s)
                        await asyncio.wait_for(response.write(part), PATIENCE_S)
            finally:
                desk.overlay_watchers -= 1
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What zones and lines count, as server-sent events; goes on after the header Last-Event-ID."""
        board, last = self._desk.board, request.headers.get("Last-Event-ID", "")
        sent = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
        spoke_s = now()
        async with self._streaming(request, "text/event-stream") as (response, bell):
            while await self._woken(request, bell):
                events = board.events_after(sent)
                text = "".join(f"id: {e.serial}\ndata: {json.dumps(e.value)}\n\n" for e in events)
                sent = events[-1].serial if events else sent
                if not text and now() - spoke_s > KEEP_ALIVE_S:
                    text = ": still here\n\n"
                if text:
                    spoke_s = now()
                    await asyncio.wait_for(response.write(text.encode()), PATIENCE_S)
        return response

    async def close(self) -> None:
        """Tell everybody that it is over."""
        self._closing.set()
        self._desk.ring()
        goodbyes = (channel.close() for channel in self._channels)
        await asyncio.gather(*goodbyes)

    def _with_place(self, handler: Handler) -> Handler:
        """`handler` for as many at the same time as there are places."""

        async def seated(request: web.Request) -> web.StreamResponse:
            try:
                with self._desk.places.take():
                    return await handler(request)
            except NoPlaceError:
                return self._full(request)

        return seated

    @asynccontextmanager
    async def _streaming(
        self, request: web.Request, kind: str
    ) -> AsyncIterator[tuple[web.StreamResponse, asyncio.Event]]:
        """A response that goes on, and the bell of new frames; ends quietly when the other side leaves."""
        response = web.StreamResponse(headers={"Content-Type": kind, "Connection": "close"})
        bell = asyncio.Event()
        bell.set()
        self._desk.add_bell(bell)
        try:
            await response.prepare(request)
            yield response, bell
        except ConnectionError:
            pass  # it left
        except asyncio.TimeoutError:
            if request.transport is not None:
                request.transport.abort()  # or what it does not take would be waited for
        finally:
            self._desk.remove_bell(bell)

    async def _woken(self, request: web.Request, bell: asyncio.Event) -> bool:
        """Wait for something new, or a while; False when it is time to stop."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(bell.wait(), QUIET_S)
        bell.clear()
        gone = request.transport is None or request.transport.is_closing()
        return not gone and not self._closing.is_set()

    def _source(self, request: web.Request) -> int | None:
        source = int(request.match_info["source"])
        return source if source < len(self._desk.board.sources) else None

    def _nothing(self, request: web.Request, source: int | None) -> web.Response:
        if source is None:
            count = len(self._desk.board.sources)
            what = f"The sources are numbered from 0 to {count - 1}."
            return notice(request, 404, "No such source", what)
        what = "No picture has come from this source yet."
        return notice(request, 503, "Not yet", what, again_s=1)

    def _full(self, request: web.Request) -> web.Response:
        most = self._desk.places.most
        what = f"{most} viewers are looking already. This page opens when one of them leaves."
        return notice(request, 503, "All places are taken", what, again_s=3)


def _part(picture: bytes, timestamp_s: float) -> bytes:
    """One picture of a multipart stream."""
    head = (
        f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n"
        f"X-Timestamp: {timestamp_s:.6f}\r\n\r\n"
    )
    return head.encode() + picture + b"\r\n"


def _read_static() -> dict[str, tuple[bytes, str]]:
    """Contents and media type of everything in static/, by name."""
    found = {}
    for file in resources.files("solo_edge.video.web").joinpath("static").iterdir():
        # Not from the system's tables alone: some of them call JavaScript plain text.
        kind = _KINDS.get(file.name.rpartition(".")[2]) or mimetypes.guess_type(file.name)[0]
        found[file.name] = (file.read_bytes(), kind or "application/octet-stream")
    return found


_KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
