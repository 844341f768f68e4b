from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from solo_edge.errors import DataError, ResourceError, SourceError, UsageError
from solo_edge.video import pipeline
from solo_edge.video.base import Frame, Source
from solo_edge.video.pipeline import check_display, stream


class Camera(Source):
    """A live source of plain frames, `interval_s` apart; fails after `frames` of them."""

    def __init__(self, frames=10_000, interval_s=0.005, sizes=((48, 64),), hang_s=0.0, ends=False):
        super().__init__()
        self.name, self.live, self.fps, self.frame_count = "camera", True, 200.0, None
        self.size, self.sizes, self.ends = sizes[0], sizes, ends
        self.frames, self.interval_s, self.hang_s = frames, interval_s, hang_s
        self.delivered = 0

    def _read(self):
        start = time.perf_counter()
        for index in range(self.frames):
            time.sleep(max(0.0, start + index * self.interval_s - time.perf_counter()))
            size = self.sizes[index % len(self.sizes)]
            self.delivered += 1
            yield Frame(np.full((*size, 3), index % 250, np.uint8), index, index * self.interval_s)
        time.sleep(self.hang_s)
        if not self.ends:
            raise SourceError("the camera went away", where=self.name)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    deadline = time.perf_counter() + 5
    while set(threading.enumerate()) - before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_of_a_file_every_frame_is_worked_on(tmp_path, make_video, frames_in, fixed_engine):
    path = make_video(tmp_path / "in.mp4", frames=40, size=(46, 62))
    engine = fixed_engine(delay_s=0.002)
    report = stream(engine, str(path), save=tmp_path / "out.mp4", json_path=tmp_path / "out.jsonl")
    assert (report.captured, report.processed, report.dropped) == (40, 40, 0)
    assert engine.means == pytest.approx(20 + 5 * np.arange(40), abs=3)
    assert report.instances == 80
    assert report.stopped_by is None
    assert not report.live
    assert report.fps > 0
    assert list(report.stages) == [
        "wait", "preprocess", "network", "postprocess", "draw", "write", "json",
    ]  # fmt: skip
    assert {summary.count for summary in report.stages.values()} == {40}
    assert report.stages["network"].p99_ms == 2.0
    assert report.latency.p50_ms >= 2.0
    assert json.loads(json.dumps(report.to_dict()))["stages"]["network"]["p50_ms"] == 2.0

    frames = frames_in(tmp_path / "out.mp4")
    assert len(frames) == 40
    # Masks are in the upper left and the lower right quarter.
    upper_right, upper_left = frames[3][20:22, 45:60], frames[3][20:22, 4:20]
    assert upper_right.mean() == pytest.approx(35, abs=6)
    assert abs(upper_left.mean(axis=(0, 1)) - 35).max() > 30

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(40))
    assert lines[5]["timestamp_s"] == pytest.approx(0.5)
    assert lines[5]["size"] == [46, 62]
    first = lines[5]["detections"][0]
    assert (first["image_id"], first["category_id"]) == (5, 9)
    assert first["bbox"] == [0, 0, 31, 23]
    assert first["segmentation"]["size"] == [46, 62]


def test_a_slow_consumer_of_a_live_source_gets_the_newest(fixed_engine):
    camera, engine = Camera(), fixed_engine(delay_s=0.05)
    report = stream(engine, camera, max_frames=10)
    assert report.live
    assert report.processed == 10
    assert report.captured == report.processed + report.dropped == camera.delivered
    assert report.dropped > 30  # about nine of ten
    ages = np.diff(engine.means)
    assert np.median(ages) >= 5  # not the next picture of a queue, but one that just came
    # A frame waits for one inference at most, its own comes on top.
    assert report.latency.p50_ms < 2.5 * 1000 / report.fps


def test_counts_are_exact_when_the_source_ends_first(fixed_engine):
    camera = Camera(frames=50, ends=True)
    report = stream(fixed_engine(delay_s=0.02), camera)
    assert report.captured == camera.delivered == 50
    assert report.captured == report.processed + report.dropped


def test_max_frames_of_a_file_reads_no_more(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4", frames=40)
    report = stream(fixed_engine(), str(path), max_frames=7)
    assert (report.captured, report.processed, report.dropped) == (7, 7, 0)
    with pytest.raises(UsageError, match="at least 1"):
        stream(fixed_engine(), str(path), max_frames=0)


def test_an_error_of_the_engine_reaches_the_caller(tmp_path, make_video, frames_in, fixed_engine):
    path = make_video(tmp_path / "in.mp4", frames=40)
    for source in (str(path), Camera()):
        with pytest.raises(RuntimeError, match="the network broke"):
            stream(fixed_engine(fail_at=9), source, save=tmp_path / "out.mp4")
        assert len(frames_in(tmp_path / "out.mp4")) == 9


def test_an_error_of_the_source_comes_after_its_frames(tmp_path, frames_in, fixed_engine):
    engine = fixed_engine()
    with pytest.raises(SourceError, match="went away"):
        stream(engine, Camera(frames=20, interval_s=0.01), save=tmp_path / "out.mkv")
    assert len(frames_in(tmp_path / "out.mkv")) == len(engine.means)
    assert engine.means[-1] == 19


def test_an_error_of_the_observer_reaches_the_caller(monkeypatch, fixed_engine):
    monkeypatch.setattr(pipeline, "STATUS_EVERY_S", 0.0)

    def observe(status):
        raise KeyError(status.processed)

    with pytest.raises(KeyError):
        stream(fixed_engine(), Camera(), on_status=observe)


def test_status_comes_while_it_runs(monkeypatch, fixed_engine):
    monkeypatch.setattr(pipeline, "STATUS_EVERY_S", 0.05)
    seen = []
    stream(fixed_engine(delay_s=0.01), Camera(), max_frames=30, on_status=seen.append)
    assert 2 <= len(seen) < 30
    assert all(status.captured - status.processed - status.dropped in (0, 1) for status in seen)
    assert [s.processed for s in seen] == sorted(s.processed for s in seen)
    assert 0 < seen[-1].fps <= 100
    assert seen[-1].instances == 2


def test_a_changing_size_is_letterboxed(tmp_path, frames_in, fixed_engine):
    camera = Camera(sizes=((48, 64), (64, 48), (30, 31)))
    report = stream(fixed_engine(), camera, save=tmp_path / "out.mp4", max_frames=9)
    frames = frames_in(tmp_path / "out.mp4")
    assert len(frames) == report.processed == 9
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


def test_frames_as_pictures(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4", frames=3)
    stream(fixed_engine(), str(path), save=tmp_path / "frames")
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == ["000000.jpg", "000001.jpg", "000002.jpg"]


def test_a_live_video_plays_at_the_pace_of_the_source(tmp_path, fixed_engine):
    import av

    camera = Camera(interval_s=0.01)
    stream(fixed_engine(delay_s=0.03), camera, save=tmp_path / "out.mp4", max_frames=10)
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times[-1] - times[0] > 0.5 * 9 * 0.03  # not 9 frames at the 200 per second it declares


def test_the_input_is_never_written_over(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4")
    before = path.read_bytes()
    (tmp_path / "again.mp4").symlink_to(path)
    for save in (path, tmp_path / "again.mp4"):
        with pytest.raises(UsageError, match="input"):
            stream(fixed_engine(), str(path), save=save)
    with pytest.raises(UsageError, match="input"):
        stream(fixed_engine(), str(path), json_path=path)
    with pytest.raises(UsageError, match="two files"):
        stream(fixed_engine(), str(path), save=tmp_path / "x.mp4", json_path=tmp_path / "x.mp4")
    assert path.read_bytes() == before


def test_outputs_are_checked_before_the_first_frame(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4")
    (tmp_path / "notes.txt").write_text("mine")
    engine = fixed_engine()
    for wrong in ({"save": tmp_path / "a.avi"}, {"json_path": tmp_path / "notes.txt"}):
        with pytest.raises(UsageError):
            stream(engine, str(path), **wrong)
    assert engine.means == []


def test_sources_that_do_not_open(tmp_path, fixed_engine):
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "empty.mp4").touch()
    for name, error in (("bad.mp4", DataError), ("empty.mp4", DataError), ("no.mp4", UsageError)):
        with pytest.raises(error):
            stream(fixed_engine(), str(tmp_path / name), save=tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_an_open_source_stays_open_and_goes_on(tmp_path, fixed_engine):
    with Camera() as camera:
        stream(fixed_engine(), camera, max_frames=3)
        assert stream(fixed_engine(), camera, max_frames=3).processed == 3
    assert list(camera) == []


def test_a_hanging_read_does_not_hold_up_the_end(monkeypatch, fixed_engine):
    monkeypatch.setattr(pipeline, "END_PATIENCE_S", 0.1)
    camera = Camera(frames=3, interval_s=0.05, hang_s=2.0)
    start = time.perf_counter()
    with camera:
        report = stream(fixed_engine(), camera, max_frames=3)
    assert time.perf_counter() - start < 1.7
    assert report.processed == 3


def test_outside_the_main_thread(make_video, tmp_path, fixed_engine):
    path, reports = make_video(tmp_path / "in.mp4"), []
    run = threading.Thread(target=lambda: reports.append(stream(fixed_engine(), str(path))))
    run.start()
    run.join(10)
    assert reports[0].processed == 12


def build_information(toolkit):
    return f"General configuration\n  GUI: {toolkit}\n    QT: NO\n\n  Media I/O:\n"


def test_show_needs_a_window_and_a_screen(monkeypatch, tmp_path, make_video, fixed_engine):
    import cv2

    monkeypatch.setattr(cv2, "getBuildInformation", lambda: build_information("NONE"))
    engine = fixed_engine()
    with pytest.raises(ResourceError, match="opencv-python"):
        stream(engine, str(tmp_path / "not even looked for"), show=True)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: build_information("GTK3"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ResourceError, match="no screen"):
        check_display()
    monkeypatch.setenv("DISPLAY", ":0")
    check_display()


def test_show_until_the_window_is_left(monkeypatch, fixed_engine):
    import cv2

    shown, keys = [], iter([-1, -1, ord("x"), ord("q")])
    monkeypatch.setattr(pipeline, "check_display", lambda: None)
    monkeypatch.setattr(cv2, "imshow", lambda name, image: shown.append(image))
    monkeypatch.setattr(cv2, "waitKey", lambda delay: next(keys))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda name, number: 1.0)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    report = stream(fixed_engine(), Camera(sizes=((120, 160),)), show=True)
    assert report.stopped_by == "window"
    assert report.processed == 4
    assert shown[-1] == "closed"
    assert shown[3].shape == (120, 160, 3)
    assert "show" in report.stages


UNTIL_A_SIGNAL = """
import sys, time
from pathlib import Path
import numpy as np
from solo_edge.instances import Instances
from solo_edge.runtime.engine import StageTimes
from solo_edge.video import stream

class Engine:
    count = 0
    def run(self, image):
        self.count += 1
        print(self.count, flush=True)
        found = Instances(
            np.ones(1), np.zeros(1, int), np.ones((1, 64, 64), bool), class_names=("a",), image_size=(64, 64)
        )
        return found, StageTimes(1.0, 1.0, 1.0)

folder = Path(sys.argv[1])
report = stream(
    Engine(), f"test://?frames=100000&size=64x64&fps=50&live={sys.argv[2]}",
    save=folder / "out.mp4", json_path=folder / "out.jsonl",
)
assert report.captured == report.processed + report.dropped
print("report", report.stopped_by, report.processed)
"""


@pytest.mark.parametrize(("number", "live"), [(signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_signals_end_it_with_complete_files(tmp_path, frames_in, number, live):
    command = [sys.executable, "-c", UNTIL_A_SIGNAL, str(tmp_path), str(live)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline().strip() != "10":
            assert process.poll() is None
        sent = time.perf_counter()
        os.kill(process.pid, number)
        output, errors = process.communicate(timeout=20)
    assert time.perf_counter() - sent < 5  # two seconds on a machine with nothing else to do
    assert errors == ""
    assert process.returncode == 0
    _, name, processed = output.splitlines()[-1].split()
    assert name == number.name
    assert len(frames_in(tmp_path / "out.mp4")) == int(processed)
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["size"] for line in lines] == [[64, 64]] * int(processed)


def test_a_file_that_was_cut_off_says_how_much_is_missing(shared, tmp_path, fixed_engine):
    """The index at the front of the file announces all frames; most of their bytes are gone."""
    whole = (shared / "data/videos/intel_car-detection.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[:100_000])
    report = stream(fixed_engine(), str(cut))
    assert report.missing > 300
    assert report.captured + report.missing == 377
    assert stream(fixed_engine(), str(cut), max_frames=3).missing == 0


def test_unsure_instances_are_left_out(make_video, tmp_path, fixed_engine):
    video = make_video(tmp_path / "in.mp4", frames=4)
    lines = tmp_path / "found.jsonl"
    report = stream(fixed_engine(), str(video), json_path=lines, min_score=0.7)
    assert report.instances == 4  # one of two in each frame
    assert report.missing == 0
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    scores = [found["score"] for line in written for found in line["detections"]]
    assert scores == pytest.approx([0.9] * 4)
