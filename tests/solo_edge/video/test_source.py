from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import threading
import time
import traceback

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from solo_edge.errors import DataError, SourceError, UsageError
from solo_edge.video import capture
from solo_edge.video.base import Frame, Source
from solo_edge.video.capture import OpenCvCamera
from solo_edge.video.source import is_image_source, open_source, redact


def test_a_video_gives_all_frames_in_order(tmp_path, make_video):
    path = make_video(tmp_path / "a:b [1] ü.mp4", frames=12)
    with open_source(path) as source:
        assert not source.live
        assert source.size == (48, 64)
        assert source.fps == 10.0
        assert source.frame_count == 12
        assert source.files == (path,)
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(12) / 10)
    means = [frame.image.mean() for frame in frames]
    assert means == pytest.approx(20 + 5 * np.arange(12), abs=3)
    assert all(f.image.dtype == np.uint8 and f.image.shape == (48, 64, 3) for f in frames)
    assert source.damaged == 0


def test_frames_are_rgb(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (64, 48), (250, 10, 30)).save(path)
    (frame,) = open_source(path)
    assert frame.image[5, 5].tolist() == [250, 10, 30]


@pytest.mark.parametrize(
    ("name", "count", "size"),
    [
        ("intel_car-detection.mp4", None, (432, 768)),
        ("intel_preview_person-bicycle-car-detection.avi", 41, (270, 480)),
    ],
)
def test_real_videos(shared, name, count, size):
    with open_source(str(shared / "data/videos" / name)) as source:
        assert (source.size, source.fps, source.live) == (size, 12.5, False)
        frames = 0
        for frame in source:
            frames += 1
            assert frame.image.shape == (*size, 3)
            if count is None and frames == 20:
                break
    assert frames == (count or 20)


def set_rotation(path, degrees_clockwise):
    """Write a display matrix into the track header, as telephones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    one = 0x10000
    matrix = {
        90: (0, one, 0, -one, 0, 0),
        180: (-one, 0, 0, 0, -one, 0),
        270: (0, -one, 0, one, 0, 0),
    }[degrees_clockwise]
    data[at : at + 24] = struct.pack(">6i", *matrix)
    path.write_bytes(data)


@pytest.mark.parametrize(("clockwise", "corner"), [(90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_rotation_is_undone(tmp_path, clockwise, corner):
    import av

    path = tmp_path / "turned.mp4"
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:16, :16] = 255  # upper left corner, before turning
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
    set_rotation(path, clockwise)
    with open_source(path) as source:
        (frame,) = source
    assert source.size == frame.image.shape[:2] == ((48, 64) if clockwise == 180 else (64, 48))
    corners = {(y, x): frame.image[y, x].mean() for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=corners.get) == corner


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        open_source(tmp_path / "none.mp4")
    (tmp_path / "link.mp4").symlink_to("nowhere")
    with pytest.raises(UsageError, match="points to"):
        open_source(tmp_path / "link.mp4")


def test_empty_file(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(DataError, match="empty"):
        open_source(tmp_path / "a.mp4")


def test_corrupt_files(tmp_path, make_video):
    (tmp_path / "junk.mp4").write_bytes(b"this is not a video" * 400)
    whole = make_video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # the index is at the end
    for name in ("junk.mp4", "cut.mp4"):
        with pytest.raises(DataError) as caught:
            open_source(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 3


def test_audio_is_no_video(tmp_path):
    import av

    sound = np.zeros((1, 8000), dtype=np.int16)
    for name, codec in (("a.wav", "pcm_s16le"), ("a.mkv", "pcm_s16le")):
        with av.open(str(tmp_path / name), "w") as container:
            audio = container.add_stream(codec, rate=8000)
            audio.layout = "mono"
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.sample_rate = 8000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
        with pytest.raises(DataError, match="no video"):
            open_source(tmp_path / name)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(UsageError, match="no images"):
        open_source(tmp_path)


def test_unreadable_file(tmp_path, monkeypatch, make_video):
    path = make_video(tmp_path / "a.mp4")

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)  # root may read everything
    with pytest.raises(DataError, match="Permission denied"):
        open_source(path)


def test_damage_in_the_middle_costs_only_itself(tmp_path):
    import av

    path = tmp_path / "a.avi"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mjpeg", rate=10)
        video.height, video.width, video.pix_fmt = 48, 64, "yuvj420p"
        for _ in range(20):
            noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(video.encode(None))
    data = bytearray(path.read_bytes())
    middle = data.index(b"\xff\xd8", len(data) // 2)  # a picture starts here
    data[middle : middle + 800] = b"\x55" * 800
    path.write_bytes(data)
    with open_source(path) as source:
        frames = list(source)
    assert source.damaged == 1
    assert [frame.index for frame in frames] == list(range(19))


def test_a_playlist_cannot_reach_the_network(tmp_path):
    with listening_server(lambda connection: connection.close()) as (port, requests):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n"
        (tmp_path / "a.mp4").write_text(playlist)
        (tmp_path / "a.m3u8").write_text(playlist)
        for name in ("a.mp4", "a.m3u8"):
            with pytest.raises(DataError):
                open_source(tmp_path / name)
    assert requests == []


def test_images_as_frames(tmp_path):
    for name, size in (("10.png", (30, 20)), ("2.jpg", (40, 50))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / name)
    for uri in (str(tmp_path), str(tmp_path / "*")):
        with open_source(uri) as source:
            assert (source.size, source.frame_count, source.live) == ((50, 40), 2, False)
            frames = list(source)
        assert [frame.image.shape[:2] for frame in frames] == [(50, 40), (20, 30)]
        assert [frame.timestamp_s for frame in frames] == [0.0, 0.1]


def test_what_counts_as_images(tmp_path, make_video):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", format="PNG")
    video = make_video(tmp_path / "video.mp4")
    for uri in (tmp_path / "picture", tmp_path, "x/*.jpg"):
        assert is_image_source(uri)
    for uri in (video, "0", "/dev/video0", "rtsp://host/a.jpg", "test://", tmp_path / "no.mp4"):
        assert not is_image_source(uri)


def test_the_rendered_scene_is_reproducible():
    uri = "test://?frames=3&size=96x64&fps=20&seed=5"
    first, second = list(open_source(uri)), list(open_source(uri))
    assert [frame.timestamp_s for frame in first] == [0.0, 0.05, 0.1]
    for a, b in zip(first, second, strict=True):
        assert a.image.shape == (64, 96, 3)
        np.testing.assert_array_equal(a.image, b.image)
    assert (first[0].image != first[2].image).any()
    other = next(iter(open_source("test://?frames=1&size=96x64&seed=6")))
    assert (other.image != first[0].image).any()


def test_the_live_scene_keeps_its_pace():
    with open_source("test://?frames=4&size=64x64&fps=20&live=1") as source:
        assert source.live
        start = time.perf_counter()
        assert len(list(source)) == 4
    assert time.perf_counter() - start >= 3 / 20


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("test://?frame=3", "did you mean 'frames'"),
        ("test://?frames=0", "must be positive"),
        ("test://?frames=many", "malformed"),
        ("test://?size=64", "malformed"),
        ("test://?size=8x8", "64x64"),
        ("test://?fps=nan", "must be positive"),
        ("test://?live=yes", "malformed"),
        ("rstp://host/x", "did you mean 'rtsp'"),
        ("csi://0", "unknown kind"),
    ],
)
def test_mistyped_addresses(uri, message):
    with pytest.raises(UsageError, match=message):
        open_source(uri)


def test_a_camera_that_is_not_there():
    with pytest.raises(SourceError, match="no such camera") as caught:
        open_source(987)
    assert caught.value.where.endswith("987")
    assert caught.value.exit_code == 5


def test_opencv_camera_until_it_goes_away(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", frames=5)
    with OpenCvCamera(cv2.VideoCapture(str(path)), "camera 0") as camera:
        assert (camera.live, camera.fps, camera.size) == (True, 10.0, (48, 64))
        frames = []
        with pytest.raises(SourceError, match="went away"):
            frames.extend(camera)
        assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
        assert frames[0].timestamp_s == 0.0
        assert sorted(f.timestamp_s for f in frames) == [f.timestamp_s for f in frames]


def test_opencv_camera_without_a_picture(tmp_path):
    with pytest.raises(SourceError, match="no picture"):
        OpenCvCamera(cv2.VideoCapture(str(tmp_path / "none")), "camera 0")


# Network

# Not written out where a traceback would quote the line.
SECRET = "s3cret"
TOKEN = "t0ken"


@contextlib.contextmanager
def listening_server(answer):
    """A TCP server that passes each connection to `answer`; yields its port and the requests seen."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    stop, requests, threads = threading.Event(), [], []

    def serve(connection):
        with connection:
            requests.append(connection.recv(4096))
            with contextlib.suppress(OSError):
                answer(connection)

    def accept():
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1], requests
    finally:
        stop.set()
        for each in [thread, *threads]:
            each.join(5)
        listener.close()


def jpeg(level):
    return cv2.imencode(".jpg", np.full((48, 64, 3), level, dtype=np.uint8))[1].tobytes()


def motion_jpeg(count):
    """Answer with a stream of `count` pictures, as IP cameras send it."""

    def answer(connection):
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
        )
        for i in range(count):
            data = jpeg(20 + 5 * i)
            head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data + b"\r\n")
            time.sleep(0.01)

    return answer


def test_a_network_stream_that_ends_is_an_error():
    with listening_server(motion_jpeg(20)) as (port, _):
        uri = f"http://me:{SECRET}@127.0.0.1:{port}/cam"
        with open_source(uri) as source:
            assert source.live
            assert source.size == (48, 64)
            assert source.name == f"http://***@127.0.0.1:{port}/cam"
            frames = []
            with pytest.raises(SourceError, match=r"ended|cannot be read") as caught:
                frames.extend(source)
    assert len(frames) == 20
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_file_on_a_web_server_is_not_live(tmp_path, make_video):
    data = make_video(tmp_path / "a.mp4", frames=7).read_bytes()

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
            with open_source(f"http://127.0.0.1:{server.server_port}/a.mp4") as source:
                assert not source.live
                assert len(list(source)) == 7
        finally:
            server.shutdown()
            thread.join(5)


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_nobody_listens(scheme):
    uri = f"{scheme}://me:{SECRET}@127.0.0.1:{closed_port()}/cam?token={TOKEN}"
    with pytest.raises(SourceError, match="refused") as caught:
        open_source(uri)
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text
    assert TOKEN not in text
    assert "\n" not in str(caught.value)


def test_wrong_password():
    def answer(connection):
        connection.sendall(b'HTTP/1.0 401 No\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n')

    with (
        listening_server(answer) as (port, _),
        pytest.raises(SourceError, match="access refused") as caught,
    ):
        open_source(f"http://me:{SECRET}@127.0.0.1:{port}/cam")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_server_that_says_nothing(monkeypatch):
    monkeypatch.setattr(capture, "OPEN_TIMEOUT_S", 0.3)
    monkeypatch.setattr(capture, "READ_TIMEOUT_S", 0.3)
    released = threading.Event()
    with listening_server(lambda connection: released.wait(10)) as (port, _):
        start = time.perf_counter()
        with pytest.raises(SourceError, match="no answer in time"):
            open_source(f"http://127.0.0.1:{port}/cam")
        released.set()
    assert time.perf_counter() - start < 5


def test_a_stream_that_falls_silent(monkeypatch):
    monkeypatch.setattr(capture, "READ_TIMEOUT_S", 0.5)
    released = threading.Event()

    def answer(connection):
        motion_jpeg(20)(connection)
        released.wait(10)

    with listening_server(answer) as (port, _):
        start = time.perf_counter()
        with (
            open_source(f"http://127.0.0.1:{port}/cam") as source,
            pytest.raises(SourceError, match="no answer in time"),
        ):
            list(source)
        released.set()
    assert time.perf_counter() - start < 8


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("rtsp://user:pass@host:554/a?b=1", "rtsp://***@host:554/a?b=1"),
        ("rtsp://user@host/a", "rtsp://***@host/a"),
        ("rtsp://u:p@ss/w#o?rd@host/a", "rtsp://***@host/a"),
        ("http://host/a?user=me&Password=x&z=1", "http://host/a?user=***&Password=***&z=1"),
        ("http://host/a?access_token=x", "http://host/a?access_token=***"),
        ("rtsp://host/a", "rtsp://host/a"),
        ("/home/me@work/video.mp4", "/home/me@work/video.mp4"),
        ("0", "0"),
    ],
)
def test_redaction(uri, shown):
    assert redact(uri) == shown


@given(st.text("abcXYZ059:/?#@&=%!$ü \\\n", min_size=1), st.sampled_from(["rtsp", "http", "RTSP"]))
def test_a_password_never_shows(password, scheme):
    secret = f"<{password}>"
    assert secret not in redact(f"{scheme}://me:{secret}@10.0.0.1:554/stream?x=1")
    assert secret not in redact(f"{scheme}://10.0.0.1/stream?password={secret.replace('&', '')}")


# Closing


class Endless(Source):
    """Counts; a read takes `read_s`."""

    def __init__(self, read_s=0.0):
        super().__init__()
        self.name, self.live, self.fps, self.frame_count = "endless", True, None, None
        self.size, self.read_s, self.released = (8, 8), read_s, 0

    def _read(self):
        index = 0
        while True:
            time.sleep(self.read_s)
            yield Frame(np.zeros((8, 8, 3), dtype=np.uint8), index, 0.0)
            index += 1

    def _release(self):
        super()._release()
        self.released += 1


def test_close_at_once_and_twice():
    source = Endless()
    iterator = iter(source)
    next(iterator)
    source.close()
    source.close()
    assert source.released == 1
    assert list(iterator) == []
    assert list(source) == []


def test_close_while_another_thread_reads():
    source = Endless(read_s=0.2)
    thread = threading.Thread(target=lambda: list(source))
    thread.start()
    time.sleep(0.05)
    source.close()
    assert source.released == 0  # not under the reader's feet
    thread.join(5)
    assert not thread.is_alive()
    assert source.released == 1
