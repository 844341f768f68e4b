"""The thread that opens a live source, reads it, and opens it again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing

from solo_edge.video.clock import now
from solo_edge.video.connection import Backlog, Connection, Failed, Opened, Opener
from solo_edge.video.failures import SourceFailure
from solo_edge.video.states import Failure

__all__ = ["Backoff", "Knock", "Reader"]

STALL_S = 2.75  # a source that is silent for longer is given up; FFmpeg's own limit comes before
OPEN_PATIENCE_S = 11.0  # the same while it is being opened
AUTH_RETRY_S = 30.0  # more wrong passwords may lock the account
STEADY_S = 2.0  # a connection that lasted for longer was a good one
KNOCK_S = (0.25, 0.5)  # between two looks whether a source is back: at first, and at most

Knock = Callable[[], SourceFailure | None]  # why there is no use in opening; None: there may be


class Backoff:
    """Pauses between tries: each twice as long as the one before, up to a limit."""

    def __init__(self, first_s: float, longest_s: float):
        self._first_s, self._longest_s = first_s, longest_s
        self.reset()

    def reset(self) -> None:
        self._next_s = self._first_s

    def next(self) -> float:
        pause_s, self._next_s = self._next_s, min(2.0 * self._next_s, self._longest_s)
        return pause_s


class Reader(threading.Thread):
    """Fills a backlog with the pieces of one connection after the other, until it is told to stop.

    Args:
        opener, knock: as for `LiveSource`.
        keeps_all: as for `Backlog`.
        predecessor: a reader that was given up, and why. This one begins when that one has let go:
            many devices open only once, and there are never more than two threads for a source.
    """

    def __init__(
        self,
        opener: Opener,
        knock: Knock | None,
        keeps_all: Callable[[], bool],
        predecessor: tuple[Reader, SourceFailure] | None = None,
    ):
        # A read that hangs must not keep the program alive.
        super().__init__(name="solo-edge source", daemon=True)
        self._opener, self._knock, self._predecessor = opener, knock, predecessor
        self._finite = False
        self.backlog = Backlog(lambda: self._finite or keeps_all())
        self.attempt = 0  # how often it was opened since it last played
        self._backoff = Backoff(0.25, 4.0)
        self._stopped = threading.Event()
        self._doing, self._since_s = "waiting", now()

    def run(self) -> None:
        if not self._let_predecessor_go():
            return
        while not self._stopped.is_set():
            self.attempt += 1
            error = self._play()
            self._do("waiting")
            going_on = self.backlog.put(Failed(error, self.attempt))
            if not (going_on and isinstance(error, SourceFailure) and self._pause(error)):
                return

    def stop(self) -> None:
        """End: at once, or when the read that is under way returns."""
        self._stopped.set()
        self.backlog.close()

    def overdue(self) -> SourceFailure | None:
        """Why it should be given up, if it should: the source is silent, and does not even fail."""
        doing, silent_s = self._doing, now() - self._since_s
        if doing == "reading" and silent_s > STALL_S:
            return SourceFailure(Failure.STALLED, "nothing comes any more", where="")
        if doing == "opening" and silent_s > OPEN_PATIENCE_S:
            return SourceFailure(Failure.TIMEOUT, "no answer in time", where="")
        return None

    def _play(self) -> BaseException | None:
        """Open and read. Returns what ended it; None at the end of what has one."""
        self._do("opening")
        try:
            with closing(self._opener(self._stopped)) as connection:
                opened_s = now()
                try:
                    self._read(connection)
                finally:
                    if now() - opened_s > STEADY_S:
                        self._backoff.reset()
        except Exception as error:
            return error
        return None

    def _read(self, connection: Connection) -> None:
        self._finite = connection.finite
        going_on = self.backlog.put(Opened(connection, self.attempt))
        while going_on:
            self._do("reading")
            piece = connection.read()
            if piece is None:
                return
            self._do("handing over")
            going_on = self.backlog.put(piece)

    def _pause(self, failure: SourceFailure) -> bool:
        """Wait until there is sense in opening again. Returns False if it was told to stop."""
        if failure.code is Failure.AUTH:
            return not self._stopped.wait(AUTH_RETRY_S)
        pause_s = self._backoff.next()
        refusal = self._knock() if self._knock is not None else None
        if refusal is None:
            return not self._stopped.wait(pause_s)
        knocks = Backoff(*KNOCK_S)
        code: Failure = failure.code
        while refusal is not None:
            if refusal.code is not code:
                code = refusal.code
                self.backlog.put(Failed(refusal, self.attempt))
            if self._stopped.wait(knocks.next()):
                return False
            assert self._knock is not None
            refusal = self._knock()
        self._backoff.reset()
        return not self._stopped.is_set()

    def _let_predecessor_go(self) -> bool:
        if self._predecessor is None:
            return True
        reader, failure = self._predecessor
        self._predecessor = None
        while reader.is_alive():
            if self._stopped.wait(0.05):
                return False
        return self._pause(failure)

    def _do(self, what: str) -> None:
        self._doing, self._since_s = what, now()
