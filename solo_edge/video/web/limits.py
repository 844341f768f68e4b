"""What the outside may take: places for viewers, connections, and time to say what it wants."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

__all__ = ["MOST_VIEWERS", "FrontDoor", "NoPlaceError", "Places", "quiet_logger"]

MOST_VIEWERS = 8
MOST_CONNECTIONS = 64  # a browser opens up to six, and gives most of them back
REQUEST_S = 10.0  # for the first request of a connection to be complete


class NoPlaceError(Exception):
    """As many viewers as may look are looking."""


class Places:
    """Counts who is looking."""

    def __init__(self, most: int = MOST_VIEWERS):
        self.most = most
        self.taken = 0

    @property
    def full(self) -> bool:
        return self.taken >= self.most

    @contextmanager
    def take(self) -> Iterator[None]:
        """A place for as long as the block lasts. Raises NoPlaceError."""
        if self.full:
            raise NoPlaceError
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class FrontDoor:
    """Makes what talks on a new connection, and ends connections that are too many or say nothing."""

    def __init__(self) -> None:
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._heard: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()

    @property
    def middleware(self) -> Any:
        """Notes the connections on which a whole request came: what is slow then has other limits."""

        @web.middleware
        async def note(request: web.Request, handler: Any) -> Any:
            if request.transport is not None:
                self._heard.add(request.transport)
            return await handler(request)

        return note

    def protocols(self, server: web.Server) -> Callable[[], asyncio.Protocol]:
        """For `loop.create_server`: `server` with these limits."""

        def enter() -> asyncio.Protocol:
            protocol = server()
            loop = asyncio.get_running_loop()
            # The connection is among the server's after the next round of the loop.
            loop.call_soon(loop.call_soon, self._check_number, server, protocol)
            loop.call_later(REQUEST_S, self._check_silence, protocol)
            return protocol

        return enter

    async def clear(self) -> None:
        """Cut all connections: those that are left do not take what they were sent."""
        for transport in self._transports:
            transport.abort()
        await asyncio.sleep(0)  # the transports close their sockets in the next round of the loop

    def _check_number(self, server: web.Server, protocol: Any) -> None:
        if protocol.transport is None:
            return
        self._transports.add(protocol.transport)
        if protocol in server.connections[MOST_CONNECTIONS:]:
            protocol.transport.abort()

    def _check_silence(self, protocol: Any) -> None:
        transport = protocol.transport
        if transport is not None and transport not in self._heard:
            transport.abort()


def quiet_logger() -> logging.Logger:
    """For aiohttp: tells our mistakes, but not other people's malformed requests.

    Those it would print as they came, and a token may be part of them.
    """
    logger = logging.getLogger("solo_edge.video.web.requests")
    if not logger.filters:
        logger.addFilter(_is_our_mistake)
    return logger


def _is_our_mistake(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)
