"""Where the page is: the address that a user writes, the socket behind it, and what a browser opens."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from typing import NamedTuple

from solo_edge.errors import ResourceError, UsageError

__all__ = ["Address", "base_url", "is_loopback", "listen", "parse_address"]

_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})"
)
BACKLOG = 32


class Address(NamedTuple):
    """A host name or IP address, and a port; 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """ "127.0.0.1:8080", "localhost:0", "0.0.0.0:8080" or "[::1]:8080".

    Raises:
        UsageError: it is none of these.
    """
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or int(found["port"]) > 65535:
        fix = "write HOST:PORT, such as 127.0.0.1:8080"
        raise UsageError("is no address for the web page", where=text.strip() or "''", fix=fix)
    return Address(found["six"] or found["host"], int(found["port"]))


def listen(address: Address) -> socket.socket:
    """A socket that listens there.

    Raises:
        UsageError: this machine has no such address. ResourceError: it is taken, or not allowed.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, *_, place = found[0]
        return socket.create_server(
            place[:2],
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=address.host == "::" and socket.has_dualstack_ipv6(),
        )
    except (OSError, UnicodeError) as error:
        raise _told(error, address) from error


def _told(error: OSError | UnicodeError, address: Address) -> UsageError | ResourceError:
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        what, fix = "another program uses this port", "choose another port, or 0 for any free one"
        return ResourceError(what, where=str(address), fix=fix)
    if code in (errno.EACCES, errno.EPERM):
        what, fix = "this port is not allowed here", "choose one from 1024 on"
        return ResourceError(what, where=str(address), fix=fix)
    if isinstance(error, (socket.gaierror, UnicodeError)) or code == errno.EADDRNOTAVAIL:
        what = "this machine has no such address"
        fix = "use 127.0.0.1 for this machine alone, or 0.0.0.0 for all networks"
        return UsageError(what, where=str(address), fix=fix)
    what = f"the web page cannot be served ({(error.strerror or str(error)).lower()})"
    return ResourceError(what, where=str(address), fix="choose another address")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it: "localhost" or an address such as 127.0.0.1."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return host.lower().rstrip(".") == "localhost"


def base_url(address: Address, port: int) -> str:
    """What to open in a browser, "http://HOST:PORT/".

    Args:
        address: as the user wrote it. For all networks at once, an address of this machine is named.
        port: the one that is listened on.
    """
    host = address.host
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = _own_address()
    return f"http://{Address(host, port)}/"


def _own_address() -> str:
    """The address that others in the network know this machine by, or else its name."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: the system only looks up which way it would take to that documentation address.
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return socket.gethostname()
