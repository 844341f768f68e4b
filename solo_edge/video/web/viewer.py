"""The sink behind `--serve`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from solo_edge.errors import ResourceError
from solo_edge.video.result import ProcessedFrame, Sink, StreamStatus
from solo_edge.video.states import StateChange
from solo_edge.video.web.address import base_url, is_loopback, listen, parse_address
from solo_edge.video.web.board import Board

__all__ = ["WebViewer"]


class WebViewer(Sink):
    """A web page that shows a running stream: pictures, instances, speed and the state of the sources.

    It is served from the moment it is made, by a thread of its own. Nothing is encoded while nobody
    looks, and a slow browser gets fewer pictures; `write` only leaves the frame where viewers find it.

    Args:
        address: "HOST:PORT"; port 0 is any free one. 127.0.0.1 is reached from this machine alone,
            0.0.0.0 from all networks.
        token: what viewers have to know. Without one, a loopback address lets in everybody on this
            machine, and for any other address one is made. It is part of `url`.
        sources: the names of the sources, at least one.
        class_names: if it is empty, those of the first result.
        min_score: where the page's filter starts; in [0, 1].

    Raises:
        UsageError: no such address, or a token that is too short.
        ResourceError: the port is taken or not allowed, or aiohttp is missing.
    """

    name = "web"

    def __init__(
        self,
        address: str = "127.0.0.1:8080",
        *,
        token: str | None = None,
        sources: Sequence[str],
        class_names: Sequence[str] = (),
        min_score: float = 0.3,
    ):
        if not (math.isfinite(min_score) and 0.0 <= min_score <= 1.0):
            raise ValueError(f"min_score must be in [0, 1], got {min_score}")
        try:
            from solo_edge.video.web.access import Access, new_token
            from solo_edge.video.web.server import Server
        except ImportError as error:
            what = "the web page needs aiohttp"
            raise ResourceError(what, fix="pip install 'solo-edge[stream]'") from error
        self._board = Board(sources, class_names, min_score)
        wanted = parse_address(address)
        if token is None and not is_loopback(wanted.host):
            token = new_token()
        listening = listen(wanted)
        try:
            port = listening.getsockname()[1]
            access = Access(token, wanted.host, port)
            self._server = Server(self._board, access, listening)
        except BaseException:
            listening.close()
            raise
        self.url = access.url(base_url(wanted, port))  # what a user opens, with the token

    @property
    def wants_overlay(self) -> bool:
        """Whether a program looks at pictures with the overlay drawn into them; the page draws its own."""
        return self._server.wants_overlay

    def write(self, result: ProcessedFrame) -> None:
        """Show a frame. Returns at once; the frame is kept until the next one of its source."""
        self._server.check()
        self._board.write(result)

    def source_changed(self, source_index: int, change: StateChange) -> None:
        self._board.source_changed(source_index, change)

    def status(self, statuses: tuple[StreamStatus, ...]) -> None:
        self._board.status(statuses)

    def close(self) -> None:
        """Tell the viewers, stop serving and give back the port, within a second."""
        self._server.close()
