from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image

from solo_edge.errors import ResourceError, UsageError
from solo_edge.video import sink
from solo_edge.video.sink import (
    ImageWriter,
    JsonLinesWriter,
    VideoWriter,
    check_output,
    letterbox,
    write_image,
)


def picture(level, size=(48, 64)):
    return np.full((*size, 3), level, dtype=np.uint8)


@pytest.fixture(params=["best encoder", "mpeg4"])
def encoders(request, monkeypatch):
    if request.param == "mpeg4":
        monkeypatch.setattr(sink, "ENCODERS", sink.ENCODERS[-1:])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_every_frame_is_in_the_video(tmp_path, frames_in, suffix, encoders):
    path = tmp_path / f"sub folder/a:b{suffix}"
    with VideoWriter(path, 25, (48, 64)) as writer:
        for i in range(30):
            writer.write(picture(5 * i))
    frames = frames_in(path)
    assert [frame.mean() for frame in frames] == pytest.approx(5 * np.arange(30), abs=3)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == 25
        assert container.duration / 1e6 == pytest.approx(30 / 25, abs=0.05)


def test_h264_is_preferred(tmp_path):
    if "libx264" not in av.codecs_available:
        pytest.skip("this PyAV has no libx264")
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 64)) as writer:
        writer.write(picture(9))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_odd_sizes_keep_their_pixels(tmp_path, frames_in):
    image = picture(30, (47, 63))
    image[:, 32:] = 200
    with VideoWriter(tmp_path / "a.mp4", 25, (47, 63)) as writer:
        writer.write(image)
    (frame,) = frames_in(tmp_path / "a.mp4")
    assert frame.shape == (48, 64, 3)
    assert np.abs(frame[:47, :63].astype(int) - image).mean() < 4
    assert abs(int(frame[-1, -1, 0]) - 200) < 10  # repeated, not black


def test_another_size_is_letterboxed(tmp_path, frames_in):
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 64)) as writer:
        writer.write(picture(200))
        writer.write(picture(200, (96, 64)))  # tall: bars left and right
        writer.write(picture(200, (10, 200)))
    _, tall, wide = frames_in(tmp_path / "a.mp4")
    assert tall.shape == wide.shape == (48, 64, 3)
    assert tall[:, 26:38].mean() > 190
    assert tall[:, :10].mean() < 10
    assert wide[:16].mean() < 10


def test_times_are_kept_and_never_go_back(tmp_path):
    with VideoWriter(tmp_path / "a.mkv", 25, (48, 64)) as writer:
        for at in (0.0, 0.5, 0.5, 0.2, 2.0):
            writer.write(picture(9), at)
    with av.open(str(tmp_path / "a.mkv")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([0.0, 0.5, 0.5, 0.5, 2.0], abs=0.003)


def test_letterbox_returns_an_image_that_fits():
    image = picture(7)
    assert letterbox(image, (48, 64)) is image
    assert letterbox(picture(7, (1, 3000)), (48, 64)).shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["a.avi", "a", "a.mp5"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(UsageError, match=r"use \.mp4 or \.mkv"):
        VideoWriter(tmp_path / name, 25, (48, 64))
    assert list(tmp_path.iterdir()) == []


def test_no_permission(tmp_path):
    blocker = tmp_path / "file"
    blocker.touch()
    for make in (lambda p: VideoWriter(p, 25, (48, 64)), JsonLinesWriter):
        with pytest.raises(ResourceError):
            make(blocker / "a.mp4")  # as root, only a missing folder stops us
    assert blocker.stat().st_size == 0


def test_no_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(sink, "ENCODERS", (("no such encoder", {}),))
    with pytest.raises(ResourceError, match="no encoder"):
        VideoWriter(tmp_path / "a.mp4", 25, (48, 64))
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_is_listed_but_does_not_open_is_passed_over(tmp_path, monkeypatch):
    broken = ("libx264", {"preset": "no such preset"})
    monkeypatch.setattr(sink, "ENCODERS", (broken, *sink.ENCODERS[-1:]))
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 64)) as writer:
        writer.write(picture(9))
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"


def test_a_video_without_frames_is_removed(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 25, (48, 64)) as writer:
        pass
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_only_our_own_files_are_replaced(tmp_path, make_video):
    image = picture(9)

    def video(path):
        with VideoWriter(path, 25, (48, 64)) as writer:
            writer.write(image)

    def lines(path):
        with JsonLinesWriter(path) as writer:
            writer.write({"frame": 0, "detections": []})

    def pictures(folder):
        ImageWriter(folder).write(image)

    cases = {
        "a.mp4": video, "a.mkv": video, "a.jsonl": lines,
        "a.jpg": lambda path: (check_output(path), write_image(path, image)),
        "a.png": lambda path: (check_output(path), write_image(path, image)),
    }  # fmt: skip
    for name, write in cases.items():
        path = tmp_path / name
        path.touch()  # an empty file is nobody's
        write(path)
        write(path)
        first = path.read_bytes()
        for foreign in (
            b"somebody's data",
            b'{"a": 1}\n',
            first[:20] + first[20:].replace(b"s", b"z"),
        ):
            path.write_bytes(foreign)
            if name.endswith(".jsonl") and b'"detections"' in foreign:
                continue
            with pytest.raises(UsageError, match="did not make"):
                write(path)
            assert path.read_bytes() == foreign

    make_video(tmp_path / "holiday.mp4")
    before = (tmp_path / "holiday.mp4").read_bytes()
    with pytest.raises(UsageError, match="did not make"):
        video(tmp_path / "holiday.mp4")
    assert (tmp_path / "holiday.mp4").read_bytes() == before

    pictures(tmp_path / "frames")
    pictures(tmp_path / "frames")
    assert [p.name for p in (tmp_path / "frames").iterdir()] == ["000000.jpg"]
    Image.fromarray(image).save(tmp_path / "frames/000000.jpg")
    with pytest.raises(UsageError, match="did not make"):
        pictures(tmp_path / "frames")


def test_inputs_and_folders_are_never_replaced(tmp_path):
    path = tmp_path / "a.jpg"
    write_image(path, picture(9))
    (tmp_path / "link.jpg").symlink_to(path)
    check_output(path)
    for other in (path, tmp_path / "link.jpg"):
        with pytest.raises(UsageError, match="input"):
            check_output(other, [tmp_path / "x", path])
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        ImageWriter(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg"])
def test_pictures(tmp_path, suffix):
    image = np.random.default_rng(0).integers(0, 256, (33, 21, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(image, 8, 0), 8, 1)
    path = tmp_path / f"a{suffix}"
    write_image(path, image)
    error = np.abs(np.asarray(Image.open(path)).astype(int) - image)
    assert error.max() == 0 if suffix == ".png" else error.mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_pictures_of_unknown_suffix(tmp_path):
    with pytest.raises(UsageError, match="not written as"):
        write_image(tmp_path / "a.gif", picture(9))
    assert list(tmp_path.iterdir()) == []


def test_lines_are_there_at_once(tmp_path):
    path = tmp_path / "sub/a.jsonl"
    values = [{"frame": i, "detections": [], "name": "ü\n"} for i in range(3)]
    with JsonLinesWriter(path) as writer:
        for i, value in enumerate(values):
            writer.write(value)
            assert path.read_bytes().count(b"\n") == i + 1
        with pytest.raises(ValueError, match="JSON compliant"):
            writer.write({"score": float("nan")})
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == values


WRITE_UNTIL_KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from solo_edge.video import sink
from solo_edge.video.sink import JsonLinesWriter, VideoWriter
if sys.argv[3] == "mpeg4":
    sink.ENCODERS = sink.ENCODERS[-1:]
rng = np.random.default_rng(0)
table = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
with VideoWriter(Path(sys.argv[1]), 25, (240, 320)) as video, JsonLinesWriter(Path(sys.argv[2])) as lines:
    for i in range(10_000):
        image = table // 4 + np.uint8(i % 150)
        video.write(image)
        lines.write({"frame": i, "detections": []})
        print(i + 1, flush=True)
"""


@pytest.mark.parametrize(
    ("suffix", "encoder"), [(".mp4", "h264"), (".mkv", "h264"), (".mp4", "mpeg4")]
)
def test_a_kill_costs_a_fifth_of_a_second_at_most(tmp_path, frames_in, suffix, encoder):
    video, lines = tmp_path / f"a{suffix}", tmp_path / "a.jsonl"
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(video), str(lines), encoder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        written = 0
        while written < 60:
            written = int(process.stdout.readline())
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        written = int(process.stdout.read().split()[-1])
        process.wait(10)
    frames = frames_in(video)
    assert written >= 60
    # Five frames are a fifth of a second, and two or three are on their way.
    assert written - 8 <= len(frames) <= written + 1
    levels = [frame.mean() for frame in frames]
    assert np.diff(levels[:100]).min() > 0  # the right frames, in order
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert written <= len(records) <= written + 1
    assert [record["frame"] for record in records] == list(range(len(records)))


FILL_THE_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from solo_edge.errors import ResourceError
from solo_edge.video.sink import JsonLinesWriter, VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
rng = np.random.default_rng(0)
try:
    if sys.argv[2] == "lines":
        with JsonLinesWriter(Path(sys.argv[1])) as writer:
            for i in range(100_000):
                writer.write({"frame": i, "detections": []})
    else:
        with VideoWriter(Path(sys.argv[1]), 25, (96, 128)) as writer:
            for i in range(2000):
                writer.write(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8))
except ResourceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "kind"), [("a.mp4", "video"), ("a.mkv", "video"), ("a.jsonl", "lines")]
)
def test_a_full_disk_is_told(tmp_path, name, kind):
    command = [sys.executable, "-c", FILL_THE_DISK, str(tmp_path / name), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert "disk is full" in done.stdout
