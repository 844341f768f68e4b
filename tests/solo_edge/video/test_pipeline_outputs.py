"""What a stream writes: videos, pictures, JSON Lines, and which of them for which source."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest

from solo_edge.errors import UsageError
from solo_edge.instances import Instances
from solo_edge.video.pipeline import stream
from solo_edge.video.states import Failure, SourceState, StateChange
from solo_edge.video.writers import JsonLinesSink, polygons

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_video_and_json_lines(tmp_path, make_video, frames_in, fixed_engine):
    path = make_video(tmp_path / "in.mp4", frames=40, size=(46, 62))
    report = stream(
        fixed_engine(), str(path), save=tmp_path / "out.mp4", json_path=tmp_path / "out.jsonl"
    )
    assert {"draw", "write", "json"} <= report.stages.keys()
    frames = frames_in(tmp_path / "out.mp4")
    assert len(frames) == 40
    # Masks are in the upper left and the lower right quarter.
    upper_right, upper_left = frames[3][20:22, 45:60], frames[3][20:22, 4:20]
    assert upper_right.mean() == pytest.approx(35, abs=6)
    assert abs(upper_left.mean(axis=(0, 1)) - 35).max() > 30

    lines = read_lines(tmp_path / "out.jsonl")
    assert [line["frame"] for line in lines] == list(range(40))
    assert list(lines[5]) == [
        "source", "frame", "timestamp_s", "age_ms", "stage_ms", "size", "detections",
    ]  # fmt: skip
    assert lines[5]["source"] == str(path)
    assert lines[5]["timestamp_s"] == pytest.approx(0.5)
    assert lines[5]["age_ms"] >= 0
    assert lines[5]["stage_ms"]["network"] == 2.0
    assert lines[5]["size"] == [46, 62]
    first = lines[5]["detections"][0]
    assert (first["image_id"], first["category_id"]) == (5, 9)
    assert first["bbox"] == [0, 0, 31, 23]
    assert first["segmentation"]["size"] == [46, 62]
    assert "polygons" not in first


def test_files_of_earlier_streams_are_replaced(tmp_path, make_video, fixed_engine):
    path, outputs = make_video(tmp_path / "in.mp4"), {"save": tmp_path / "out.mp4"}
    outputs["json_path"] = tmp_path / "out.jsonl"
    for frames in (9, 5):
        stream(fixed_engine(), str(path), max_frames=frames, **outputs)
    assert len(read_lines(outputs["json_path"])) == 5


def test_polygons_on_request(tmp_path, make_video, fixed_engine):
    path, lines = make_video(tmp_path / "in.mp4", size=(48, 64)), tmp_path / "out.jsonl"
    stream(fixed_engine(), str(path), json_path=lines, polygons=True, max_frames=2)
    found = read_lines(lines)[0]["detections"]
    assert sorted(zip(*[iter(found[1]["polygons"][0])] * 2, strict=True)) == [
        (32.0, 24.0), (32.0, 47.0), (63.0, 24.0), (63.0, 47.0),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="--json"):
        stream(fixed_engine(), str(path), polygons=True)


def test_polygons_of_parts_and_of_nothing():
    masks = np.zeros((2, 20, 30), dtype=bool)
    masks[0, 2:6, 3:9] = masks[0, 10:15, 20:30] = True
    found = Instances(np.ones(2), np.zeros(2), masks, class_names=("a",), image_size=(20, 30))
    parts, nothing = polygons(found)
    assert len(parts) == 2
    assert {min(part[::2]) for part in parts} == {3.0, 20.0}
    assert nothing == []


def test_several_sources_have_numbered_files(tmp_path, fixed_engine, camera, frames_in):
    def sources():
        return [
            camera(
                frames=3 + i, live=False, ends=True, name=f"camera {i}", sizes=((48, 64 + 2 * i),)
            )
            for i in range(3)
        ]

    lines = tmp_path / "out.jsonl"
    stream(fixed_engine(), sources(), save=tmp_path / "out.mp4", json_path=lines)
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [
        "out-0.mp4", "out-1.mp4", "out-2.mp4",
    ]  # fmt: skip
    for index in range(3):
        frames = frames_in(tmp_path / f"out-{index}.mp4")
        assert len(frames) == 3 + index
        assert frames[0].shape == (48, 64 + 2 * index, 3)
    written = read_lines(lines)
    for index in range(3):
        own = [line["frame"] for line in written if line["source"] == f"camera {index}"]
        assert own == list(range(3 + index))

    stream(fixed_engine(), sources(), save=tmp_path / "pictures")
    assert sorted(path.name for path in (tmp_path / "pictures-2").iterdir()) == [
        f"{number:06}.jpg" for number in range(5)
    ]


def test_frames_as_pictures(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4", frames=3)
    stream(fixed_engine(), str(path), save=tmp_path / "frames")
    names = sorted(p.name for p in (tmp_path / "frames").iterdir())
    assert names == ["000000.jpg", "000001.jpg", "000002.jpg"]


def test_a_live_video_plays_at_the_pace_of_the_source(tmp_path, fixed_engine, camera):
    source = camera(interval_s=0.01)
    stream(fixed_engine(delay_s=0.03), source, save=tmp_path / "out.mp4", max_frames=10)
    with av.open(str(tmp_path / "out.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times[-1] - times[0] > 0.5 * 9 * 0.03  # not 9 frames at the 100 per second it declares


def test_a_changing_size_is_letterboxed(tmp_path, frames_in, fixed_engine, camera):
    source = camera(sizes=((48, 64), (64, 48), (30, 31)))
    report = stream(fixed_engine(), source, save=tmp_path / "out.mp4", max_frames=9)
    frames = frames_in(tmp_path / "out.mp4")
    assert len(frames) == report.processed == 9
    assert {frame.shape for frame in frames} == {(48, 64, 3)}


def test_a_size_that_is_known_late(tmp_path, frames_in, fixed_engine, camera):
    source = camera(frames=5, live=False, ends=True)
    source.size = (0, 0)
    stream(fixed_engine(), source, save=tmp_path / "out.mp4")
    assert {frame.shape for frame in frames_in(tmp_path / "out.mp4")} == {(48, 64, 3)}


def test_the_input_is_never_written_over(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4")
    before = path.read_bytes()
    (tmp_path / "again.mp4").symlink_to(path)
    for save in (path, tmp_path / "again.mp4"):
        with pytest.raises(UsageError, match=r"input|did not make"):
            stream(fixed_engine(), str(path), save=save)
    with pytest.raises(UsageError, match=r"input|did not make"):
        stream(fixed_engine(), str(path), json_path=path)
    with pytest.raises(UsageError, match="two files"):
        stream(fixed_engine(), str(path), save=tmp_path / "x.mp4", json_path=tmp_path / "x.mp4")
    assert path.read_bytes() == before


def test_an_input_of_ours_is_never_written_over(tmp_path, make_video, fixed_engine):
    """That we made it ourselves does not matter."""
    ours, json_path = tmp_path / "ours-1.mp4", tmp_path / "earlier.jsonl"
    stream(fixed_engine(), str(make_video(tmp_path / "in.mp4")), save=ours, json_path=json_path)
    before, lines = ours.read_bytes(), json_path.read_bytes()
    with pytest.raises(UsageError, match="input"):
        stream(fixed_engine(), str(ours), save=ours, json_path=json_path)
    with pytest.raises(UsageError, match="input"):
        stream(fixed_engine(), [str(tmp_path / "in.mp4"), str(ours)], save=tmp_path / "ours.mp4")
    assert ours.read_bytes() == before
    assert json_path.read_bytes() == lines


def test_outputs_are_checked_before_the_first_frame(tmp_path, make_video, fixed_engine):
    path = make_video(tmp_path / "in.mp4")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "out-1.mp4").write_text("mine")
    engine = fixed_engine()
    for wrong in ({"save": tmp_path / "a.avi"}, {"json_path": tmp_path / "notes.txt"}):
        with pytest.raises(UsageError):
            stream(engine, str(path), **wrong)
    with pytest.raises(UsageError, match=r"out-1\.mp4"):
        stream(engine, [str(path), str(path)], save=tmp_path / "out.mp4")
    assert engine.means == []
    assert (tmp_path / "out-1.mp4").read_text() == "mine"


def test_an_error_leaves_complete_files(tmp_path, frames_in, fixed_engine, camera):
    for live in (True, False):
        source = camera(live=live, interval_s=0.02)
        outputs = {"save": tmp_path / "out.mp4", "json_path": tmp_path / "out.jsonl"}
        with pytest.raises(RuntimeError, match="the network broke"):
            stream(fixed_engine(fail_at=9), source, **outputs)
        assert len(frames_in(tmp_path / "out.mp4")) == 9
        assert len(read_lines(tmp_path / "out.jsonl")) == 9


def test_lines_tell_of_a_source_that_was_lost(tmp_path):
    """And the file is still known as ours if that is how it begins."""
    path = tmp_path / "out.jsonl"
    changes = [
        (SourceState.OPENING, None), (SourceState.WAITING, Failure.STALLED),
        (SourceState.OPENING, None), (SourceState.WAITING, Failure.NOT_FOUND),
        (SourceState.PLAYING, None), (SourceState.PLAYING, None), (SourceState.ENDED, None),
    ]  # fmt: skip
    for _ in range(2):
        with JsonLinesSink(path, None, with_polygons=False, with_events=False) as sink:
            for state, code in changes:
                sink.source_changed(0, StateChange("rtsp://***@x/y", state, code, "text", 1.0, 1))
    told = [(line["state"], line["code"]) for line in read_lines(path)]
    assert told == [("waiting", "stalled"), ("waiting", "not_found"), ("playing", None)]
    assert all(line["detections"] == [] for line in read_lines(path))
