"""Who gets in, asked over real connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import suppress

import aiohttp
import pytest

from solo_edge.errors import UsageError
from solo_edge.video.web import limits
from solo_edge.video.web.limits import MOST_VIEWERS

TOKEN = "a-token-for-these-tests"
DATA = ("/", "/status.json", "/snapshot/0.jpg", "/mjpeg/0", "/events", "/ws")
HTML = {"Accept": "text/html"}


def base_of(viewer) -> str:
    return viewer.url.partition("?")[0].rstrip("/")


def port_of(viewer) -> int:
    return int(base_of(viewer).rpartition(":")[2])


def with_cookie(answer) -> dict[str, str]:
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def test_loopback_needs_no_token(open_viewer, ask):
    viewer = open_viewer()
    assert "token" not in viewer.url
    assert ask(viewer.url).status == 200


def test_any_other_address_gets_a_token_of_its_own(open_viewer):
    urls = [open_viewer("0.0.0.0:0").url for _ in range(2)]
    tokens = [url.partition("?token=")[2] for url in urls]
    assert len(set(tokens)) == 2
    assert all(len(token) >= 32 for token in tokens)


@pytest.mark.parametrize("path", DATA)
def test_without_the_token_nothing_is_shown(open_viewer, ask, scenes, path):
    viewer = open_viewer(token=TOKEN)
    viewer.write(scenes.result(0))
    for given in ("", "?token=", "?token=wrong", f"?token={TOKEN}x", "?token=%FF"):
        answer = ask(f"{base_of(viewer)}{path}{given}", headers=HTML)
        assert answer.status == 401, given
        assert TOKEN.encode() not in answer.body
        assert b"A token is needed" in answer.body
    assert ask(f"{base_of(viewer)}{path}").body.startswith(b'{"error"')


def test_the_token_becomes_a_cookie_and_leaves_the_address(open_viewer, ask):
    viewer = open_viewer(token=TOKEN)
    first = ask(viewer.url, headers=HTML)
    assert (first.status, first.headers["Location"]) == (303, "/")
    cookie = first.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    second = ask(base_of(viewer) + "/", headers=with_cookie(first))
    assert second.status == 200
    assert b"<title>" in second.body


def test_a_wrong_cookie_does_not_get_in(open_viewer, ask):
    viewer = open_viewer(token=TOKEN)
    name = with_cookie(ask(viewer.url))["Cookie"].partition("=")[0]
    for value in ("", "0" * 64, TOKEN):
        headers = {"Cookie": f"{name}={value}"}
        assert ask(base_of(viewer) + "/status.json", headers=headers).status == 401


def test_the_cookie_holds_after_a_restart_with_the_same_token(open_viewer, ask):
    viewer = open_viewer(token=TOKEN)
    cookie, port = with_cookie(ask(viewer.url)), port_of(viewer)
    viewer.close()
    again = open_viewer(f"127.0.0.1:{port}", token=TOKEN)
    assert ask(base_of(again) + "/status.json", headers=cookie).status == 200
    again.close()
    other = open_viewer(f"127.0.0.1:{port}", token=TOKEN + "2")
    assert ask(base_of(other) + "/status.json", headers=cookie).status == 401


def test_viewers_on_two_ports_have_cookies_of_their_own(open_viewer, ask):
    cookies = [with_cookie(ask(open_viewer(token=TOKEN).url))["Cookie"] for _ in range(2)]
    assert cookies[0].partition("=")[0] != cookies[1].partition("=")[0]


def test_programs_may_send_the_token_with_every_request(open_viewer, ask, scenes):
    viewer = open_viewer(token=TOKEN)
    viewer.write(scenes.result(0))
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(base_of(viewer) + "/status.json", headers=bearer).status == 200
    assert ask(f"{base_of(viewer)}/snapshot/0.jpg?token={TOKEN}").status == 200


def test_who_follows_a_link_from_another_site_is_asked_by_our_own(open_viewer, ask):
    viewer = open_viewer(token=TOKEN)
    elsewhere = {**HTML, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    bounced = ask(base_of(viewer) + "/", headers=elsewhere)
    assert bounced.status == 200
    assert bounced.headers["Refresh"] == "0; url=/"
    assert b"tiles" not in bounced.body
    ours = {**elsewhere, "Sec-Fetch-Site": "same-origin"}
    assert ask(base_of(viewer) + "/", headers=ours).status == 401


@pytest.mark.parametrize("token", ["short", "with spaces in the token", "x" * 15, "ä" * 20])
def test_weak_tokens_are_refused(open_viewer, token):
    with pytest.raises(UsageError, match="at least 16"):
        open_viewer(token=token)


@pytest.mark.parametrize("path", [*DATA, "/static/style.css"])
def test_loopback_answers_to_its_own_name_alone(open_viewer, ask, path):
    viewer = open_viewer()
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "0.0.0.0"):
        assert ask(base_of(viewer) + path, headers={"Host": host}).status in (400, 421), host


@pytest.mark.parametrize("host", ["localhost", "localhost:9000", "127.0.0.1:9000", "[::1]:9000"])
def test_a_tunnel_may_end_at_another_port(open_viewer, ask, host):
    assert ask(open_viewer().url, headers={"Host": host}).status == 200


def test_pages_of_other_sites_get_no_data(open_viewer, ask, scenes):
    viewer = open_viewer()
    viewer.write(scenes.result(0))
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask(base_of(viewer) + "/snapshot/0.jpg", headers=embedded).status == 403
    opened = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(base_of(viewer) + "/snapshot/0.jpg", headers=opened).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
def test_websockets_of_other_sites_are_refused(open_viewer, origin):
    viewer = open_viewer()

    async def connect() -> int:
        async with aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await client.ws_connect(base_of(viewer) + "/ws", headers={"Origin": origin})
            return refused.value.status

    assert asyncio.run(connect()) == 403


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/status.json", "/snapshot/0.jpg", "/no-such-page", "/ws"]
)
def test_every_answer_has_the_headers_of_a_careful_page(open_viewer, ask, scenes, path):
    viewer = open_viewer()
    viewer.write(scenes.result(0))
    headers = ask(base_of(viewer) + path).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self';")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cache-Control"] == ("no-cache" if "static" in path else "no-store")


def test_nothing_but_get_is_answered(open_viewer, ask):
    viewer = open_viewer()
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert ask(viewer.url, method=method).status == 405


@pytest.mark.parametrize("name", ["..%2fviewer.py", "index.html", "%2e%2e/viewer.py", "x", "."])
def test_only_files_of_the_page_are_served(open_viewer, ask, name):
    assert ask(f"{base_of(open_viewer())}/static/{name}").status == 404


def test_the_token_is_in_no_log(open_viewer, ask, caplog):
    caplog.set_level(logging.DEBUG)
    viewer = open_viewer(token=TOKEN)
    ask(viewer.url)
    ask(base_of(viewer) + "/?token=wrong-but-not-public")
    with socket.create_connection(("127.0.0.1", port_of(viewer))) as raw:
        raw.sendall(f"GET /?token={TOKEN}{'x' * 9000} HTTP/1.1\r\n\r\n".encode())
        assert b"400" in raw.recv(100)
    assert TOKEN not in caplog.text
    assert "wrong-but-not-public" not in caplog.text


def test_long_requests_are_refused(open_viewer, ask):
    assert ask(open_viewer().url, headers={"X-Long": "x" * 9000}).status == 400


def test_who_says_nothing_is_hung_up_on(open_viewer, monkeypatch):
    monkeypatch.setattr(limits, "REQUEST_S", 0.2)
    viewer = open_viewer()
    with socket.create_connection(("127.0.0.1", port_of(viewer)), timeout=10) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        with suppress(ConnectionResetError):
            assert silent.recv(100) == b""


def test_connections_are_limited(open_viewer, ask, monkeypatch):
    monkeypatch.setattr(limits, "MOST_CONNECTIONS", 3)
    viewer = open_viewer()
    address = ("127.0.0.1", port_of(viewer))
    connections = [socket.create_connection(address, timeout=10) for _ in range(5)]
    for connection in connections[3:]:
        with suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    for connection in connections[:3]:
        connection.sendall(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    for connection in connections:
        connection.close()


def test_viewers_are_limited_and_told(open_viewer):
    viewer = open_viewer()

    async def look() -> None:
        async with aiohttp.ClientSession() as client:
            sockets = [
                await client.ws_connect(base_of(viewer) + "/ws") for _ in range(MOST_VIEWERS)
            ]
            for path in ("/", "/mjpeg/0", "/events"):
                async with client.get(base_of(viewer) + path) as refused:
                    assert refused.status == 503
                    assert refused.headers["Retry-After"] == "3"
                    assert str(MOST_VIEWERS) in (await refused.json())["detail"]
            async with client.get(viewer.url, headers=HTML) as page:
                assert "All places are taken" in await page.text()
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await client.ws_connect(base_of(viewer) + "/ws")
            async with client.get(base_of(viewer) + "/status.json") as status:
                assert (await status.json())["viewers"] == MOST_VIEWERS
            await sockets[0].close()
            deadline = time.monotonic() + 20
            while (await client.get(viewer.url)).status != 200:
                assert time.monotonic() < deadline

    asyncio.run(look())
