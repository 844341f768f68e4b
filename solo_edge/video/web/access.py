"""Who may see the pictures: who knows the token, wherever others can reach the page."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web

from solo_edge.errors import UsageError
from solo_edge.video.web.address import is_loopback
from solo_edge.video.web.notices import notice

__all__ = ["Access", "Handler", "add_headers", "new_token", "protect"]

# Style and icon of the page that asks for the token; they tell nothing.
PUBLIC = ("/static/",)
# Values of the header Sec-Fetch-Site: it was neither our own page nor the user that asked.
_ELSEWHERE = ("cross-site", "same-site")
SHORTEST_TOKEN = 16
_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'; object-src 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Access:
    """Decides about every request.

    Args:
        token: what a viewer has to know; None lets everybody in who reaches the address.
        host: where the page is served. On a loopback address only that name and other names for
            this machine are answered, so that no page from elsewhere gets in under a name of its own
            (DNS rebinding).
        port: of the page. Browsers send cookies to all ports of a machine, so it is in their names.

    Raises:
        UsageError: the token is short or has signs that an address cannot hold.
    """

    def __init__(self, token: str | None, host: str, port: int):
        if token is not None and (len(token) < SHORTEST_TOKEN or not _TOKEN.fullmatch(token)):
            what = f"a token needs at least {SHORTEST_TOKEN} letters, digits or any of -._~"
            raise UsageError(what, fix="leave it out and one is made")
        self._token = token
        self._hosts = {host.lower(), "localhost"} if is_loopback(host) else None
        self._cookie = f"solo-edge-{port}"
        # Not the token itself: who sees the cookie learns no token. The same after a restart with it.
        self._session = hmac.new((token or "").encode(), b"session", "sha256").hexdigest()

    def url(self, base: str) -> str:
        """What to open at the first visit."""
        return base if self._token is None else f"{base}?token={quote(self._token)}"

    def knows_host(self, request: web.Request) -> bool:
        """Whether the request names this server the way it is served."""
        if self._hosts is None:
            return True
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name)

    def is_foreign(self, request: web.Request) -> bool:
        """Whether another site's page asks for data. Opening an address from there is no such thing."""
        origin = request.headers.get("Origin")
        if origin is not None and origin.partition("://")[2].lower() != request.host.lower():
            return True
        site = request.headers.get("Sec-Fetch-Site", "none")
        mode = request.headers.get("Sec-Fetch-Mode")
        return site in _ELSEWHERE and mode != "navigate"

    def admits(self, request: web.Request) -> bool:
        """Whether the request carries the session's cookie or the token."""
        return (
            self._token is None
            or _same(request.cookies.get(self._cookie), self._session)
            or _same(request.headers.get("Authorization", "").removeprefix("Bearer "), self._token)
            or self.has_token(request)
        )

    def has_token(self, request: web.Request) -> bool:
        """Whether the right token is part of the address."""
        return self._token is not None and _same(request.query.get("token"), self._token)

    def start_session(self, response: web.StreamResponse) -> None:
        """Let this browser in from now on, until it is closed."""
        if self._token is not None:
            response.set_cookie(self._cookie, self._session, httponly=True, samesite="Strict")


def protect(access: Access) -> Any:
    """A middleware that asks `access` first."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not access.knows_host(request):
            what = "This viewer answers on its own address only."
            return notice(request, 421, "Another address", what)
        if request.path.startswith(PUBLIC):
            return await handler(request)
        if access.is_foreign(request):
            return notice(request, 403, "Not from here", "Another site's page asked for this.")
        if access.admits(request):
            return await handler(request)
        if request.path == "/" and request.headers.get("Sec-Fetch-Site") in _ELSEWHERE:
            # Who follows a link from another site comes without the cookie, also right after it was
            # set. What this page asks for is asked by our own site, with the cookie.
            return notice(request, 200, "One moment", "Opening the viewer.", again_s=0)
        what = "Open the address that was printed at the start: the token is part of it."
        return notice(request, 401, "A token is needed", what)

    return guard


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Headers of every response, for `on_response_prepare`."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")


def _same(given: str | None, expected: str) -> bool:
    return given is not None and hmac.compare_digest(
        given.encode(errors="surrogateescape"), expected.encode()
    )
