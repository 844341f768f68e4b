"""Which images are chosen, and which are not."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image

from solo_edge.calibration.dataset import (
    READ_PER_IMAGE,
    choose_images,
    refuse_overlap,
    report_near_copies,
)
from solo_edge.calibration.folder import ImageFolder
from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.errors import DataError


def scene(seed: int, moved: int = 0) -> np.ndarray:
    """A picture of its own for each seed; `moved` gives the next frames of it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (10 + moved % 40, 30), 3, (255, 0, 0), -1)
    return image


def save(image: np.ndarray, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def annotated(folder, split: str, images: dict[str, tuple[np.ndarray, list[str]]]) -> CocoDataset:
    """A data set of (pixels, class names) by file name."""
    classes = sorted({name for _, names in images.values() for name in names} | {"rare"})
    records, annotations = [], []
    for number, (name, (pixels, names)) in enumerate(images.items()):
        save(pixels, folder / split / name)
        height, width = pixels.shape[:2]
        records.append({"id": number, "file_name": name, "width": width, "height": height})
        for class_name in names:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(class_name) + 1,
                    "bbox": [4, 4, 8, 8],
                    "area": 64,
                    "iscrowd": 0,
                    "segmentation": [[4, 4, 12, 4, 12, 12, 4, 12]],
                }
            )
    content = {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(classes)],
    }
    (folder / f"{split}.json").write_text(json.dumps(content))
    return open_dataset(folder, split)


def test_classes_take_turns(tmp_path):
    images = {f"{i}.png": (scene(i), ["common"]) for i in range(60)}
    images |= {f"{i}.png": (scene(i), ["rare", "common"]) for i in range(60, 76)}
    data = annotated(tmp_path, "train", images)
    chosen = choose_images(data, 32)
    assert sum(int(image.file_name[:-4]) >= 60 for image in chosen) == 16
    assert choose_images(data, 32) == chosen
    assert choose_images(data, 32, seed=1) != chosen


def test_no_mask_is_decoded_to_learn_the_classes(tmp_path, monkeypatch):
    images = {f"{i}.png": (scene(i), ["common"]) for i in range(40)}
    data = annotated(tmp_path, "train", images)

    def refuse(self, index):
        raise AssertionError("a mask was decoded")

    monkeypatch.setattr(CocoDataset, "ground_truth", refuse)
    lines = []
    assert len(choose_images(data, 256, report=lines.append)) == 40
    assert "no image shows rare" in lines


def test_folders_take_turns_where_there_are_no_annotations(tmp_path):
    for i in range(60):
        save(scene(i), tmp_path / "day" / f"{i}.png")
    for i in range(16):
        save(scene(100 + i), tmp_path / "night" / f"{i}.png")
    folder = ImageFolder(tmp_path)
    chosen = choose_images(folder, 32)
    places = Counter(folder.image_path(image.index).parent.name for image in chosen)
    assert places == {"day": 16, "night": 16}


def test_frames_of_a_video_do_not_fill_the_set(tmp_path):
    for i in range(120):
        save(scene(0, moved=i), tmp_path / f"video{i}.png")
    for i in range(1, 40):
        save(scene(i), tmp_path / f"photo{i}.png")
    lines = []
    chosen = choose_images(ImageFolder(tmp_path), 40, report=lines.append)
    assert sum(image.file_name.startswith("video") for image in chosen) == 1
    assert not any("nearly copies" in line for line in lines)


def test_where_there_are_only_frames_the_least_similar_are_taken_and_it_is_said(tmp_path):
    for video in range(4):
        for i in range(20):
            save(scene(video, moved=2 * i), tmp_path / f"{video}-{i}.png")
    lines = []
    chosen = choose_images(ImageFolder(tmp_path), 36, report=lines.append)
    assert len({image.sha256 for image in chosen}) == 36
    assert {image.file_name[0] for image in chosen} == set("0123")
    assert any(line.startswith("only 4 of the 36 images look different") for line in lines)


def test_no_more_images_are_decoded_than_promised(tmp_path, monkeypatch):
    for i in range(40):
        save(scene(i), tmp_path / "a" / f"{i}.png")
    for i in range(160):
        save(scene(0, moved=i), tmp_path / "b" / f"{i}.png")
    decoded = []
    original = ImageFolder.image
    monkeypatch.setattr(ImageFolder, "image", lambda s, i: decoded.append(i) or original(s, i))
    seen = []
    chosen = choose_images(ImageFolder(tmp_path), 33, progress=lambda *step: seen.append(step))
    assert len(chosen) == 33
    assert len(decoded) <= READ_PER_IMAGE * 33
    assert seen[0] == (0, 33)
    assert seen[-1] == (33, 33)


def test_damaged_files_of_a_plain_folder_are_left_out_and_named(tmp_path):
    for i in range(40):
        save(scene(i), tmp_path / f"{i}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    lines = []
    assert len(choose_images(ImageFolder(tmp_path), 64, report=lines.append)) == 40
    assert "1 images cannot be read and are left out (cut.png)" in lines


def test_a_damaged_file_of_a_data_set_is_an_error(tmp_path):
    data = annotated(tmp_path, "train", {f"{i}.png": (scene(i), []) for i in range(40)})
    path = tmp_path / "train/0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="damaged"):
        choose_images(data, 64)


@pytest.mark.parametrize(
    ("count", "message"), [(0, None), (9, "9 images of one colour are left out"), (41, "raises")]
)
def test_images_of_one_colour_are_left_out_or_refused(tmp_path, count, message):
    for i in range(40):
        save(scene(i), tmp_path / f"{i}.png")
    for i in range(count):
        save(np.full((64, 64, 3), 90 + i, np.uint8), tmp_path / f"flat{i}.png")
    lines = []
    if message == "raises":
        with pytest.raises(DataError, match="41 of 81 images are of one colour; calibrate"):
            choose_images(ImageFolder(tmp_path), 100)
        return
    assert len(choose_images(ImageFolder(tmp_path), 100, report=lines.append)) == 40
    assert message is None or message in lines


def test_images_divided_by_255_are_named(tmp_path):
    for i in range(40):
        image = scene(i) // 255
        image[0, 0, 0] = i // 20  # not all files are equal
        image[1, i] = 1
        save(image, tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"almost black; .* must be multiplied by 255"):
        choose_images(ImageFolder(tmp_path), 64)


def test_copies_count_once_and_too_few_images_are_refused(tmp_path):
    for i in range(31):
        save(scene(i), tmp_path / f"{i}.png")
        shutil.copy(tmp_path / f"{i}.png", tmp_path / f"copy{i}.png")
    with pytest.raises(DataError, match="at least 32 different images, here are 31"):
        choose_images(ImageFolder(tmp_path), 64)


def test_images_of_the_evaluation_are_refused_under_any_name(tmp_path):
    evaluation = annotated(tmp_path, "val", {f"{i}.png": (scene(i), []) for i in range(5)})
    for i in range(40, 80):
        save(scene(i), tmp_path / "calibration" / f"{i}.png")
    shutil.copy(tmp_path / "val/3.png", tmp_path / "calibration/other.png")
    chosen = choose_images(ImageFolder(tmp_path / "calibration"), 64)
    with pytest.raises(DataError, match=r"saw other.png, an image of the evaluation \(3.png\)"):
        refuse_overlap({image.sha256: image.file_name for image in chosen}, evaluation)


def test_frames_beside_those_of_the_evaluation_are_reported(tmp_path):
    images = {f"frame{i}.png": (scene(i, moved=3), []) for i in (0, 1, 50, 51, 52)}
    evaluation = annotated(tmp_path, "val", images)
    for i in range(40):
        save(scene(i), tmp_path / "calibration" / f"{i}.png")
    chosen = choose_images(ImageFolder(tmp_path / "calibration"), 64)
    refuse_overlap({image.sha256: image.file_name for image in chosen}, evaluation)
    lines = []
    report_near_copies(chosen, evaluation, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("2 of 5 images of the evaluation look nearly like images")
    assert "(frame0.png like 0.png)" in lines[0]
    others = annotated(tmp_path / "o", "val", {f"{i}.png": (scene(i), []) for i in range(50, 60)})
    report_near_copies(chosen, others, lines.append)
    assert len(lines) == 1
