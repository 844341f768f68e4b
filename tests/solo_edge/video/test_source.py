from __future__ import annotations

import io
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image

from solo_edge.errors import DataError, UsageError
from solo_edge.video.base import Frame, Source
from solo_edge.video.source import is_image_source, open_source
from solo_edge.video.states import SourceState


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


def test_a_playlist_cannot_reach_the_network(tmp_path, servers):
    with servers.MjpegServer() as server:
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{server.uri}\n"
        (tmp_path / "a.mp4").write_text(playlist)
        (tmp_path / "a.m3u8").write_text(playlist)
        for name in ("a.mp4", "a.m3u8"):
            with pytest.raises(DataError):
                open_source(tmp_path / name)
    assert server.requests == []


def test_images_as_frames(tmp_path):
    for name, size in (("10.png", (30, 20)), ("2.jpg", (40, 50))):
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / name)
    for uri in (str(tmp_path), str(tmp_path / "*")):
        with open_source(uri) as source:
            assert (source.size, source.frame_count, source.live) == ((50, 40), 2, False)
            frames = list(source)
        assert [frame.image.shape[:2] for frame in frames] == [(50, 40), (20, 30)]
        assert [frame.timestamp_s for frame in frames] == [0.0, 0.1]


def test_numbered_images(tmp_path):
    for name in ("007.png", "0012.png", "0003.png", "20.png", "x3.png", "0004.txt"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, format="PNG")
    with open_source(str(tmp_path / "%03d.png")) as source:
        assert [file.name for file in source.files] == ["0003.png", "007.png", "0012.png"]
        assert len(list(source)) == 3
    with pytest.raises(UsageError, match="number of digits"):
        open_source(str(tmp_path / "%05d.png"))
    with pytest.raises(UsageError, match="no images match"):
        open_source(str(tmp_path / "none" / "%d.png"))


def test_a_file_by_its_address(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4")
    with open_source(f"file://{path}") as source:
        assert source.files == (path,)


def test_changes_of_state(tmp_path, make_video):
    changes = []
    path = make_video(tmp_path / "a.mp4", frames=3)
    with open_source(path, changes.append) as source:
        assert (source.state, changes) == (SourceState.OPENING, [])
        for _ in source:
            assert source.state is SourceState.PLAYING
        assert source.state is SourceState.ENDED
    assert [(change.state.value, change.code) for change in changes] == [
        ("playing", None),
        ("ended", None),
    ]
    assert {change.source for change in changes} == {str(path)}
    assert changes[0].at_s < changes[1].at_s


def test_another_pixel_format_in_the_middle(tmp_path):
    """Two recordings one after the other, as a camera makes them when somebody changes its settings."""
    import av

    whole = b""
    for fmt, size in (("yuv420p", (48, 64)), ("yuv444p", (64, 96))):
        file = io.BytesIO()
        with av.open(file, "w", format="mpegts") as container:
            video = container.add_stream("libx264", rate=10)
            video.height, video.width, video.pix_fmt = *size, fmt
            for level in range(10):
                picture = np.full((*size, 3), 50 + 10 * level, dtype=np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode(None))
        whole += file.getvalue()
    path = tmp_path / "both.ts"
    path.write_bytes(whole)
    with open_source(path) as source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.image.shape[:2] for frame in frames] == [(48, 64)] * 10 + [(64, 96)] * 10
    assert [frame.image.mean() for frame in frames] == pytest.approx(
        [50 + 10 * (i % 10) for i in range(20)], abs=3
    )
    steps = np.diff([frame.timestamp_s for frame in frames])
    assert steps == pytest.approx(np.full(19, 0.1), abs=0.002)


def test_what_counts_as_images(tmp_path, make_video):
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", format="PNG")
    video = make_video(tmp_path / "video.mp4")
    for uri in (tmp_path / "picture", tmp_path, "x/*.jpg", "x/%06d.jpg"):
        assert is_image_source(uri)
    for uri in (video, "0", "/dev/video0", "rtsp://host/a.jpg", "test://", tmp_path / "no.mp4"):
        assert not is_image_source(uri)


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
