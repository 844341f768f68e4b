"""Cameras on loopback that can be killed, frozen and started again: motion JPEG, and RTSP.

Both send pictures with a number that survives compression, so that a test can tell which picture
came, and that it is none that nobody sent.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import re
import socket
import struct
import threading
import time

import av
import numpy as np

SIZE = (64, 128)  # height, width: 16 bars of 8 pixels, one for each bit
BITS = 16


def numbered(number: int, size=SIZE) -> np.ndarray:
    """A picture that shows a number: bit by bit, dark or bright, and half of it inverted as a check."""
    height, width = size
    bits = (number >> np.arange(BITS)) & 1
    levels = np.where(np.repeat(bits, width // BITS), 220, 40).astype(np.uint8)
    picture = np.full((height, width, 3), 128, dtype=np.uint8)
    picture[: height // 2, : len(levels)] = levels[:, None]
    picture[height // 2 :, : len(levels)] = 260 - levels[:, None].astype(int)
    return picture


def number_of(image: np.ndarray) -> int | None:
    """The number in a picture; None if it is no picture of ours."""
    height, width = image.shape[:2]
    step = width // BITS
    columns = np.arange(BITS) * step + step // 2
    upper = image[height // 4, columns].mean(axis=1)
    lower = image[3 * height // 4, columns].mean(axis=1)
    if not (np.abs(upper + lower - 260) < 60).all() or not (np.abs(upper - lower) > 100).all():
        return None
    return int(((upper > lower) << np.arange(BITS)).sum())


@functools.lru_cache(maxsize=4096)
def jpeg(number: int, size=SIZE) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(numbered(number, size)).save(file, "JPEG", quality=85)
    return file.getvalue()


class Server:
    """Accepts connections on loopback, one thread each.

    Args:
        fps: pictures per second.
        user: (name, password) that is asked for.
        status: refuse every request with this code.
    """

    def __init__(self, *, fps: float = 30.0, user=None, status: int | None = None):
        self.fps, self.user, self.status = fps, user, status
        self.port = 0
        self.frozen = threading.Event()  # connections stay open and silent
        self.requests: list[bytes] = []
        self.accepting_s = 0.0  # since when it accepts
        self.next_number = 0  # of the picture that is sent next, to whomever
        self.limit: int | None = None  # end the stream after so many pictures
        self._lock = threading.Lock()
        self._running = threading.Event()
        self._listener: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._running.set()
        self.accepting_s = time.perf_counter()
        self._threads = [threading.Thread(target=self._accept, args=(self._listener,))]
        self._threads[0].start()

    def kill(self) -> None:
        """Close everything, as the end of a process does."""
        self._running.clear()
        with self._lock:
            for connection in [self._listener, *self._connections]:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()
            self._connections.clear()
        for thread in self._threads:
            thread.join(10)

    @property
    def connected(self) -> int:
        with self._lock:
            return len(self._connections)

    def _accept(self, listener) -> None:
        while self._running.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                if not self._running.is_set():
                    connection.close()
                    return
                self._connections.add(connection)
            thread = threading.Thread(target=self._serve_one, args=(connection,))
            self._threads = [t for t in self._threads if t.is_alive()] + [thread]
            thread.start()

    def _serve_one(self, connection) -> None:
        try:
            with contextlib.suppress(OSError):
                self.serve(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()

    def request(self, connection) -> bytes:
        """The next request up to its empty line; b"" when the client has gone."""
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            if not byte:
                break
            if not data and byte == b"$":  # RTCP of the client between its requests
                _, length = struct.unpack(">BH", connection.recv(3, socket.MSG_WAITALL))
                connection.recv(length, socket.MSG_WAITALL)
                continue
            data += byte
        if data:
            self.requests.append(data)
        return data

    def send_pictures(self, send) -> None:
        """Call `send(number)` at the pace of the camera."""
        due_s, sent = time.perf_counter(), 0
        while self._running.is_set() and sent != self.limit:
            while self.frozen.is_set() and self._running.is_set():
                time.sleep(0.01)
                due_s = time.perf_counter()
            with self._lock:
                number, self.next_number = self.next_number, (self.next_number + 1) % (1 << BITS)
            send(number)
            sent += 1
            due_s += 1.0 / self.fps
            time.sleep(max(0.0, due_s - time.perf_counter()))

    def serve(self, connection) -> None:
        raise NotImplementedError


class MjpegServer(Server):
    """Motion JPEG over HTTP, as IP cameras send it.

    Args:
        size: of the picture with this number.
    """

    def __init__(self, *, size=lambda number: SIZE, **options):
        super().__init__(**options)
        self.size = size

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}/cam"

    def serve(self, connection) -> None:
        request = self.request(connection)
        if not request:
            return
        if self.user is not None:
            expected = b"Basic " + base64.b64encode(":".join(self.user).encode())
            if expected not in request:
                head = b'HTTP/1.0 401 No\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n'
                connection.sendall(head)
                return
        if self.status is not None:
            connection.sendall(f"HTTP/1.0 {self.status} No\r\nContent-Length: 0\r\n\r\n".encode())
            return
        kind = b"multipart/x-mixed-replace; boundary=x"
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: " + kind + b"\r\n\r\n")

        def send(number):
            data = jpeg(number, self.size(number))
            head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data + b"\r\n")

        self.send_pictures(send)


@functools.lru_cache(maxsize=8)
def encoded(kind: str, count: int, fps: int, key_every: int, size=SIZE) -> list[bytes]:
    """The bytes of each picture, as "mpegts" or "h264" (Annex B); picture i shows the number i."""
    file = io.BytesIO()
    pieces, begin = [], 0
    options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1"}
    with av.open(file, "w", format=kind, options={"flush_packets": "1"}) as container:
        video = container.add_stream("libx264", rate=fps, options=options)
        video.height, video.width, video.pix_fmt = *size, "yuv420p"
        video.gop_size = key_every
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number, size), format="rgb24")
            container.mux(video.encode(frame))
            pieces.append(file.getvalue()[begin:])
            begin += len(pieces[-1])
    return pieces


class RtspServer(Server):
    """RTSP with RTP in the same connection (RFC 2326 10.12): H.264 in MPEG-TS (RFC 2250).

    Args:
        key_every: pictures from one key picture to the next.
        count: pictures after which it begins again.
    """

    payload, kind, description = 33, "mpegts", ()

    def __init__(self, *, key_every: int = 10, count: int = 3000, fps: int = 25, **options):
        super().__init__(fps=fps, **options)
        self.stream = encoded(self.kind, count, fps, key_every)
        self.key_every = key_every

    def packets(self, data: bytes) -> list[bytes]:
        """The payloads of the RTP packets of a picture."""
        return [data[begin : begin + 7 * 188] for begin in range(0, len(data), 7 * 188)]

    @property
    def uri(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/cam"

    def serve(self, connection) -> None:
        playing = None
        while request := self.request(connection).decode():
            method, number = request.split()[0], re.search(r"(?i)CSeq: *(\d+)", request)[1]
            status, head, body = self._answer(method, request)
            lines = [f"RTSP/1.0 {status}", f"CSeq: {number}", *head]
            if body:
                lines += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
            connection.sendall("\r\n".join([*lines, "", body]).encode())
            if method == "TEARDOWN":
                return
            if method == "PLAY" and status.startswith("200") and playing is None:
                playing = threading.Thread(target=self._play, args=(connection,))
                with self._lock:
                    self._threads.append(playing)
                playing.start()

    def _answer(self, method: str, request: str):
        if method == "OPTIONS":
            return "200 OK", ["Public: DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"], ""
        if self.status is not None:
            return f"{self.status} No", [], ""
        if self.user is not None and not self._knows(request, method):
            return "401 Unauthorized", ['WWW-Authenticate: Digest realm="cam", nonce="abc"'], ""
        session = ["Session: 1;timeout=60"]
        if method == "DESCRIBE":
            lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=cam", "t=0 0"]
            lines += [
                f"m=video 0 RTP/AVP {self.payload}",
                *self.description,
                "a=control:track1",
                "",
            ]
            return "200 OK", [], "\r\n".join(lines)
        if method == "SETUP":
            return "200 OK", [*session, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"], ""
        return "200 OK", session, ""

    def _knows(self, request: str, method: str) -> bool:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', request))
        if not {"username", "uri", "response"} <= fields.keys():
            return False

        def digest(text):
            return hashlib.md5(text.encode()).hexdigest()

        mine = digest(f"{self.user[0]}:cam:{self.user[1]}")
        asked = digest(f"{method}:{fields['uri']}")
        return (fields["username"], fields["response"]) == (
            self.user[0],
            digest(f"{mine}:abc:{asked}"),
        )

    def _play(self, connection) -> None:
        sequence, waiting = 0, True

        def send(number):
            nonlocal sequence, waiting
            position = number % len(self.stream)
            waiting = waiting and position % self.key_every != 0
            if waiting:  # decoding can only begin with a key picture
                return
            stamp = round(90000 * position / self.fps) & 0xFFFFFFFF
            parts = self.packets(self.stream[position])
            for part in parts:
                marker = 0x80 * (part is parts[-1])
                header = struct.pack(
                    ">BBHII", 0x80, self.payload | marker, sequence & 0xFFFF, stamp, 7
                )
                sequence += 1
                connection.sendall(
                    struct.pack(">BBH", 0x24, 0, len(header) + len(part)) + header + part
                )

        with contextlib.suppress(OSError):
            self.send_pictures(send)


class H264RtspServer(RtspServer):
    """The same with bare H.264 (RFC 6184), which most IP cameras send."""

    payload, kind = 96, "h264"
    description = ("a=rtpmap:96 H264/90000", "a=fmtp:96 packetization-mode=1")

    def packets(self, data):
        packets = []
        for unit in re.split(rb"\x00\x00\x00?\x01", data)[1:]:
            if len(unit) <= 1400:
                packets.append(unit)
                continue
            head, body = unit[0], unit[1:]
            for begin in range(0, len(body), 1400):  # FU-A
                first, last = begin == 0, begin + 1400 >= len(body)
                kind = bytes([head & 0xE0 | 28, 0x80 * first | 0x40 * last | head & 0x1F])
                packets.append(kind + body[begin : begin + 1400])
        return packets
