"""The thread that serves the page, with an event loop of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

from aiohttp import web

from solo_edge.video.web.access import Access, add_headers, protect
from solo_edge.video.web.board import Board
from solo_edge.video.web.desk import Desk
from solo_edge.video.web.limits import FrontDoor, quiet_logger
from solo_edge.video.web.routes import Routes

__all__ = ["Server"]

LONGEST_LINE = 4096  # of a request, in bytes; the same for a header
KEEP_ALIVE_S = 15.0  # between two requests on a connection
CLOSE_S = 0.3  # for viewers to go; then they are cut off


class Server:
    """Serves what is on `board` to whom `access` lets in, on a socket that listens already.

    Runs from the constructor to `close`, which also closes the socket.
    """

    def __init__(self, board: Board, access: Access, listening: socket.socket):
        self._board = board
        self._access = access
        self._socket = listening
        self._failure: BaseException | None = None
        self._desk: Desk | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="solo-edge-web", daemon=True
        )
        self._thread.start()
        ready.wait()
        self.check()

    def check(self) -> None:
        """Raises what the thread died of, if it did."""
        if self._failure is not None:
            raise self._failure

    @property
    def wants_overlay(self) -> bool:
        """Whether somebody looks at pictures with the overlay drawn into them."""
        return self._desk is not None and self._desk.overlay_watchers > 0

    def close(self) -> None:
        """Tell the viewers, stop, give back the port. Closing twice is fine."""
        with suppress(RuntimeError):  # the loop is closed
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # goes to the thread that writes
            self._failure = error
        finally:
            self._socket.close()
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        door, desk = FrontDoor(), Desk(self._board)
        routes = Routes(desk, self._access)
        app = web.Application(middlewares=[door.middleware, protect(self._access)])
        app.on_response_prepare.append(add_headers)
        routes.add_to(app)
        runner = web.AppRunner(
            app,
            access_log=None,
            logger=quiet_logger(),
            shutdown_timeout=CLOSE_S,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=0.0,
            max_line_size=LONGEST_LINE,
            max_field_size=LONGEST_LINE,
        )
        await runner.setup()
        assert runner.server is not None
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        doorway = await loop.create_server(door.protocols(runner.server), sock=self._socket)
        self._desk, self._stop, self._loop = desk, stop, loop
        watching = asyncio.create_task(desk.watch_board())
        ready.set()
        try:
            await stop.wait()
        finally:
            watching.cancel()
            doorway.close()
            await routes.close()
            await runner.cleanup()
            await door.clear()
            desk.close()
