"""What the handlers of requests share: the board, the encoder, the places, and news of new frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from solo_edge.video.clock import now
from solo_edge.video.web.board import Board, Shown
from solo_edge.video.web.limits import Places
from solo_edge.video.web.pictures import Pictures, Quality

__all__ = ["Desk"]

LOOK_EVERY_S = 0.004  # how late a frame may be seen
REST_S = 0.1  # while nobody is there; who comes looks at the board at once


class Desk:
    """Lives in the server's thread. Encoding is done in a thread of its own, one picture at a time:
    however many people look, that takes no more than one core, and none while nobody looks.
    """

    def __init__(self, board: Board):
        self.board = board
        self.places = Places()
        self.started_s = now()
        self.overlay_watchers = 0  # who wants pictures with the overlay drawn into them
        self._pictures = Pictures()
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="solo-edge-web-encode")
        self._encoded: dict[tuple[int, str], tuple[int, asyncio.Future[bytes]]] = {}
        self._bells: set[asyncio.Event] = set()

    async def watch_board(self) -> None:
        """Ring all bells whenever there is something new on the board; never returns."""
        seen = -1
        while True:
            await asyncio.sleep(LOOK_EVERY_S if self._bells else REST_S)
            if seen != self.board.serial:
                seen = self.board.serial
                self.ring()

    def ring(self) -> None:
        """Let everybody look at the board."""
        for bell in self._bells:
            bell.set()

    def add_bell(self, bell: asyncio.Event) -> None:
        """Set this event whenever there is something new, until `remove_bell`."""
        self._bells.add(bell)

    def remove_bell(self, bell: asyncio.Event) -> None:
        self._bells.discard(bell)

    async def packet(self, shown: Shown, quality: Quality) -> bytes:
        """See `Pictures.packet`; made once, however many ask."""
        return await self._once(shown, quality, lambda: self._pictures.packet(shown, quality))

    async def drawn(self, shown: Shown) -> bytes:
        """See `Pictures.drawn`; made once, however many ask."""
        return await self._once(shown, "drawn", lambda: self._pictures.drawn(shown.result))

    async def _once(self, shown: Shown, kind: str, make: Callable[[], bytes]) -> bytes:
        place = (shown.result.source_index, kind)
        kept = self._encoded.get(place)
        if kept is None or kept[0] != shown.serial:
            future = asyncio.get_running_loop().run_in_executor(self._encoder, make)
            kept = self._encoded[place] = (shown.serial, future)
        # Who goes away must not take the picture from others that wait for it.
        return await asyncio.shield(kept[1])

    def close(self) -> None:
        """Wait for the picture that is being made."""
        self._encoder.shutdown(wait=True, cancel_futures=True)
