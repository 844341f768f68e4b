"""YOLO-seg data sets: layouts, names, and lines that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from solo_edge.data.check import check_dataset
from solo_edge.data.coco import open_dataset
from solo_edge.errors import DataError, UsageError

SQUARE = "0.125 0.25 0.5 0.25 0.5 0.75 0.125 0.75"  # columns 10 to 40 and rows 15 to 45 of 80 x 60


def label(file: Path, *lines: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images/train", "labels/train"), ("train/images", "train/labels")],
)
def test_trees_without_a_yaml_file(tmp_path: Path, paint, images: str, labels: str) -> None:
    paint(tmp_path / images / "a.png")
    paint(tmp_path / images / "b.png", 1)  # no file: no objects
    label(tmp_path / labels / "a.txt", f"1 {SQUARE}", "", f"0 {SQUARE}")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.class_names == ("class 0", "class 1")
    truth = dataset.ground_truth(0)
    assert truth.labels.tolist() == [1, 0]
    expected = np.zeros((60, 80), np.uint8)
    expected[15:45, 10:40] = 1
    np.testing.assert_array_equal(truth.masks, [expected, expected])
    assert len(dataset.ground_truth(1)) == 0
    assert dataset.warnings[0].startswith("read as YOLO-seg: 2 images, classes without names")


YAMLS = {
    "list": "train: images/train\nval: images/val\nnames: [ant, bee]\n",
    "numbers": "path: .\ntrain: images/train\nval: images/val\nnames:\n  1: bee\n  0: ant\n",
    "roboflow": "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['ant', 'bee']\n",
    "other base": "path: ../datasets/mine\ntrain: [images/train]\nval: images/val\nnames: [ant, bee]\n",
    "text file": "train: train.txt\nval: images/val\nnames: [ant, bee]\n",
}


@pytest.mark.parametrize("kind", YAMLS)
def test_yaml_files(tmp_path: Path, paint, kind: str) -> None:
    for split in ("train", "val"):
        paint(tmp_path / f"images/{split}/a.png")
        label(tmp_path / f"labels/{split}/a.txt", f"1 {SQUARE}")
    (tmp_path / "train.txt").write_text("./images/train/a.png\n../outside.png\n")
    (tmp_path / "data.yaml").write_text(YAMLS[kind])
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        assert dataset.class_names == ("ant", "bee")
        assert len(dataset) == 1
        assert dataset.image_path(0) == tmp_path / f"images/{split}/a.png"
        assert dataset.ground_truth(0).labels.tolist() == [1]
    with pytest.raises(UsageError, match="there are: train, val"):
        open_dataset(tmp_path, "test")


def test_a_yaml_file_that_points_elsewhere_is_told(tmp_path: Path, paint, codes_of) -> None:
    paint(tmp_path / "secret/images/a.png")
    inside = tmp_path / "set"
    paint(inside / "images/val/a.png")
    label(inside / "labels/val/a.txt", f"0 {SQUARE}")
    (inside / "data.yaml").write_text(
        f"train: {tmp_path}/secret/images\nval: images/val\nnames: [ant]\n"
    )
    report = check_dataset(inside)
    assert [split.source.split for split in report.splits] == ["val"]
    assert codes_of(inside)["file-unreadable"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "names: [ant\ntrain: images/train\nval: x\n",
        "names: 7\ntrain: images/train\n",
        "names: {ant: 0}\ntrain: images/train\n",
        "names: !!python/object/apply:os.system ['touch pwned']\ntrain: images/train\n",
    ],
)
def test_broken_yaml_files_do_not_end_the_check(tmp_path: Path, paint, text: str, codes_of) -> None:
    paint(tmp_path / "images/train/a.png")
    label(tmp_path / "labels/train/a.txt", f"0 {SQUARE}")
    (tmp_path / "data.yaml").write_text(text)
    found = codes_of(tmp_path)
    assert found["file-unreadable"] == 1
    with pytest.raises(DataError, match="file-unreadable"):
        open_dataset(tmp_path, "train")
    assert not (tmp_path / "pwned").exists()
    assert not Path("pwned").exists()


def test_every_wrong_line_is_told_with_its_number(tmp_path: Path, paint, codes_of) -> None:
    paint(tmp_path / "images/train/a.png")
    (tmp_path / "images/train/b.png").write_bytes(b"")
    label(tmp_path / "labels/train/orphan.txt", f"0 {SQUARE}")
    label(
        tmp_path / "labels/train/a.txt",
        "0 0.5 0.5 0.2 0.2",  # a box
        "0 0.1 0.1 0.2 0.2 0.3",
        "0 0.1 0.1",
        "0 nan 0.1 0.2 0.2 0.3 0.3",
        "0 x 0.1 0.2 0.2 0.3 0.3",
        f"2 {SQUARE}",
        f"-1 {SQUARE}",
        f"0.5 {SQUARE}",
        "0 100 100 200 100 200 200",
        f"0 {SQUARE}",
    )
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    assert codes_of(tmp_path) == {
        "image-unreadable": 1,
        "label-orphan": 1,
        "box-only": 1,
        "polygon-odd": 1,
        "polygon-short": 1,
        "polygon-not-finite": 1,
        "polygon-not-numbers": 1,
        "category-id-unknown": 3,
        "polygon-outside": 1,
        "category-unused": 1,
    }
    report = check_dataset(tmp_path)
    (finding,) = report.splits[0].defects.by_code["polygon-odd"]
    assert finding.place == "labels/train/a.txt line 2"


def test_labels_that_are_no_text(tmp_path: Path, paint, codes_of) -> None:
    paint(tmp_path / "images/train/a.png")
    paint(tmp_path / "images/train/b.png", 1)
    label(tmp_path / "labels/train/b.txt", f"0 {SQUARE}")
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00\x80")
    assert codes_of(tmp_path)["file-unreadable"] == 1
