"""Whatever fails, wherever: the caller hears of it, files are complete, counts exact, threads gone."""

from __future__ import annotations

import time

import pytest

from solo_edge.errors import DataError, SourceError, UsageError
from solo_edge.video.base import Frame, Source
from solo_edge.video.pipeline import stream

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def count_frames(monkeypatch):
    """The tallies of the streams to come, for counts of a stream that raises."""
    from solo_edge.video import feed

    tallies = []

    class Kept(feed.Tally):
        def __init__(self, name):
            super().__init__(name)
            tallies.append(self)

    monkeypatch.setattr(feed, "Tally", Kept)
    return tallies


def assert_exact(tallies):
    assert tallies
    for tally in tallies:
        report = tally.report(None, whole=False, error=None)
        assert report.captured == report.processed + report.dropped
        assert report.captured > 0


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("stage", ["start", "finish", "draw", "sink"])
def test_an_error_in_a_stage(stage, live, monkeypatch, fixed_engine, camera, collector):
    from solo_edge import draw

    tallies, drawn = count_frames(monkeypatch), []
    engine, sink, message = fixed_engine(), collector(overlay=True), "broke"
    if stage == "start":
        engine = fixed_engine(fail_at=9)
    elif stage == "finish":
        engine = fixed_engine(fail_finish_at=9)
    elif stage == "draw":
        real = draw.draw_instances

        def draw_nine(*args, **options):
            drawn.append(1)
            if len(drawn) == 10:
                raise RuntimeError("the pencil broke")
            return real(*args, **options)

        monkeypatch.setattr(draw, "draw_instances", draw_nine)
    else:
        sink, message = collector(fail_at=9, overlay=True), "disk is full"
    second = collector()
    with pytest.raises((RuntimeError, OSError), match=message):
        stream(engine, camera(live=live, interval_s=0.005), sinks=[sink, second])
    # What was behind the failure got there, unless something newer took its place.
    assert len(sink.results) == len(second.results) <= 9
    assert len(sink.results) == 9 or (live and len(sink.results) >= 5)
    assert sink.indexes() == sorted(sink.indexes())
    assert sink.closed == second.closed == 1
    assert_exact(tallies)


def test_an_error_in_the_middle_of_a_batch(monkeypatch, fixed_engine, camera, collector):
    tallies, sink = count_frames(monkeypatch), collector()
    engine = fixed_engine(batch_size=3, fail_at=31)
    sources = [camera(live=False, name=str(i)) for i in range(3)]
    with pytest.raises(RuntimeError, match="the network broke"):
        stream(engine, sources, sinks=[sink])
    assert sum(engine.batches) == len(sink.results) > 20
    assert_exact(tallies)


def test_the_first_error_is_told(fixed_engine, camera, collector):
    engine = fixed_engine(fail_at=9)
    with pytest.raises(RuntimeError, match="the network broke"):
        stream(engine, camera(live=False), sinks=[collector(fail_close=True)])


def test_an_error_while_files_are_completed(fixed_engine, camera, collector):
    sinks = [collector(), collector(fail_close=True), collector()]
    with pytest.raises(OSError, match="disk is gone"):
        stream(fixed_engine(), camera(frames=5, live=False, ends=True), sinks=sinks)
    assert [sink.closed for sink in sinks] == [1, 1, 1]
    assert [len(sink.results) for sink in sinks] == [5, 5, 5]


@pytest.mark.parametrize("callback", ["on_status", "on_state"])
def test_an_error_of_a_callback(callback, fixed_engine, camera, collector):
    def raise_it(value):
        raise KeyError("mine")

    sink = collector()
    with pytest.raises(KeyError, match="mine"):
        stream(fixed_engine(), camera(), sinks=[sink], status_every_s=0.05, **{callback: raise_it})
    assert sink.closed == 1


def test_sinks_are_closed_when_nothing_opens(tmp_path, fixed_engine, collector):
    sink = collector()
    with pytest.raises(UsageError):
        stream(fixed_engine(), str(tmp_path / "none.mp4"), sinks=[sink])
    assert sink.closed == 1


def test_sources_that_do_not_open(tmp_path, fixed_engine):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "empty.mp4").touch()
    for name, error in (("bad.mp4", DataError), ("empty.mp4", DataError), ("no.mp4", UsageError)):
        with pytest.raises(error):
            stream(fixed_engine(), str(tmp_path / name), save=tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


# Several sources


def test_one_of_three_dies_and_the_others_go_on(fixed_engine, camera, collector):
    sink, changes = collector(), []
    sources = [
        camera(frames=60, interval_s=0.005, ends=True, name="left"),
        camera(frames=10, interval_s=0.005, name="middle"),
        camera(frames=60, interval_s=0.005, ends=True, name="right"),
    ]
    report = stream(
        fixed_engine(batch_size=3), sources, sinks=[sink], policy="all", on_state=changes.append
    )
    assert [source.error is None for source in report.sources] == [True, False, True]
    assert "went away" in report.sources[1].error
    assert [source.processed for source in report.sources] == [60, 10, 60]
    assert (report.captured, report.processed, report.dropped) == (130, 130, 0)
    for index in (0, 2):
        assert sink.indexes(index) == list(range(60))
    ended = {change.source: change.code for change in changes if change.state == "ended"}
    assert ended["left"] is ended["right"] is None
    assert ended["middle"] is not None


def test_one_that_does_not_open_does_not_stop_the_others(tmp_path, make_video, fixed_engine):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    good = make_video(tmp_path / "good.mp4", frames=12)
    report = stream(fixed_engine(), [str(tmp_path / "bad.mp4"), str(good)])
    assert "bad.mp4" in report.sources[0].error
    assert report.sources[0].source.endswith("bad.mp4")
    assert (report.sources[0].captured, report.sources[1].processed) == (0, 12)
    # What is mistyped would never work.
    with pytest.raises(UsageError, match="no such file"):
        stream(fixed_engine(), [str(tmp_path / "none.mp4"), str(good)])


def test_all_sources_fail(fixed_engine, camera):
    report = stream(fixed_engine(), [camera(frames=3, name="a"), camera(frames=3, name="b")])
    assert all(source.error for source in report.sources)
    with pytest.raises(SourceError, match="went away"):
        stream(fixed_engine(), [camera(frames=3)])


def test_sources_share_the_engine_fairly(fixed_engine, camera, collector):
    """A source with few frames never waits for one with many, nor the other way round."""
    engine, sink = fixed_engine(delay_s=0.02, batch_size=2), collector()
    sources = [camera(interval_s=0.002, name=str(i)) for i in range(4)]
    report = stream(engine, sources, max_frames=15, sinks=[sink])
    assert [source.processed for source in report.sources] == [15] * 4
    assert max(engine.batches) == 2
    order = [result.source_index for result in sink.results][:32]
    assert all(6 <= order.count(index) <= 10 for index in range(4))


def test_a_batch_does_not_wait_for_a_silent_source(fixed_engine, camera):
    engine = fixed_engine(batch_size=2)
    silent = camera(frames=1, hang_s=0.4, ends=True, name="silent")
    lively = camera(frames=40, interval_s=0.005, ends=True, name="lively")
    report = stream(engine, [silent, lively], policy="all")
    assert [source.processed for source in report.sources] == [1, 40]
    assert engine.batches.count(1) > 20


def test_a_slow_file_and_a_camera_side_by_side(fixed_engine, camera, collector):
    """Each keeps its own policy."""
    sink = collector()
    file = camera(frames=20, live=False, ends=True, name="file")
    live = camera(frames=100, interval_s=0.005, ends=True, name="live")
    report = stream(fixed_engine(delay_s=0.015), [file, live], sinks=[sink])
    assert sink.indexes(0) == list(range(20))
    assert report.sources[0].dropped == 0
    assert report.sources[1].dropped > 0
    assert report.captured == report.processed + report.dropped == 120


# Stopping


class Hanging(Source):
    """Takes `hang_s` for each read and does not notice that it was closed."""

    def __init__(self, hang_s):
        super().__init__()
        self.name, self.live, self.fps, self.frame_count = "hanging", True, None, None
        self.size, self.hang_s, self.released = (8, 8), hang_s, False

    def _read(self):
        import numpy as np

        for index in range(100):
            time.sleep(self.hang_s)
            yield Frame(np.zeros((8, 8, 3), np.uint8), index, float(index))

    def _release(self):
        super()._release()
        self.released = True


def test_an_engine_that_hangs_does_not_hold_up_the_end(
    monkeypatch, fixed_engine, camera, collector
):
    from solo_edge.video import pipeline

    monkeypatch.setattr(pipeline, "DRAIN_S", 0.2)
    tallies, sink = count_frames(monkeypatch), collector()

    def stop(statuses):
        raise KeyError("enough")

    start = time.perf_counter()
    with pytest.raises(KeyError):
        stream(
            fixed_engine(delay_s=2.5), camera(), sinks=[sink], on_status=stop, status_every_s=0.1
        )
    assert time.perf_counter() - start < 2.0
    assert sink.closed == 1  # although the network still runs
    time.sleep(2.5)
    assert_exact(tallies)


def test_a_source_that_hangs_is_left_to_itself(fixed_engine):
    def stop(statuses):
        raise KeyError("enough")

    start = time.perf_counter()
    with Hanging(2.0) as source, pytest.raises(KeyError):
        stream(fixed_engine(), source, on_status=stop, status_every_s=0.1)
    assert time.perf_counter() - start < 1.8
    time.sleep(2.0)
    assert source.released
