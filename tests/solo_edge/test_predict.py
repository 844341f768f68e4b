from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from solo_edge.errors import DataError, SourceError, UsageError
from solo_edge.instances import Instances
from solo_edge.predict import predict
from solo_edge.runtime.engine import StageTimes


class Engine:
    """Finds the upper half of every image."""

    category_ids = (5,)
    batch_size = 1

    def __init__(self):
        self.count = 0

    def start(self, images):
        return images

    def finish(self, started):
        return [self.run(image) for image in started]

    def run(self, image):
        self.count += 1
        masks = np.zeros((1, *image.shape[:2]), dtype=bool)
        masks[0, : image.shape[0] // 2] = True
        found = Instances(
            np.array([0.75]), np.array([0]), masks, class_names=("thing",), image_size=image.shape[:2]
        )  # fmt: skip
        return found, StageTimes(1.0, 1.0, 1.0)


def save(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 90, 90)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    for name in ("2.jpg", "10.png", "b.bmp"):
        save(folder / name)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_image_to_one_file(tmp_path, folder):
    out = tmp_path / "new/result.png"
    report = predict(Engine(), str(folder / "2.jpg"), out)
    assert (report.ok, report.failed, report.stream) == (1, 0, None)
    drawn = np.asarray(Image.open(out))
    assert drawn.shape == (30, 40, 3)
    assert (drawn[-3:] == 90).all()
    assert (drawn[5] != 90).any(axis=-1).all()


def test_one_image_into_a_folder(tmp_path, folder):
    predict(Engine(), str(folder / "b.bmp"), tmp_path / "out")
    assert names(tmp_path / "out") == ["b.jpg"]


def test_a_folder(tmp_path, folder):
    items = []
    report = predict(
        Engine(), str(folder), tmp_path / "out", tmp_path / "found.jsonl", on_item=items.append
    )
    assert (report.ok, report.failed) == (3, 0)
    assert names(tmp_path / "out") == ["10.png", "2.jpg", "b.jpg"]
    assert [item.path.name for item in items] == ["2.jpg", "10.png", "b.bmp"]
    assert [item.output.name for item in items] == ["2.jpg", "10.png", "b.jpg"]
    assert all(len(item.instances) == 1 and item.error is None for item in items)
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [str(item.path) for item in items]
    assert lines[1]["size"] == [30, 40]
    (detection,) = lines[1]["detections"]
    assert (detection["image_id"], detection["category_id"]) == (1, 5)
    assert detection["bbox"] == [0, 0, 40, 15]
    assert detection["score"] == 0.75
    # A second run replaces what the first one wrote.
    predict(Engine(), str(folder), tmp_path / "out", tmp_path / "found.jsonl")
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 3


def test_without_outputs_only_the_observer_hears(folder):
    items = []
    assert predict(Engine(), str(folder / "*.png"), on_item=items.append).ok == 1
    assert items[0].output is None


def test_bad_images_are_told_and_passed_over(tmp_path, folder):
    (folder / "1.jpg").write_bytes(b"not an image")
    (folder / "c.png").touch()
    save(folder / "d.jpg")
    (folder / "d.jpg").write_bytes((folder / "d.jpg").read_bytes()[:300])
    items = []
    with pytest.raises(DataError, match="3 of 6 images could not be read, 3 are done") as caught:
        predict(Engine(), str(folder), tmp_path / "out", tmp_path / "a.jsonl", on_item=items.append)
    assert caught.value.exit_code == 3
    assert [item.path.name for item in items if item.error] == ["1.jpg", "c.png", "d.jpg"]
    assert all("\n" not in str(item.error) for item in items)
    assert names(tmp_path / "out") == ["10.png", "2.jpg", "b.jpg"]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 3


def test_all_bad(tmp_path):
    (tmp_path / "a.jpg").touch()
    engine = Engine()
    with pytest.raises(DataError, match="1 of 1"):
        predict(engine, str(tmp_path), tmp_path / "out")
    assert engine.count == 0
    assert not (tmp_path / "out").exists()


def test_nothing_there(tmp_path):
    for source in (tmp_path, tmp_path / "none.jpg", tmp_path / "*.jpg"):
        with pytest.raises(UsageError):
            predict(Engine(), str(source))


def test_equal_names_do_not_meet(tmp_path):
    for name in ("a/x.jpg", "b/x.bmp", "c/X.jpeg", "d/x.png", "e/x-2.jpg"):
        save(tmp_path / "in" / name)
    predict(Engine(), str(tmp_path / "in/**"), tmp_path / "out")
    assert names(tmp_path / "out") == ["X-3.jpg", "x-2-2.jpg", "x-2.jpg", "x.jpg", "x.png"]


def test_inputs_and_foreign_files_are_never_replaced(tmp_path, folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    engine = Engine()
    with pytest.raises(UsageError, match="input"):
        predict(engine, str(folder), folder)
    with pytest.raises(UsageError, match="input"):
        predict(engine, str(folder / "2.jpg"), folder / "2.jpg")
    with pytest.raises(UsageError, match="did not make"):
        predict(engine, str(folder / "2.jpg"), folder / "10.png")
    with pytest.raises(UsageError, match="did not make"):
        predict(engine, str(folder / "2.jpg"), json_path=folder / "b.bmp")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert engine.count == 0


def test_outputs_that_make_no_sense(tmp_path, folder):
    (tmp_path / "file").touch()
    for out, message in (
        (tmp_path / "a.jpg", "3 images"),
        (tmp_path / "a.mp4", "not written as"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(UsageError, match=message):
            predict(Engine(), str(folder), out)


def test_an_error_of_the_engine_leaves_no_half_file(tmp_path, folder):
    class Broken(Engine):
        def run(self, image):
            if self.count == 1:
                raise RuntimeError("the network broke")
            return super().run(image)

    with pytest.raises(RuntimeError, match="the network broke"):
        predict(Broken(), str(folder), tmp_path / "out", tmp_path / "a.jsonl")
    assert names(tmp_path / "out") == ["2.jpg"]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


def test_a_video(tmp_path):
    engine = Engine()
    report = predict(
        engine, "test://?frames=5&size=64x64", tmp_path / "out.mp4", tmp_path / "out.jsonl"
    )
    assert (report.ok, report.failed, report.stream.processed) == (5, 0, 5)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3, 4]
    assert (tmp_path / "out.mp4").stat().st_size > 500


def test_a_camera_that_is_not_there():
    with pytest.raises(SourceError):
        predict(Engine(), "987")
