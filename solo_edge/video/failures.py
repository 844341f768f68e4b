"""Why a source does not play: errors of FFmpeg and of the system, told as one of six codes."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from solo_edge.errors import ResourceError, SoloEdgeError, SourceError
from solo_edge.video.states import Failure

__all__ = ["SourceFailure", "failure_of", "knock_on_device", "knock_on_port"]

KNOCK_TIMEOUT_S = 2.0  # a lost first packet is sent again after 1 s

_FIXES = {
    Failure.AUTH: "check the user name and the password",
    Failure.NOT_FOUND: "check the address",
    Failure.TIMEOUT: "check the address and the network",
    Failure.STALLED: "start it again",
    Failure.DECODE: "check what it sends",
    Failure.GONE: "start it again",
}
# FFmpeg's errors by the names of PyAV's classes.
_BY_CLASS = {
    "HTTPUnauthorizedError": (Failure.AUTH, "access refused"),
    "HTTPForbiddenError": (Failure.AUTH, "access refused"),
    "HTTPNotFoundError": (Failure.NOT_FOUND, "the server knows no such stream"),
    "StreamNotFoundError": (Failure.NOT_FOUND, "there is no such stream"),
    "HTTPBadRequestError": (Failure.NOT_FOUND, "the server refuses the request"),
    "HTTPOtherClientError": (Failure.NOT_FOUND, "the server refuses the request"),
    "HTTPTooManyRequestsError": (Failure.GONE, "the server is asked too often"),
    "HTTPServerError": (Failure.GONE, "the server has an error"),
    "InvalidDataError": (Failure.DECODE, "damaged, or no video of a known kind"),
    "ArgumentError": (Failure.DECODE, "damaged, or no video of a known kind"),
    "DecoderNotFoundError": (Failure.DECODE, "there is no decoder for it"),
    "PatchWelcomeError": (Failure.DECODE, "there is no decoder for it"),
    "EOFError": (Failure.GONE, "the stream ended"),
}
_BY_NUMBER = {
    errno.ECONNREFUSED: (Failure.GONE, "connection refused"),
    errno.ECONNRESET: (Failure.GONE, "the connection was lost"),
    errno.ECONNABORTED: (Failure.GONE, "the connection was lost"),
    errno.EPIPE: (Failure.GONE, "the connection was lost"),
    errno.EIO: (Failure.GONE, "the connection was lost"),
    errno.EBUSY: (Failure.GONE, "another program is using it"),
    errno.ETIMEDOUT: (Failure.TIMEOUT, "no answer in time"),
    errno.EHOSTUNREACH: (Failure.TIMEOUT, "the host cannot be reached"),
    errno.EHOSTDOWN: (Failure.TIMEOUT, "the host cannot be reached"),
    errno.ENETUNREACH: (Failure.TIMEOUT, "there is no way into this network"),
    errno.ENETDOWN: (Failure.TIMEOUT, "the network is down"),
    errno.ENOENT: (Failure.NOT_FOUND, "it is not there"),
    errno.ENODEV: (Failure.NOT_FOUND, "it is not there"),
    errno.ENXIO: (Failure.NOT_FOUND, "it is not there"),
    errno.EACCES: (Failure.AUTH, "no permission"),
    errno.EPERM: (Failure.AUTH, "no permission"),
}


class SourceFailure(SourceError):  # noqa: N818 - it says why, with a code
    """A live source does not play.

    Args:
        code: why.
        what: the same for people, without credentials.
        where: the source's name.
    """

    def __init__(self, code: Failure, what: str, *, where: str, fix: str | None = None):
        super().__init__(f"{what} ({code.value})", where=where, fix=fix or _FIXES[code])
        self.code, self.reason = code, what


def failure_of(error: Exception, name: str, *, playing: bool) -> SoloEdgeError:
    """An error of FFmpeg or the system in our words; its own may hold the address with the password.

    Args:
        playing: it came while frames were read, not when the source was opened.
    """
    kind, number = type(error).__name__, getattr(error, "errno", None)
    if kind == "ProtocolNotFoundError":
        fix = "install PyAV from PyPI: pip install av"
        return ResourceError("this PyAV knows no such protocol", where=name, fix=fix)
    if kind in ("ExitError", "TimeoutError") or number == errno.ETIMEDOUT:
        if playing:
            return SourceFailure(Failure.STALLED, "nothing comes any more", where=name)
        return SourceFailure(Failure.TIMEOUT, "no answer in time", where=name)
    code, what = (
        _BY_CLASS.get(kind) or _BY_NUMBER.get(number or 0) or (Failure.GONE, "it cannot be read")
    )
    if playing and code is Failure.NOT_FOUND:
        code = Failure.GONE  # a device that was unplugged
    if number == errno.EIO and not playing:
        what = "it cannot be opened"  # for any reason
    return SourceFailure(code, what, where=name)


def knock_on_port(host: str, port: int, name: str) -> Callable[[], SourceFailure | None]:
    """What asks whether a server accepts connections; it answers None if so, else why not.

    One socket, closed at once.
    """

    def knock() -> SourceFailure | None:
        try:
            socket.create_connection((host, port), KNOCK_TIMEOUT_S).close()
        except (socket.gaierror, UnicodeError):
            return SourceFailure(Failure.NOT_FOUND, "there is no such host", where=name)
        except TimeoutError:
            return SourceFailure(Failure.TIMEOUT, "no answer in time", where=name)
        except OSError as error:
            code, what = _BY_NUMBER.get(error.errno or 0, (Failure.TIMEOUT, "no answer"))
            return SourceFailure(code, what, where=name)
        return None

    return knock


def knock_on_device(is_there: Callable[[], bool], name: str) -> Callable[[], SourceFailure | None]:
    """The same for a camera that may be unplugged."""

    def knock() -> SourceFailure | None:
        if is_there():
            return None
        return SourceFailure(Failure.NOT_FOUND, "there is no such camera", where=name)

    return knock
