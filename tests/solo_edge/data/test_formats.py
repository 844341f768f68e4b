"""Which format a folder has, and what is said where that is not clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from solo_edge.data.coco import open_dataset
from solo_edge.data.formats import find_format, require_format
from solo_edge.errors import UsageError

COCO = {"images": [], "annotations": [], "categories": []}
LABELME = {"version": "5.0", "shapes": [], "imagePath": "a.png", "imageData": None}


def put(file: Path, content: object = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def name_of(path: Path) -> str | None:
    found = find_format(path)
    return None if found is None else found.name


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"train.json": COCO}, "COCO"),
        ({"annotations/instances_train2017.json": COCO}, "COCO"),
        ({"train/_annotations.coco.json": COCO}, "COCO"),
        ({"train.json": COCO, "other/a.json": LABELME}, "COCO"),
        ({"a.json": LABELME}, "LabelMe"),
        ({"train/a.json": LABELME, "notes.json": {"x": 1}}, "LabelMe"),
        ({"labels/train/a.json": LABELME, "labels/train/a.txt": "0"}, "LabelMe"),
        ({"data.yaml": "train: x\nnames: [a]\n"}, "YOLO-seg"),
        ({"labels/train/a.txt": "0"}, "YOLO-seg"),
        ({"train/labels/a.txt": "0"}, "YOLO-seg"),
        ({"SegmentationObject/a.png": "", "JPEGImages/a.jpg": ""}, "Pascal VOC"),
        ({"images/a.png": "", "masks/a.png": ""}, "images/ with masks/"),
        ({"train/x/images/a.png": "", "train/x/masks/b.png": ""}, "images/ with masks/"),
        ({"broken.json": "{"}, "COCO"),  # what is wrong with it is told when it is read
        ({"images/a.png": ""}, None),
        ({"a.png": "", "b.jpg": ""}, None),
        ({"settings.yaml": "names: [a]\n"}, None),
    ],
)
def test_the_format_is_found(
    tmp_path: Path, files: dict[str, object], expected: str | None
) -> None:
    for name, content in files.items():
        put(tmp_path / name, content)
    assert name_of(tmp_path) == expected


def test_a_large_file_is_told_by_its_head(tmp_path: Path) -> None:
    put(tmp_path / "a.json", {"version": "5", "shapes": [], "imageData": "x" * 200_000})
    assert name_of(tmp_path) == "LabelMe"
    put(tmp_path / "train.json", {"info": {"images": 3}, "images": ["x" * 200_000]})
    assert name_of(tmp_path) == "COCO"


def test_files_of_other_tools_are_no_splits(tmp_path: Path) -> None:
    put(tmp_path / "train.json", COCO)
    put(tmp_path / "val.json", "")  # broken, but meant
    put(tmp_path / "settings.json", {"window": 3})
    assert require_format(tmp_path).splits() == ["train", "val"]


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    put(tmp_path / "images/a.png")
    with pytest.raises(
        UsageError, match="known formats: COCO, LabelMe, YOLO-seg, Pascal VOC, images/"
    ):
        open_dataset(tmp_path, "train")
