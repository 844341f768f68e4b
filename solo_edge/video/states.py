"""How a source is doing: every failure is one change of state with a code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

__all__ = ["Failure", "OnStateChange", "SourceState", "StateChange"]


class SourceState(str, Enum):
    """Where a source is between its start and its end."""

    OPENING = "opening"
    PLAYING = "playing"  # frames come
    WAITING = "waiting"  # it failed and will be opened again
    ENDED = "ended"  # nothing more comes


class Failure(str, Enum):
    """Why a source does not play."""

    AUTH = "auth"  # it wants another user or password
    NOT_FOUND = "not_found"  # no such host, device, path or stream
    TIMEOUT = "timeout"  # it does not answer
    STALLED = "stalled"  # it is open and silent
    DECODE = "decode"  # what comes is no video
    GONE = "gone"  # it closed the connection, or was unplugged


@dataclass(frozen=True)
class StateChange:
    """A source went into another state."""

    source: str  # its name, without credentials
    state: SourceState
    code: Failure | None  # why it waits or ended; None when all is well
    message: str  # one line for people, without credentials
    at_s: float  # on the clock `solo_edge.video.clock.now`
    attempt: int  # how often it was opened since it last played


OnStateChange = Callable[[StateChange], None]
