from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest

from solo_edge.errors import ResourceError, UsageError
from solo_edge.instances import Instances
from solo_edge.video import clips
from solo_edge.video.base import Frame
from solo_edge.video.recorder import EventRecorder
from solo_edge.video.result import ProcessedFrame

SIZE = (46, 62)
FPS = 10


def found(*labels):
    masks = np.zeros((len(labels), *SIZE), dtype=bool)
    masks[:, 4:9, 4:9] = True
    names = ("cat", "dog / wolf")
    scores = np.ones(len(labels))
    return Instances(scores, np.array(labels, int), masks, class_names=names, image_size=SIZE)


def result(index, labels=(), events=(), source=0, size=SIZE):
    """A frame that is brighter by one level than the one before."""
    image = np.full((*size, 3), 20 + index % 200, dtype=np.uint8)
    frame = Frame(image, index, index / FPS)
    return ProcessedFrame(source, f"camera {source}", frame, found(*labels), tuple(events))


@pytest.fixture
def record(tmp_path):
    """record(results, **options) -> [(description, frames)] of the clips, oldest first."""

    def run(results, *, of_events=False, **options):
        folder = tmp_path / "events"
        with EventRecorder(folder, of_events=of_events, **options) as recorder:
            assert recorder.wants_overlay
            for each in results:
                recorder.write(each)
        return [
            (json.loads(path.read_text()), decode(path)) for path in sorted(folder.glob("*.json"))
        ]

    def decode(description):
        picture = description.with_suffix(".jpg").read_bytes()
        assert picture.startswith(b"\xff\xd8")
        return frames_of(description.with_suffix(".mp4"))

    return run


def frames_of(path):
    """(time, brightness - 20, is a key frame) of each frame."""
    with av.open(str(path)) as container:
        return [
            (frame.time, round(frame.to_ndarray(format="gray").mean()) - 20, frame.key_frame)
            for frame in container.decode(video=0)
        ]


def brightness(frames):
    return [level for _, level, _ in frames]


def check_consecutive(frames, first, last):
    levels = brightness(frames)
    assert levels == pytest.approx(list(range(levels[0], levels[0] + len(levels))), abs=2)
    assert levels[0] == pytest.approx(first, abs=2)
    assert levels[-1] == pytest.approx(last, abs=2)
    times = [at for at, _, _ in frames]
    assert times == pytest.approx(np.arange(len(times)) / FPS, abs=1e-3)


def test_a_clip_holds_what_was_before_and_after(record):
    results = [result(i, [1] if 50 <= i < 60 else []) for i in range(120)]
    ((description, frames),) = record(results, before_s=2, after_s=3)
    # From the key frame at least two seconds before, to three seconds after the last time it was seen.
    check_consecutive(frames, 30, 89)
    assert frames[0][2]
    assert [round(at) for at, _, is_key in frames if is_key] == list(range(6))
    assert description["source"] == "camera 0"
    assert description["timestamp_s"] == 5.0
    assert description["events"] == [
        {"type": "seen", "class": "dog / wolf", "count": 1, "timestamp_s": 5.0}
    ]
    assert description["clip"].endswith("Z-0-seen-dog_wolf.mp4")


def test_what_happens_soon_after_prolongs_the_clip(record):
    seen = {10: [0], 25: [0, 0], 90: [1]}
    results = [result(i, seen.get(i, [])) for i in range(110)]
    (first, frames), (second, _) = record(results, before_s=1, after_s=2)
    check_consecutive(frames, 0, 45)
    assert [(e["class"], e["count"]) for e in first["events"]] == [("cat", 1), ("cat", 2)]
    assert [e["class"] for e in second["events"]] == ["dog / wolf"]


def test_a_long_event_becomes_several_clips(record):
    made = record([result(i, [0]) for i in range(100)], before_s=1, after_s=1, longest_s=4)
    assert len(made) == 3
    for _, frames in made:
        assert len(frames) <= 4 * FPS + 2 * FPS + 1


def test_only_events_start_a_clip_where_there_are_zones(record):
    event = {"type": "enter", "zone": "dock", "class": "cat", "timestamp_s": 3.0}
    results = [result(i, [0], [event] if i == 30 else []) for i in range(60)]
    ((description, _),) = record(results, of_events=True, before_s=1, after_s=1)
    assert description["events"] == [event]
    assert description["clip"].endswith("-0-enter-dock.mp4")


def test_every_source_has_its_own_clips(record):
    both = [result(i, [s] if i == 20 else [], source=s) for i in range(40) for s in (0, 1)]
    made = record(both, before_s=1, after_s=1)
    assert sorted(description["source"] for description, _ in made) == ["camera 0", "camera 1"]


def test_another_size_is_fitted_in(record):
    results = [
        result(i, [0] if i == 10 else [], size=SIZE if i < 15 else (23, 31)) for i in range(30)
    ]
    ((_, frames),) = record(results, before_s=1, after_s=1)
    check_consecutive(frames, 0, 20)


def test_a_nearly_full_disk_stops_the_recording_and_nothing_else(record, monkeypatch, caplog):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    with caplog.at_level(logging.WARNING):
        assert record([result(i, [0]) for i in range(50)]) == []
    assert [each.message.count("nearly full") for each in caplog.records] == [1]


def test_a_clip_that_cannot_be_written_is_given_up(record, monkeypatch, caplog):
    add, calls = clips.Clip.add, []

    def fail_once(clip, *packet):
        calls.append(packet)
        if len(calls) == 15:
            raise ResourceError("the disk is full", where=clip.path)
        add(clip, *packet)

    monkeypatch.setattr(clips.Clip, "add", fail_once)
    with caplog.at_level(logging.WARNING):
        made = record([result(i, [0]) for i in range(50)], before_s=1, after_s=1)
    assert [each.message.count("the disk is full") for each in caplog.records] == [1]
    ((_, frames),) = made  # of the frames after that
    check_consecutive(frames, 0, 49)


def test_the_folder_must_be_one(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        EventRecorder(tmp_path / "file", of_events=True)
    assert (tmp_path / "file").read_text() == "mine"


KILLED = """
import sys, time
from pathlib import Path
from test_recorder import EventRecorder, result

recorder = EventRecorder(Path(sys.argv[1]), of_events=False, before_s=1)
for i in range(10_000):
    recorder.write(result(i, [0]))
    print(i, flush=True)
    time.sleep(0.005)
"""


def test_what_was_written_before_a_kill_can_be_played(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        for line in process.stdout:
            if int(line) == 60:
                break
        process.send_signal(signal.SIGKILL)
        last = 60 + len(process.stdout.read().splitlines())
    (clip,) = tmp_path.glob("*.mp4")
    time.sleep(0.1)
    frames = frames_of(clip)
    assert last + 1 - len(frames) <= FPS  # a second at most
    check_consecutive(frames, 0, len(frames) - 1)
