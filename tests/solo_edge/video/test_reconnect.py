"""Live sources against servers that are killed, frozen and started again."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import SourceError
from solo_edge.video import reader, reconnect
from solo_edge.video.clock import now
from solo_edge.video.connection import Connection, DamagedError, Picture, Piece
from solo_edge.video.failures import SourceFailure
from solo_edge.video.reconnect import LiveSource
from solo_edge.video.source import open_source
from solo_edge.video.states import Failure, SourceState

RECOVERY_S = 2.0  # promised, of 95 %, from the moment at which a server accepts again
DECLARED_S = 3.0  # promised, for a source that has fallen silent
KINDS = ["MjpegServer", "RtspServer"]


def resources():
    """Threads and descriptors of this process."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def wait_until(condition, timeout_s=10.0):
    end_s = now() + timeout_s
    while not condition():
        assert now() < end_s, "it did not happen in time"
        time.sleep(0.01)


class Viewer:
    """Takes the frames of a source and checks each: sent by the server, in order, on time."""

    def __init__(self, source, servers):
        self.source, self.number_of = source, servers.number_of
        self.frames = iter(source)
        self.count, self.last_s, self.numbers = 0, -1.0, []

    def look(self):
        frame = next(self.frames)
        number = self.number_of(frame.image)
        assert number is not None, "a picture that nobody sent"
        assert frame.index == self.count
        assert frame.timestamp_s > self.last_s
        assert frame.captured_s <= now()
        self.count, self.last_s = self.count + 1, frame.timestamp_s
        self.numbers.append(number)
        return frame

    def look_until(self, condition):
        while not condition(frame := self.look()):
            pass
        return frame


def outage(server, viewer, lasts_s):
    """Kill the server and start it again. Returns how long the first frame took once it accepted."""
    server.kill()
    killed_s = now()
    timer = threading.Timer(lasts_s, server.start)
    timer.start()
    frame = viewer.look_until(lambda frame: server.accepting_s > killed_s < frame.captured_s)
    timer.join()
    viewer.look_until(lambda frame: frame.captured_s > server.accepting_s + 0.3)
    assert frame.captured_s > server.accepting_s
    return frame.captured_s - server.accepting_s


def check_outages(server, source, servers, changes, outages_s):
    """Survive outages; nothing may be left over. Returns the times of recovery."""
    viewer = Viewer(source, servers)
    recoveries = [outage(server, viewer, outages_s[0])]
    before = resources()
    recoveries += [outage(server, viewer, lasts_s) for lasts_s in outages_s[1:]]
    wait_until(lambda: server.connected == 1)
    wait_until(lambda: resources() <= before)
    assert sorted(recoveries)[int(0.95 * (len(recoveries) - 1))] <= RECOVERY_S
    playing = [change for change in changes if change.state is SourceState.PLAYING]
    assert len(playing) == len(outages_s) + 1
    assert {change.code for change in changes} <= {None, Failure.GONE}
    # One change for each failure, and one for each recovery.
    assert len(changes) == 2 * len(outages_s) + 1
    steps = np.diff(viewer.numbers)
    assert np.all((steps > 0) | (steps < -1000)), "a picture came twice, or late"
    return recoveries


@pytest.mark.parametrize("kind", KINDS)
def test_recovery_from_outages(servers, kind):
    changes = []
    with (
        getattr(servers, kind)() as server,
        open_source(server.uri, changes.append) as source,
    ):
        check_outages(server, source, servers, changes, [0.3, 1.0, 1.0])
        assert source.state is SourceState.PLAYING
    assert source.state is SourceState.ENDED


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_recovery_from_long_outages(servers, kind):
    changes = []
    with (
        getattr(servers, kind)() as server,
        open_source(server.uri, changes.append) as source,
    ):
        times = check_outages(
            server, source, servers, changes, [*[1.0] * 10, *[5.0] * 10, *[60.0] * 3]
        )
    print(f"{kind}: recovered after", *(f"{seconds:.2f}" for seconds in sorted(times)), "s")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_outages_leave_nothing_behind(servers, kind):
    changes = []
    with (
        getattr(servers, kind)() as server,
        open_source(server.uri, changes.append) as source,
    ):
        times = check_outages(server, source, servers, changes, [0.2] * 100)
    print(f"{kind}: recovered after {min(times):.2f} to {max(times):.2f} s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_source_is_declared_and_comes_back(servers, kind):
    changes = []
    with (
        getattr(servers, kind)() as server,
        open_source(server.uri, changes.append) as source,
    ):
        viewer = Viewer(source, servers)
        for _ in range(10):
            viewer.look()
        before = resources()
        server.frozen.set()
        frozen_s = now()
        timer = threading.Timer(3.2, server.frozen.clear)
        timer.start()
        for _ in range(30):
            viewer.look()
        timer.join()
        waiting = next(change for change in changes if change.state is SourceState.WAITING)
        assert waiting.code is Failure.STALLED
        assert 2.0 < waiting.at_s - frozen_s <= DECLARED_S
        wait_until(lambda: server.connected == 1 and resources() <= before)
    assert [change.state.value for change in changes] == ["playing", "waiting", "playing", "ended"]


def test_who_reads_too_slowly_gets_the_newest(servers):
    with servers.MjpegServer(fps=100) as server, open_source(server.uri) as source:
        viewer = Viewer(source, servers)
        behind = []
        for _ in range(6):
            time.sleep(0.4)
            viewer.look()
            behind.append(server.next_number - 1 - viewer.numbers[-1])
        assert np.median(behind) < 5  # of the 40 that were sent meanwhile
        assert source.skipped > 100
    assert viewer.numbers[-1] + 1 >= viewer.count + source.skipped


def test_nothing_is_skipped_of_a_live_source_if_all_is_kept(servers):
    with servers.RtspServer(fps=50) as server, open_source(server.uri) as source:
        source.keep_all = True
        viewer = Viewer(source, servers)
        for step in range(60):
            time.sleep(0.3 if step % 20 == 0 else 0.0)
            viewer.look()
    assert viewer.numbers == list(range(viewer.numbers[0], viewer.numbers[0] + 60))
    assert source.skipped == 0


def test_another_size_in_the_middle_loses_no_frame(servers):
    def size(number):
        return (64, 128) if number // 20 % 2 == 0 else (96, 256)

    with servers.MjpegServer(size=size) as server, open_source(server.uri) as source:
        source.keep_all = True
        viewer = Viewer(source, servers)
        sizes = [viewer.look().image.shape[:2] for _ in range(60)]
    assert viewer.numbers == list(range(60))
    assert sizes == [size(number) for number in range(60)]
    assert source.size == (64, 128)
    assert source.damaged == 0


def test_a_wrong_password_is_an_error_at_once_and_is_not_tried_again_soon(servers):
    with servers.RtspServer(user=("me", "right")) as server:
        with pytest.raises(SourceError, match=r"\(auth\)") as caught:
            open_source(server.uri.replace("://", "://me:wrong@"))
        assert caught.value.exit_code == 5
        asked = len(server.requests)
        changes = []
        uri = server.uri.replace("://", "://me:wrong@")
        with open_source(uri, changes.append, retry_first=True) as source:
            thread = threading.Thread(target=lambda: list(source))
            thread.start()
            wait_until(lambda: source.state is SourceState.WAITING)
            time.sleep(1.5)
            assert len(server.requests) == 2 * asked
        thread.join(2)
        assert not thread.is_alive()
    assert [change.code for change in changes] == [Failure.AUTH, None]
    assert reader.AUTH_RETRY_S >= 30.0


def test_a_password_that_is_corrected_on_the_camera(servers, monkeypatch):
    monkeypatch.setattr(reader, "AUTH_RETRY_S", 0.2)
    with (
        servers.MjpegServer(user=("me", "new")) as server,
        open_source(server.uri.replace("://", "://me:old@"), retry_first=True) as source,
    ):
        threading.Timer(0.5, setattr, (server, "user", ("me", "old"))).start()
        assert next(iter(source)).index == 0


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (503, "gone")])
def test_a_stream_that_is_not_there_at_first(servers, status, code):
    changes = []
    with servers.MjpegServer(status=status) as server:
        with pytest.raises(SourceError, match=rf"\({code}\)"):
            open_source(server.uri)
        with open_source(server.uri, changes.append, retry_first=True) as source:
            assert (source.size, source.state) == ((0, 0), SourceState.OPENING)
            threading.Timer(0.7, setattr, (server, "status", None)).start()
            assert next(iter(source)).index == 0
            assert source.size == servers.SIZE
    assert [change.code for change in changes] == [Failure(code), None, None]
    assert changes[1].attempt >= 2


def test_closing_while_it_waits_or_connects(servers):
    server = servers.MjpegServer()
    server.start()
    for begin in (lambda: server.kill(), lambda: server.frozen.set()):
        source = open_source(server.uri)
        thread = threading.Thread(target=lambda source=source: list(source))
        thread.start()
        begin()
        wait_until(lambda source=source: source.state is SourceState.WAITING)
        time.sleep(0.4)
        begin_s = now()
        source.close()
        thread.join(5)
        assert now() - begin_s < 0.5
        assert source.state is SourceState.ENDED
        if not server.frozen.is_set():
            server.start()
    server.kill()


def test_many_sources_leave_no_thread_behind(servers):
    with servers.MjpegServer() as server:
        before = resources()
        for _ in range(5):
            with open_source(server.uri) as source:
                assert next(iter(source)).index == 0
        wait_until(lambda: not server.connected and resources() <= before)


# Without a server: what no real one does on demand.


class Driver(Connection):
    """A device that hangs in its read, until somebody lets it go, and opens only once."""

    open_now = 0

    def __init__(self, pictures, released):
        Driver.open_now += 1
        assert Driver.open_now == 1, "it was opened twice"
        self.pictures, self.released = pictures, released

    def read(self):
        if self.pictures == 0:
            self.released.wait(30)
            raise SourceFailure(Failure.GONE, "it let go", where="")
        self.pictures -= 1
        return Piece(self.pictures, 1, True, now())

    def decode(self, piece, *, wanted):
        return [Picture(np.zeros((8, 8, 3), np.uint8) if wanted else None, None, now())]

    def close(self):
        Driver.open_now -= 1


def test_a_driver_that_hangs_is_left_alone_until_it_lets_go(monkeypatch):
    monkeypatch.setattr(reader, "STALL_S", 0.2)
    released, changes = threading.Event(), []
    before = threading.active_count()
    with LiveSource("camera", lambda _: Driver(3, released), on_state=changes.append) as source:
        threading.Timer(1.5, released.set).start()
        frames = []
        most = 0
        for frame in source:
            frames.append(frame)
            most = max(most, threading.active_count() - before)
            if len(frames) == 6:
                break
        assert most <= 3  # the reader, the one that waits for it, the timer
        assert [frame.index for frame in frames] == list(range(6))
        assert frames[3].timestamp_s >= 1.0
    codes = [change.code for change in changes if change.state is SourceState.WAITING]
    assert codes == [Failure.STALLED]
    wait_until(lambda: threading.active_count() == before)


class Garbage(Driver):
    """Sends what cannot be decoded."""

    def read(self):
        time.sleep(0.02)
        return Piece(0, 1, True, now())

    def decode(self, piece, *, wanted):
        raise DamagedError


def test_what_cannot_be_decoded_is_given_up(monkeypatch):
    monkeypatch.setattr(reconnect, "DECODE_PATIENCE_S", 0.3)
    with pytest.raises(SourceFailure, match=r"camera: .*\(decode\)"):
        LiveSource("camera", lambda _: Garbage(0, threading.Event()))


def test_a_mistake_of_ours_is_not_retried():
    def broken(stopped):
        raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError):
        LiveSource("camera", broken, retry_first=False)


def test_the_pauses_grow_to_a_limit():
    backoff = reader.Backoff(0.25, 4.0)
    assert [backoff.next() for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    backoff.reset()
    assert backoff.next() == 0.25


def test_a_source_is_opened_as_soon_as_somebody_answers():
    opened, attempts = [], itertools.count()

    def opener(stopped):
        opened.append(now())
        if next(attempts) < 5:
            raise SourceFailure(Failure.GONE, "connection refused", where="")
        return Driver(1, stopped)

    there_s = now() + 1.2

    def knock():
        return None if now() > there_s else SourceFailure(Failure.GONE, "refused", where="")

    attempts = itertools.chain([0], itertools.repeat(9))
    with LiveSource("camera", opener, knock=knock, retry_first=True) as source:
        assert next(iter(source)).index == 0
    assert len(opened) == 2  # nothing was tried while nobody answered
    assert 0.0 <= opened[1] - there_s < 1.0
