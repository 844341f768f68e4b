"""A clean copy has no errors, keeps what was right, and the original stays as it was."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_edge.data.check import check_dataset, write_clean_copy
from solo_edge.data.coco import open_dataset
from solo_edge.errors import DataError, ResourceError, UsageError


def clean(data: Path, out: Path, **options) -> dict[str, tuple[int, int]]:
    return write_clean_copy(check_dataset(data), out, **options)


def errors_of(path: Path) -> dict[str, int]:
    found = check_dataset(path).all_defects()
    return {kind.code: len(f) for _, defects in found for kind, f in defects.found("error")}


def test_a_clean_copy_of_everything_wrong(spoilt: Path, tmp_path: Path, tree_digest) -> None:
    before = tree_digest(spoilt)
    written = clean(spoilt, tmp_path / "clean")
    assert tree_digest(spoilt) == before
    assert errors_of(tmp_path / "clean") == {}
    content = json.loads((tmp_path / "clean/train.json").read_text())
    names = {image["file_name"] for image in content["images"]}
    assert written["train"] == (len(content["images"]), len(content["annotations"]))
    assert {file.name for file in (tmp_path / "clean/train").iterdir()} == names
    # What only one reading could be meant by is mended: the spelling, the turned pixels, a size.
    assert {"37.PNG", "41.png.png", "11.png"} <= names
    assert not {"36.png", "38.png", "39.png", "40.png"} & names
    assert content["info"] == {"year": 2026}
    assert all(image["license"] == 4 for image in content["images"])
    assert [category["name"] for category in content["categories"]] == ["ant", "bee", "never"]
    val = json.loads((tmp_path / "clean/val.json").read_text())
    ours, theirs = ([(c["id"], c["name"]) for c in x["categories"]] for x in (val, content))
    assert ours == theirs


def test_a_correct_set_stays_what_it_is(good: Path, tmp_path: Path) -> None:
    clean(good, tmp_path / "clean")
    for split in ("train", "val"):
        ours, theirs = (
            json.loads((folder / f"{split}.json").read_text())
            for folder in (tmp_path / "clean", good)
        )
        assert ours == theirs
        for file in (good / split).iterdir():
            assert (tmp_path / "clean" / split / file.name).read_bytes() == file.read_bytes()


def test_ids_that_are_texts_become_numbers(good: Path, tmp_path: Path) -> None:
    content = json.loads((good / "train.json").read_text())
    for image in content["images"]:
        image["id"] = f"img{image['id']}"
    content["categories"][0]["id"] = "1"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"img{annotation['image_id']}"
        annotation["id"] = str(annotation["id"])
        annotation["category_id"] = str(annotation["category_id"])
    (good / "train.json").write_text(json.dumps(content))
    expected = open_dataset(good, "val")  # the same objects in other pictures
    assert clean(good, tmp_path / "clean")["train"] == (6, 12)
    found = open_dataset(tmp_path / "clean", "train")
    assert found.class_names == expected.class_names
    np.testing.assert_array_equal(found.ground_truth(0).masks, expected.ground_truth(0).masks)


def test_ids_that_mean_two_things_are_left_out(good: Path, tmp_path: Path) -> None:
    content = json.loads((good / "train.json").read_text())
    content["images"][1]["id"] = 1  # whose are the annotations of image 1?
    content["images"].append(dict(content["images"][2]))  # says the same twice
    (good / "train.json").write_text(json.dumps(content))
    assert clean(good, tmp_path / "clean")["train"] == (4, 8)
    kept = {
        image["file_name"]
        for image in json.loads((tmp_path / "clean/train.json").read_text())["images"]
    }
    assert kept == {"03.png", "04.png", "05.png", "06.png"}


def test_objects_of_one_file_come_together(good: Path, tmp_path: Path) -> None:
    content = json.loads((good / "train.json").read_text())
    content["images"][1]["file_name"] = "01.png"
    content["annotations"][2]["segmentation"] = [[50, 5, 60, 5, 60, 9]]
    content["annotations"][2].update(bbox=[50, 5, 10, 4], area=20)
    (good / "train.json").write_text(json.dumps(content))
    clean(good, tmp_path / "clean")
    dataset = open_dataset(tmp_path / "clean", "train")
    assert len(dataset) == 5
    assert len(dataset.ground_truth(0)) == 4


def test_pixels_are_written_as_they_were_annotated(good: Path, tmp_path: Path) -> None:
    stored = np.asarray(Image.open(good / "train/01.png"))
    for orientation, name in zip((5, 6, 7, 8), ("01", "02", "03", "04"), strict=True):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(good / f"train/{name}.png", exif=exif)
    clean(good, tmp_path / "clean")
    dataset = open_dataset(tmp_path / "clean", "train")
    for index in range(4):
        np.testing.assert_array_equal(dataset.image(index), stored)


def test_boxes_and_areas_come_from_the_mask_where_they_are_wrong(
    good: Path, tmp_path: Path
) -> None:
    content = json.loads((good / "train.json").read_text())
    content["annotations"][0].update(bbox=[10, 10, 30, 30], area=1e6)
    content["annotations"][2].update(area=390.5)  # of the polygon, not of its pixels: fine
    (good / "train.json").write_text(json.dumps(content))
    clean(good, tmp_path / "clean")
    found = json.loads((tmp_path / "clean/train.json").read_text())["annotations"]
    assert (found[0]["bbox"], found[0]["area"]) == ([10, 10, 20, 20], 400)
    assert found[2]["area"] == 390.5
    assert found[0]["segmentation"] == content["annotations"][0]["segmentation"]


def test_hard_links(good: Path, tmp_path: Path) -> None:
    clean(good, tmp_path / "clean", link=True)
    assert (tmp_path / "clean/train/01.png").samefile(good / "train/01.png")


def test_a_link_that_cannot_be_made_leaves_nothing(good: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(ResourceError, match="leave --link out"):
        clean(good, tmp_path / "clean", link=True)
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_embedded_images_become_files(tmp_path: Path, paint) -> None:
    picture = paint(tmp_path / "x.jpg", 5)
    shape = {"label": "box", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    data = base64.b64encode(picture.read_bytes()).decode()
    content = {"shapes": [shape], "imagePath": "x.jpg", "imageData": data}
    (tmp_path / "set/train").mkdir(parents=True)
    (tmp_path / "set/train/a.json").write_text(json.dumps(content))
    clean(tmp_path / "set", tmp_path / "clean")
    assert (tmp_path / "clean/train/a.json.jpg").read_bytes() == picture.read_bytes()
    assert len(open_dataset(tmp_path / "clean", "train").ground_truth(0)) == 1


def test_common_folders_are_left_out_of_names(tmp_path: Path, paint) -> None:
    for name in ("a/1", "b/1"):
        paint(tmp_path / f"set/images/train/{name}.png", len(name))
        label = tmp_path / f"set/labels/train/{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    clean(tmp_path / "set", tmp_path / "clean")
    names = [
        p.relative_to(tmp_path / "clean/train") for p in (tmp_path / "clean/train").rglob("*.png")
    ]
    assert sorted(map(str, names)) == ["a/1.png", "b/1.png"]


def test_the_data_set_is_never_written_to(good: Path, tree_digest) -> None:
    before = tree_digest(good)
    for out in (good, good / "clean", good / "train", good.parent):
        with pytest.raises(UsageError):
            clean(good, out)
    assert tree_digest(good) == before


def test_nothing_usable_is_an_error(good: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for file in (good / split).iterdir():
            file.write_bytes(b"")
    with pytest.raises(DataError, match="nothing usable"):
        clean(good, tmp_path / "clean")
    assert not (tmp_path / "clean").exists()
