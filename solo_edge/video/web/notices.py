"""Short pages in place of the viewer: why it does not show, and what to do."""

from __future__ import annotations

from html import escape
from http import HTTPStatus

from aiohttp import web

__all__ = ["notice"]

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · solo-edge</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/style.css">
</head>
<body class="notice">
<main>
<img src="/static/icon.svg" width="40" height="40" alt="">
<h1>{title}</h1>
<p>{text}</p>
</main>
</body>
</html>
"""


def notice(
    request: web.Request, status: int, title: str, text: str, *, again_s: int | None = None
) -> web.Response:
    """A page for people, JSON for programs.

    Args:
        again_s: after this many seconds the page asks again by itself.
    """
    headers = {"Vary": "Accept"}
    if again_s is not None and status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(again_s)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if "text/html" not in request.headers.get("Accept", ""):
        return web.json_response({"error": title, "detail": text}, status=status, headers=headers)
    if again_s is not None:
        headers["Refresh"] = f"{again_s}; url={request.rel_url.raw_path}"
    page = _PAGE.format(title=escape(title), text=escape(text))
    return web.Response(text=page, content_type="text/html", status=status, headers=headers)
