"""Users, passwords and tokens in addresses are never shown, logged or kept in an error."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
from urllib.parse import quote

import av
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from solo_edge.errors import SoloEdgeError
from solo_edge.video.addresses import parse_address
from solo_edge.video.base import redact
from solo_edge.video.source import open_source
from solo_edge.video.states import Failure

HEAD, TAIL = "Zq7", "7qZ"  # whichever end of a secret shows, it is seen

odd = st.text("abcXYZ059:/?#@&=%!$;+~'\"`^|<>{}[]()*, ü中\\\t", max_size=12).map(
    lambda text: HEAD + text + TAIL
)
keys = st.sampled_from(
    ["password", "pwd", "token", "access_token", "apiKey", "client_secret", "auth", "sig", "user"]
)
schemes = st.sampled_from(["rtsp", "http", "RTSP", "https", "rtsps", "rtmp"])


@st.composite
def raw_addresses(draw):
    """Addresses as people type them, with secrets that should have been escaped."""
    secret, scheme = draw(odd), draw(schemes)
    shape = draw(st.integers(0, 4))
    if shape == 0:
        return f"{scheme}://me:{secret}@10.0.0.1:554/stream?x=1"
    if shape == 1:
        return f"{scheme}://{secret}@10.0.0.1/stream"
    if shape == 2:
        return f"{scheme}://10.0.0.1/stream?x=1&{draw(keys)}={secret.replace('&', '')}"
    if shape == 3:
        inside = secret.replace("?", "").replace("@", "")
        return f"{scheme}://10.0.0.1:554/user=admin_password={inside}_channel=1.sdp?real_stream"
    return f"{scheme}://{secret}:{secret}@10.0.0.1/a?{draw(keys)}={secret.replace('&', '')}"


@st.composite
def escaped_addresses(draw):
    """Addresses that FFmpeg understands."""
    secret = quote(draw(odd), safe="!$'()*,;=+~")
    shape = draw(st.integers(0, 3))
    if shape == 0:
        return f"me:{secret}@127.0.0.1:PORT/cam"
    if shape == 1:
        return f"{secret}:{secret}@127.0.0.1:PORT/cam?x=1"
    if shape == 2:
        return f"127.0.0.1:PORT/cam?x=1&{draw(keys)}={secret}"
    return f"127.0.0.1:PORT/user=a_password={secret}_channel=1.sdp"


def assert_hidden(*texts):
    for text in texts:
        assert HEAD not in text
        assert TAIL not in text


@settings(max_examples=1000)
@given(raw_addresses())
@example("http://host/a?password=Zq7 7qZ")
@example("http://host/a#token=Zq77qZ")
def test_a_name_holds_no_secret(uri):
    assert_hidden(redact(uri))
    for each in (uri, f"gst+{uri}"):
        try:
            address = parse_address(each)
        except SoloEdgeError as error:
            assert_hidden(str(error), repr(error), "".join(traceback.format_exception(error)))
        else:
            assert_hidden(repr(address), str(address))


class Everything(logging.Handler):
    def __init__(self):
        super().__init__(0)
        self.texts = []

    def emit(self, record):
        self.texts.append(self.format(record))


@contextlib.contextmanager
def everything_logged():
    """All that anybody logs, also what FFmpeg would say if somebody had switched it on."""
    handler, root, ffmpeg = Everything(), logging.getLogger(), logging.getLogger("libav")
    levels = root.level, ffmpeg.level, av.logging.get_level()
    root.addHandler(handler)
    root.setLevel(0)
    ffmpeg.setLevel(0)
    av.logging.set_level(av.logging.TRACE)
    try:
        yield handler.texts
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        ffmpeg.setLevel(levels[1])
        av.logging.set_level(levels[2])


@pytest.fixture(scope="module")
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(escaped_addresses(), st.sampled_from(["rtsp", "http", "rtmp", "gst+rtsp"]))
def test_an_address_that_fails_shows_no_secret(closed_port, capfd, address, scheme):
    uri = f"{scheme}://{address}".replace("PORT", str(closed_port))
    with everything_logged() as logged, pytest.raises(SoloEdgeError) as caught:
        open_source(uri)
    error = caught.value
    while error is not None:
        assert_hidden(str(error), repr(error), str(vars(error)))
        assert_hidden("".join(traceback.format_exception(error, chain=True)))
        error = error.__cause__ or error.__context__
    assert_hidden(*logged)
    assert_hidden(*capfd.readouterr())


@pytest.mark.parametrize("kind", ["MjpegServer", "RtspServer"])
def test_states_and_frames_hold_no_secret(servers, capfd, kind):
    changes = []
    with getattr(servers, kind)(user=("me", HEAD + TAIL)) as server:
        uri = server.uri.replace("://", f"://me:{HEAD}{TAIL}@")
        with everything_logged() as logged, open_source(uri, changes.append) as source:
            thread = threading.Thread(target=lambda: list(source))
            thread.start()
            server.kill()
            server.user = ("me", "another")
            server.start()
            while changes[-1].code is not Failure.AUTH:
                time.sleep(0.01)
            texts = [source.name, repr(source), str(source)]
        thread.join(5)
    assert_hidden(*texts, *map(repr, changes), *logged, *capfd.readouterr())


CHILD = """
import sys
from solo_edge.video.source import open_source
open_source(sys.stdin.readline().strip())
"""


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_traceback_of_a_whole_process_shows_no_secret(closed_port, scheme):
    uri = f"{scheme}://me:{HEAD}{TAIL}@127.0.0.1:{closed_port}/cam?token={HEAD}{TAIL}"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", CHILD],
        input=uri, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "SourceFailure" in done.stderr
    assert "Traceback" in done.stderr
    assert_hidden(done.stdout, done.stderr)
