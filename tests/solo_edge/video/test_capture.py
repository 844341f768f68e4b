"""Streams and files through PyAV, from servers on loopback."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import socket
import threading
import time

import pytest

from solo_edge.errors import DataError, ResourceError, SourceError
from solo_edge.video import capture, reader
from solo_edge.video.clock import now
from solo_edge.video.failures import SourceFailure, failure_of
from solo_edge.video.source import open_source
from solo_edge.video.states import Failure

KINDS = ["MjpegServer", "RtspServer"]


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def web_server(data):
    """A web server with one file, parts of which can be asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(data[start:])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/a"
        finally:
            server.shutdown()
            thread.join(5)


@pytest.mark.parametrize("kind", [*KINDS, "H264RtspServer"])
def test_a_live_stream(servers, kind):
    with getattr(servers, kind)() as server, open_source(server.uri) as source:
        assert source.live
        assert source.size == servers.SIZE
        assert source.frame_count is None
        # Motion JPEG over HTTP tells neither times nor a rate.
        assert source.fps == {"MjpegServer": None, "RtspServer": 25.0}.get(kind, source.fps)
        begin_s = now()
        numbers, frames = [], []
        for frame in source:
            frames.append(frame)
            numbers.append(servers.number_of(frame.image))
            if now() - begin_s > 1.5:
                break
    assert numbers == list(range(numbers[0], numbers[0] + len(frames)))
    lasted_s = (len(frames) - 1) / server.fps
    assert frames[-1].timestamp_s - frames[0].timestamp_s == pytest.approx(lasted_s, abs=0.2)
    assert all(b.captured_s > a.captured_s for a, b in itertools.pairwise(frames))


def test_a_stream_with_a_long_way_between_key_pictures_plays_at_once(servers):
    """What is read to find out what the stream is must not be thrown away: it has the key picture."""
    with servers.RtspServer(key_every=100) as server, open_source(server.uri) as source:
        frame = next(iter(source))
        assert servers.number_of(frame.image) == 0
        assert server.next_number < 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_password_that_is_right(servers, kind):
    with (
        getattr(servers, kind)(user=("me", "right")) as server,
        open_source(server.uri.replace("://", "://me:right@")) as source,
    ):
        assert source.name == server.uri.replace("://", "://***@")
        assert next(iter(source)).index == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "auth"), (403, "auth"), (404, "not_found"), (400, "not_found"), (500, "gone")],
)
def test_what_servers_answer(servers, kind, status, code):
    with (
        getattr(servers, kind)(status=status) as server,
        pytest.raises(SourceError, match=rf"\({code}\)") as caught,
    ):
        open_source(server.uri)
    assert caught.value.code is Failure(code)
    assert caught.value.__context__ is None
    assert len(server.requests) <= 2


@pytest.mark.parametrize("scheme", ["rtsp", "http", "rtmp"])
def test_nobody_listens(scheme):
    with pytest.raises(SourceError, match=r"connection refused \(gone\)"):
        open_source(f"{scheme}://127.0.0.1:{closed_port()}/cam")


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_no_such_host(scheme):
    with pytest.raises(SourceError, match=r"no such host \(not_found\)"):
        open_source(f"{scheme}://no-such-host.invalid/cam")


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin_s = now()
        with pytest.raises(SourceError, match=r"no answer in time \(timeout\)"):
            open_source(f"http://127.0.0.1:{listener.getsockname()[1]}/cam")
    assert now() - begin_s < 5


def test_an_opening_that_cannot_be_interrupted_is_given_up(servers, monkeypatch):
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 3.0)
    monkeypatch.setattr(reader, "OPEN_PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        begin_s = now()
        with pytest.raises(SourceError, match=r"\(timeout\)"):
            open_source(f"http://127.0.0.1:{listener.getsockname()[1]}/cam")
        assert now() - begin_s < 2
        left = [t for t in threading.enumerate() if t.name == "solo-edge source"]
        assert len(left) == 1
        left[0].join(10)


def test_a_web_page_is_no_video():
    with (
        web_server(b"<html>Please log in</html>" * 100) as uri,
        pytest.raises(SourceError, match=r"\(decode\)"),
    ):
        open_source(uri)


def test_a_file_on_a_web_server_is_read_once(tmp_path, make_video):
    data = make_video(tmp_path / "a.mp4", frames=7).read_bytes()
    changes = []
    with web_server(data) as uri, open_source(uri, changes.append) as source:
        assert not source.live
        assert (source.frame_count, source.fps) == (7, 10.0)
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(7))
    assert [frame.timestamp_s for frame in frames] == pytest.approx([i / 10 for i in range(7)])
    assert [change.state.value for change in changes] == ["playing", "ended"]


def test_a_picture_on_a_web_server_is_read_once(servers):
    with web_server(servers.jpeg(5)) as uri, open_source(uri) as source:
        (frame,) = source
    assert servers.number_of(frame.image) == 5


def test_a_slow_reader_of_a_web_file_gets_everything(tmp_path, make_video):
    data = make_video(tmp_path / "a.mp4", frames=30).read_bytes()
    with web_server(data) as uri, open_source(uri) as source:
        time.sleep(0.6)
        assert [frame.index for frame in source] == list(range(30))
        assert source.skipped == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TimeoutError(110, "x"), Failure.TIMEOUT),
        (ConnectionRefusedError(111, "x"), Failure.GONE),
        (ConnectionResetError(104, "x"), Failure.GONE),
        (BrokenPipeError(32, "x"), Failure.GONE),
        (OSError(5, "x"), Failure.GONE),
        (OSError(16, "x"), Failure.GONE),
        (OSError(113, "x"), Failure.TIMEOUT),
        (OSError(101, "x"), Failure.TIMEOUT),
        (FileNotFoundError(2, "x"), Failure.NOT_FOUND),
        (OSError(19, "x"), Failure.NOT_FOUND),
        (PermissionError(13, "x"), Failure.AUTH),
        (OSError("x"), Failure.GONE),
    ],
)
def test_errors_of_the_system(error, code):
    failure = failure_of(error, "camera", playing=False)
    assert isinstance(failure, SourceFailure)
    assert failure.code is code
    assert str(failure).startswith("camera: ")
    assert f"({code.value})" in str(failure)


def test_errors_while_playing():
    assert failure_of(TimeoutError(110, "x"), "a", playing=True).code is Failure.STALLED
    assert failure_of(OSError(19, "x"), "a", playing=True).code is Failure.GONE


def test_a_protocol_that_pyav_does_not_know():
    import av

    error = av.error.ProtocolNotFoundError(1, "x")
    assert isinstance(failure_of(error, "rtmp://a", playing=False), ResourceError)


def test_every_error_of_ffmpeg_has_a_code():
    import av

    for name in dir(av.error):
        kind = getattr(av.error, name)
        if not (isinstance(kind, type) and issubclass(kind, av.error.FFmpegError)):
            continue
        for playing in (False, True):
            error = failure_of(kind(1, "a secret", "a secret"), "camera", playing=playing)
            assert "secret" not in str(error)
            assert isinstance(error, (SourceFailure, ResourceError))


def test_a_file_that_is_no_video_is_a_data_error(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match="no video") as caught:
        open_source(tmp_path / "a.mp4")
    assert "decode" not in str(caught.value)
