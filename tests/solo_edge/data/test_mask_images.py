"""Masks as images: Pascal VOC's maps, and folders of images with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_edge.data.check import check_dataset
from solo_edge.data.coco import open_dataset
from solo_edge.data.label_maps import regions_of_labels
from solo_edge.errors import DataError

HEIGHT, WIDTH = 60, 80


def object_map() -> np.ndarray:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[5:20, 5:25] = 1
    values[30:50, 40:70] = 2
    values[40:45, 45:50] = 0  # a hole
    values[2:4, 2:30] = 255
    return values


def class_map() -> np.ndarray:
    objects, classes = object_map(), np.zeros((HEIGHT, WIDTH), np.uint8)
    classes[objects == 1] = 15
    classes[objects == 2] = 7
    classes[30, 40:45] = 12  # a few pixels of another class change nothing
    classes[objects == 255] = 255
    return classes


def voc_palette() -> list[int]:
    """The colours that the development kit's own images start with, continued with others."""
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
             (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0),
             (64, 0, 128), (192, 0, 128), (64, 128, 128), (192, 128, 128)]  # fmt: skip
    rest = [(224, 224, 192)] * (256 - len(known))
    return [value for colour in (*known, *rest) for value in colour]


def save(values: np.ndarray, file: Path, kind: str = "gray") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if kind != "gray":
        image.putpalette(voc_palette())
        image = image.convert("RGB") if kind == "colour" else image
    image.save(file)


@pytest.fixture
def voc(tmp_path: Path, paint) -> Path:
    for name in ("a", "b"):
        paint(tmp_path / f"JPEGImages/{name}.jpg")
    folder = tmp_path / "ImageSets/Segmentation"
    folder.mkdir(parents=True)
    for split, names in (("train", "a"), ("val", "b"), ("trainval", "a\nb")):
        (folder / f"{split}.txt").write_text(f"{names}\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["gray", "palette", "colour"])
def test_pascal_maps(voc: Path, kind: str) -> None:
    for name in ("a", "b"):
        save(object_map(), voc / f"SegmentationObject/{name}.png", kind)
        save(class_map(), voc / f"SegmentationClass/{name}.png", kind)
    dataset = open_dataset(voc, "train")
    assert len(dataset) == 1
    assert dataset.image_path(0) == voc / "JPEGImages/a.jpg"
    truth = dataset.ground_truth(0)
    assert [dataset.class_names[label] for label in truth.labels] == ["person", "car"]
    np.testing.assert_array_equal(truth.masks, [object_map() == 1, object_map() == 2])
    assert [split.source.split for split in check_dataset(voc).splits] == ["train", "val"]


def test_pascal_with_names_and_without_classes(voc: Path) -> None:
    small = np.where(class_map() == 15, 1, np.where(class_map() == 7, 2, 0)).astype(np.uint8)
    save(object_map(), voc / "SegmentationObject/a.png")
    assert open_dataset(voc, "train").class_names == ("object",)
    save(small, voc / "SegmentationClass/a.png")
    (voc / "class_names.txt").write_text("__ignore__\n_background_\nhand\nfoot\n")
    dataset = open_dataset(voc, "train")
    assert [dataset.class_names[i] for i in dataset.ground_truth(0).labels] == ["hand", "foot"]


def test_pascal_defects_are_told(voc: Path, codes_of) -> None:
    save(object_map()[:50], voc / "SegmentationObject/a.png")
    save(class_map(), voc / "SegmentationClass/a.png")
    (voc / "ImageSets/Segmentation/train.txt").write_text("a\nnothing\n../../secret\nb\n")
    found = codes_of(voc)
    assert found["mask-size"] == 1
    assert found["image-missing"] == 2
    assert found["mask-missing"] == 2  # b, in both splits
    save(object_map(), voc / "SegmentationObject/a.png")
    save(np.full((HEIGHT, WIDTH), 99, np.uint8), voc / "SegmentationClass/a.png")
    assert codes_of(voc)["category-id-unknown"] == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_map_of_objects_for_each_image(tmp_path: Path, paint, dtype: type) -> None:
    values = object_map().astype(dtype)
    values[values == 255] = 200 if dtype is np.uint8 else 40_000
    for split in ("train", "val"):
        paint(tmp_path / f"{split}/images/a.jpg")
        save(values, tmp_path / f"{split}/masks/a.png")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.class_names == ("object",)
    expected = [values == value for value in np.unique(values)[1:]]
    np.testing.assert_array_equal(dataset.ground_truth(0).masks, expected)
    assert dataset.warnings == ["read as images/ with masks/: 1 images, one class: object"]
    (tmp_path / "classes.txt").write_text("cell\n")
    assert open_dataset(tmp_path, "val").class_names == ("cell",)


LAYOUTS = {
    "a folder for each image": ("images/a.png", "masks/a/{}.png"),
    "numbered files": ("images/a.png", "masks/a_{}.png"),
    "splits below": ("images/all/a.png", "masks/all/a-{}.png"),
    "data science bowl": ("6f1/images/6f1.png", "6f1/masks/9b{}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_for_each_object(tmp_path: Path, paint, layout: str) -> None:
    image, mask = LAYOUTS[layout]
    paint(tmp_path / image)
    for number in (1, 2):
        save((object_map() == number).astype(np.uint8) * 255, tmp_path / mask.format(number))
    dataset = open_dataset(tmp_path, "all")
    np.testing.assert_array_equal(
        dataset.ground_truth(0).masks, [object_map() == 1, object_map() == 2]
    )


def test_the_longest_name_of_an_image_wins(tmp_path: Path, paint) -> None:
    for name in ("a", "a_1"):
        paint(tmp_path / f"images/{name}.png", len(name))
    for name in ("a_1_1", "a_1_2", "a_2"):
        save(object_map() // 255, tmp_path / f"masks/{name}.png")
    dataset = open_dataset(tmp_path, "all")
    assert [len(dataset.ground_truth(i)) for i in range(2)] == [1, 2]


def test_defects_of_masks_are_told(tmp_path: Path, paint, codes_of) -> None:
    for name in ("empty", "size", "broken", "merged", "good"):
        paint(tmp_path / f"images/{name}.png", len(name))
    save(object_map()[:, :50], tmp_path / "masks/size.png")
    (tmp_path / "masks/broken.png").write_bytes(b"PNG")
    save(np.where(object_map() % 255, 255, 0).astype(np.uint8), tmp_path / "masks/merged.png")
    save(object_map(), tmp_path / "masks/good.png")
    save(object_map(), tmp_path / "masks/nobody.png")
    assert codes_of(tmp_path) == {
        "mask-missing": 1,
        "mask-size": 1,
        "file-unreadable": 1,
        "mask-merged": 1,
        "label-orphan": 1,
    }
    (tmp_path / "masks/broken.png").unlink()
    with pytest.raises(DataError, match="mask of 50 x 60 pixels, image of 80 x 60"):
        open_dataset(tmp_path, "all")


def test_run_lengths_of_random_maps() -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (9, 1), (30, 20), (64, 64)):
        values = rng.integers(0, 5, size) * rng.integers(0, 2, size)
        found = regions_of_labels(values)
        assert sorted(found) == [v for v in np.unique(values).tolist() if v]
        for value, code in found.items():
            flat = np.repeat(np.arange(len(code["counts"])) % 2, code["counts"])
            np.testing.assert_array_equal(flat.reshape(size[::-1]).T, values == value)
            assert code["size"] == list(size)
