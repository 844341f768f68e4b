"""LabelMe folders: every shape, every way of naming the image, and what is told about the rest."""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from solo_edge.data.coco import open_dataset
from solo_edge.errors import DataError, UsageError

HEIGHT, WIDTH = 60, 80


def shape(label: str, kind: str | None, points: Any, **more: Any) -> dict[str, Any]:
    named = {} if kind is None else {"shape_type": kind}
    return {"label": label, "points": points, "group_id": None, "flags": {}, **named, **more}


SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]


def write(file: Path, shapes: list[Any], **changes: Any) -> Path:
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{file.stem}.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    content |= changes
    content = {key: value for key, value in content.items() if value != "absent"}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def masks_of(path: Path, split: str = "train") -> tuple[np.ndarray, list[str]]:
    dataset = open_dataset(path, split)
    truth = dataset.ground_truth(0)
    return truth.masks, [dataset.class_names[label] for label in truth.labels]


def square() -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:30, 10:30] = 1
    return mask


@pytest.fixture
def folder(tmp_path: Path, paint) -> Path:
    """A data set with one image, to be annotated."""
    paint(tmp_path / "set/train/a.png")
    return tmp_path / "set"


@pytest.mark.parametrize(
    "drawn",
    [
        shape("box", "polygon", SQUARE),
        shape("box", None, SQUARE),  # version 3 and before
        shape("box", "rectangle", [[10, 10], [30, 30]]),
        shape("box", "rectangle", [[30, 10], [10, 30]]),
        shape("box", "rectangle", [[30, 30], [10, 10]]),
        shape("box", "rectangle", SQUARE),  # four corners
        shape("box", "rotation", SQUARE),
    ],
    ids=[
        "polygon",
        "no type",
        "rectangle",
        "other corners",
        "backwards",
        "four corners",
        "rotation",
    ],
)
def test_a_square_is_a_square_however_it_is_drawn(folder: Path, drawn: dict[str, Any]) -> None:
    write(folder / "train/a.json", [drawn])
    masks, names = masks_of(folder)
    np.testing.assert_array_equal(masks, [square()])
    assert names == ["box"]


def test_a_circle_has_its_area_and_place(folder: Path) -> None:
    write(folder / "train/a.json", [shape("ball", "circle", [[40, 30], [40, 50]])])
    (mask,), _ = masks_of(folder)
    assert mask.sum() == pytest.approx(math.pi * 20**2, rel=0.02)
    rows, columns = np.nonzero(mask)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((30, 40), abs=0.3)
    assert (rows.min(), rows.max()) == (10, 49)


def test_a_painted_mask_lies_in_its_box(folder: Path) -> None:
    painted = np.zeros((20, 20), np.uint8)
    painted[5:, :10] = 255
    buffer = io.BytesIO()
    Image.fromarray(painted).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    inside = shape("blob", "mask", [[10, 10], [29, 29]], mask=encoded)
    cut = shape("blob", "mask", [[70, 50], [89, 69]], mask=encoded)
    write(folder / "train/a.json", [inside, cut])
    masks, _ = masks_of(folder)
    expected = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    expected[0, 15:30, 10:20] = 1
    expected[1, 55:60, 70:80] = 1
    np.testing.assert_array_equal(masks, expected)


def test_parts_of_one_group_and_label_are_one_object(folder: Path) -> None:
    other = [[50, 10], [60, 10], [60, 20], [50, 20]]
    write(
        folder / "train/a.json",
        [
            shape("chair", "polygon", SQUARE, group_id=1),
            shape("table", "polygon", other, group_id=1),  # another class is another object
            shape("chair", "rectangle", [[40, 40], [50, 50]], group_id=1),
            shape("chair", "polygon", other),
        ],
    )
    masks, names = masks_of(folder)
    assert names == ["chair", "table", "chair"]
    whole = square()
    whole[40:50, 40:50] = 1
    np.testing.assert_array_equal(masks[0], whole)


def test_a_group_of_a_polygon_and_a_painted_mask(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    write(
        folder / "train/a.json",
        [
            shape("a", "polygon", SQUARE, group_id=0),
            shape("a", "mask", [[50, 50], [54, 54]], mask=encoded, group_id=0),
        ],
    )
    (mask,), _ = masks_of(folder)
    assert mask.sum() == 425
    assert mask[50:55, 50:55].all()


def test_a_group_with_a_broken_polygon_is_told(folder: Path, codes_of) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    painted = shape("a", "mask", [[50, 50], [54, 54]], mask=encoded, group_id=0)
    write(folder / "train/a.json", [shape("a", "polygon", [[1, 1]], group_id=0), painted])
    assert codes_of(folder)["polygon-short"] == 1


def test_lines_and_points_are_counted_and_left_out(folder: Path, codes_of) -> None:
    kinds = ("line", "linestrip", "point", "points")
    shapes = [shape("x", kind, [[1, 1], [9, 9]]) for kind in kinds]
    write(folder / "train/a.json", [*shapes, shape("box", "polygon", SQUARE)])
    dataset = open_dataset(folder, "train")
    assert len(dataset.ground_truth(0)) == 1
    assert any("4 x" in line and "shape-unsupported" in line for line in dataset.warnings)
    assert codes_of(folder)["shape-unsupported"] == 4


@pytest.mark.parametrize(
    "image_path",
    ["a.png", ".\\a.png", "C:\\Users\\me\\a.png", "/home/me/a.png", "gone.png", None, 7],
)
def test_the_image_is_found(folder: Path, image_path: Any) -> None:
    write(folder / "train/a.json", [shape("box", "polygon", SQUARE)], imagePath=image_path)
    dataset = open_dataset(folder, "train")
    assert dataset.image_path(0) == folder / "train/a.png"
    assert dataset.image(0).shape == (HEIGHT, WIDTH, 3)


def test_labels_in_a_folder_beside_the_images(tmp_path: Path, paint) -> None:
    paint(tmp_path / "images/a.png")
    write(
        tmp_path / "labels/train/a.json",
        [shape("box", "polygon", SQUARE)],
        imagePath="..\\..\\images\\a.png",
    )
    assert open_dataset(tmp_path, "train").image_path(0) == tmp_path / "images/a.png"


def test_an_image_outside_the_data_set_is_not_used(tmp_path: Path, paint) -> None:
    paint(tmp_path / "secret.png")
    file = tmp_path / "set/train/a.json"
    write(file, [shape("box", "polygon", SQUARE)], imagePath="../../secret.png")
    with pytest.raises(DataError, match=r"image-missing"):
        open_dataset(tmp_path / "set", "train")


def test_an_embedded_image_is_used_where_there_is_no_file(tmp_path: Path, paint) -> None:
    content = paint(tmp_path / "elsewhere.png", 3).read_bytes()
    data = base64.b64encode(content).decode()
    file = tmp_path / "set/train/a.json"
    write(file, [shape("box", "polygon", SQUARE)], imageData=data, imageHeight="absent")
    dataset = open_dataset(tmp_path / "set", "train")
    expected = np.asarray(Image.open(tmp_path / "elsewhere.png"))
    np.testing.assert_array_equal(dataset.image(0), expected)
    assert dataset.image_path(0) == file
    assert dataset.image_size(0) == (HEIGHT, WIDTH)
    # The file beside it comes first: it is what people look at.
    paint(tmp_path / "set/train/a.png", 4)
    assert (open_dataset(tmp_path / "set", "train").image(0) != expected).any()


def test_damaged_embedded_images_are_told(tmp_path: Path, codes_of) -> None:
    for name, data in (("a", "!!!"), ("b", base64.b64encode(b"no image").decode())):
        file = tmp_path / f"train/{name}.json"
        write(file, [shape("box", "polygon", SQUARE)], imageData=data, imageHeight=None)
    with pytest.raises(DataError, match="image-unreadable"):
        open_dataset(tmp_path, "train")
    assert codes_of(tmp_path)["image-unreadable"] == 2


def test_coordinates_are_those_of_the_upright_image(tmp_path: Path, paint, codes_of) -> None:
    exif = Image.Exif()
    exif[274] = 6
    paint(tmp_path / "train/a.jpg", 0, (WIDTH, HEIGHT), exif=exif)  # shown as 60 x 80
    drawn = [shape("box", "polygon", SQUARE)]
    write(tmp_path / "train/a.json", drawn, imagePath="a.jpg")
    assert open_dataset(tmp_path, "train").image(0).shape == (HEIGHT, WIDTH, 3)
    # Without a size, as of old versions, it is the upright one.
    write(tmp_path / "train/a.json", drawn, imagePath="a.jpg", imageHeight="absent")
    assert open_dataset(tmp_path, "train").image_size(0) == (HEIGHT, WIDTH)
    # Annotated by a version that did not turn it.
    sizes = {"imageHeight": WIDTH, "imageWidth": HEIGHT}
    write(tmp_path / "train/a.json", drawn, imagePath="a.jpg", **sizes)
    assert codes_of(tmp_path) == {"exif-size-differs": 1}
    with pytest.raises(DataError, match="exif-size-differs"):
        open_dataset(tmp_path, "train").image(0)


def test_broken_files_and_shapes_are_all_told(folder: Path, codes_of) -> None:
    (folder / "train/broken.json").write_text('{"shapes": [')
    (folder / "train/list.json").write_text('{"shapes": 1}')
    write(
        folder / "train/a.json",
        [
            shape("box", "polygon", [[1, 1], [2, 2]]),
            shape("box", "polygon", [[1, 1], [2, 2], [3, None]]),
            shape("box", "polygon", None),
            shape("box", "rectangle", [[1, 1]]),
            shape("box", "circle", [[1, float("nan")], [2, 2]]),
            shape("box", "mask", [[1, 1], [2, 2]], mask="?"),
            shape("", "polygon", SQUARE),
            5,
            shape("box", "polygon", SQUARE),
        ],
    )
    found = codes_of(folder)
    assert found["file-unreadable"] == 2
    assert found["polygon-short"] == 3
    assert found["polygon-not-finite"] == found["polygon-not-numbers"] == 1
    assert found["rle-counts"] == 1  # the painted mask
    assert found["category-id-unknown"] == 1
    assert found["record-malformed"] == 1
    with pytest.raises(DataError, match="2 x file-unreadable"):
        open_dataset(folder, "train")


def test_classes_come_in_alphabetical_order_over_all_splits(tmp_path: Path, paint) -> None:
    for split, label in (("train", "zebra"), ("valid", "ant")):
        paint(tmp_path / split / "a.png")
        ignored = shape("__ignore__", "polygon", SQUARE)
        write(tmp_path / split / "a.json", [shape(label, "polygon", SQUARE), ignored])
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        assert dataset.class_names == ("ant", "zebra")
        assert len(dataset.ground_truth(0)) == 1
    assert dataset.warnings == [
        "read as LabelMe: 1 files, classes in alphabetical order: ant, zebra"
    ]
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nzebra\nant\n")
    assert open_dataset(tmp_path, "train").class_names == ("zebra", "ant")
    (tmp_path / "labels.txt").write_text("zebra\n")
    with pytest.raises(DataError, match="'ant' is not among the classes"):
        open_dataset(tmp_path, "val")


def test_an_undivided_folder_says_what_to_do(tmp_path: Path, paint) -> None:
    paint(tmp_path / "a.png")
    write(tmp_path / "a.json", [shape("box", "polygon", SQUARE)])
    assert len(open_dataset(tmp_path, "all")) == 1
    with pytest.raises(UsageError, match=r"no split 'train'; there are: all; divide it with"):
        open_dataset(tmp_path, "train")


def test_an_image_without_objects_stays(folder: Path) -> None:
    write(folder / "train/a.json", [])
    (folder / "labels.txt").write_text("box\n")
    dataset = open_dataset(folder, "train")
    assert len(dataset) == 1
    assert len(dataset.ground_truth(0)) == 0
