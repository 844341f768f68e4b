"""A data set with every kind of defect, made from a correct one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from solo_edge.data.segmentations import mask_api

HEIGHT, WIDTH = 60, 80
SQUARE = [10.0, 10, 30, 10, 30, 30, 10, 30]


BLOCK = np.zeros((HEIGHT, WIDTH), np.uint8)
BLOCK[35:50, 40:70] = 1


def runs() -> list[int]:
    edges = np.flatnonzero(np.diff(BLOCK.T.reshape(-1).astype(int), prepend=0, append=0))
    return np.diff(edges, prepend=0, append=HEIGHT * WIDTH).tolist()


def code() -> dict[str, Any]:
    packed = mask_api().encode(np.asfortranarray(BLOCK))
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def correct(images: int) -> dict[str, Any]:
    """A correct file; image i has the annotations 2 i (a polygon) and 2 i + 1 (run lengths)."""
    annotations = []
    for image in range(1, images + 1):
        common = {"image_id": image, "iscrowd": 0}
        square = {"area": 400, "bbox": [10, 10, 20, 20], "segmentation": [SQUARE]}
        annotations.append({"id": 2 * image, "category_id": 1, **common, **square})
        block = {"area": 450, "bbox": [40, 35, 30, 15], "segmentation": code()}
        annotations.append({"id": 2 * image + 1, "category_id": 2, **common, **block})
    return {
        "info": {"year": 2026},
        "images": [
            {"id": i, "file_name": f"{i:02d}.png", "height": HEIGHT, "width": WIDTH, "license": 4}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee", "supercategory": "x"}],
    }


Change = Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], Any]


def annotation(**values: Any) -> Change:
    return lambda image, polygon, block: polygon.update(values)


def image(**values: Any) -> Change:
    return lambda image, polygon, block: image.update(values)


def lost(where: str, key: str) -> Change:
    return lambda image, polygon, block: (image if where == "image" else polygon).pop(key)


def rle(**values: Any) -> Change:
    return lambda image, polygon, block: block["segmentation"].update(values)


# Kind -> what is done to one image and its two annotations. Each kind gets an image of its own.
IN_THE_FILE: dict[str, Change] = {
    "record-malformed": lambda image, polygon, block: None,  # a 7 is added to the list
    "id-missing": lost("annotation", "id"),
    "id-not-number": annotation(id="forty"),
    "id-duplicate": annotation(id=3),
    "image-id-unknown": annotation(image_id=999),
    "category-id-unknown": annotation(category_id=999),
    "image-size-invalid": lost("image", "width"),
    "file-name-invalid": image(file_name=7),
    "file-name-unsafe": image(file_name="../../../etc/passwd"),
    "file-name-duplicate": image(file_name="01.png"),
    "crowd-flag-invalid": annotation(iscrowd="no"),
    "rle-uncompressed": rle(counts=runs()),
    "segmentation-missing": lost("annotation", "segmentation"),
    "segmentation-invalid": annotation(segmentation="M 0 0"),
    "polygon-not-numbers": annotation(segmentation=[["a"] * 6]),
    "polygon-odd": annotation(segmentation=[SQUARE[:7]]),
    "polygon-short": annotation(segmentation=[SQUARE, SQUARE[:4]]),
    "polygon-not-finite": annotation(segmentation=[[*SQUARE[:7], float("nan")]]),
    "polygon-far-outside": annotation(segmentation=[[1, 1, 1e9, 1, 5, 5]]),
    "polygon-outside": annotation(segmentation=[[90, 90, 99, 90, 99, 99]]),
    "polygon-sticks-out": annotation(
        segmentation=[[60, 10, 120, 10, 120, 30, 60, 30]], bbox=[60, 10, 20, 20]
    ),
    "polygon-self-crossing": annotation(
        segmentation=[[10, 10, 30, 30, 30, 10, 10, 30]], area=200, bbox=[10, 10, 20, 20]
    ),
    "no-pixels": annotation(segmentation=[[10, 10, 10, 10, 10, 10]]),
    "rle-size": rle(size=[WIDTH, HEIGHT]),
    "rle-counts": rle(counts=[5, 5]),
    "rle-damaged": rle(counts="~~"),
    "bbox-invalid": annotation(bbox=[0, 0, float("inf"), 1]),
    "bbox-differs": annotation(bbox=[10, 10, 30, 30]),  # corners instead of a size
    "area-differs": annotation(area=4000),
    "instance-duplicate": lambda image, polygon, block: block.update(
        segmentation=[SQUARE], category_id=1, bbox=[10, 10, 20, 20], area=400
    ),
    "instance-two-classes": lambda image, polygon, block: block.update(
        segmentation=[SQUARE], bbox=[10, 10, 20, 20], area=400
    ),
}


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[274] = orientation
    return found


def darker(file: Path) -> Image.Image:
    return Image.open(file).point(lambda value: value * 0.9)


def bomb(file: Path) -> None:
    Image.new("1", (12_000, 12_000)).save(file)


# Kind -> what is done to one image file.
IN_THE_IMAGES: dict[str, Callable[[Path], Any]] = {
    "image-missing": lambda file: file.unlink(),
    "file-name-case": lambda file: file.rename(file.with_suffix(".PNG")),
    "image-unreadable": lambda file: file.write_bytes(file.read_bytes()[:-300]),
    "image-too-large": bomb,
    "image-size-differs": lambda file: Image.new("RGB", (WIDTH, HEIGHT + 1)).save(file),
    "exif-size-differs": lambda file: Image.open(file).save(file, exif=exif(6)),
    "exif-ambiguous": lambda file: Image.open(file).save(file, exif=exif(3)),
    "image-mode": lambda file: Image.open(file).convert("L").save(file),
    "image-duplicate": lambda file: file.write_bytes((file.parent / "01.png").read_bytes()),
    "image-near-duplicate": lambda file: darker(file.parent / "02.png").save(file),
}

ELSEWHERE = {
    "category-name-missing", "category-name-duplicate", "category-gaps", "category-unused",
    "classes-differ", "image-unlisted", "leak-exact", "leak-near",
}  # fmt: skip


@pytest.fixture
def every_kind() -> set[str]:
    """The codes of all defects in `spoilt`."""
    return {*IN_THE_FILE, *IN_THE_IMAGES, *ELSEWHERE}


@pytest.fixture
def good(tmp_path: Path, paint) -> Path:
    """A correct data set with two splits."""
    for split, count, first in (("train", 6, 0), ("val", 3, 100)):
        content = correct(count)
        for record in content["images"]:
            paint(tmp_path / "good" / split / record["file_name"], first + record["id"])
        (tmp_path / "good" / f"{split}.json").write_text(json.dumps(content))
    return tmp_path / "good"


@pytest.fixture
def spoilt(tmp_path: Path, paint) -> Path:
    """A data set with one defect of each kind; the first four images and six others are correct."""
    folder = tmp_path / "spoilt"
    count = 4 + len(IN_THE_FILE) + len(IN_THE_IMAGES) + 6
    content = correct(count)
    content["annotations"].append(7)
    content["categories"] += [
        {"id": 5, "name": ""},
        {"id": 6, "name": "bee"},
        {"id": 90, "name": "never"},
    ]
    files = [paint(folder / f"train/{i:02d}.png", i) for i in range(1, count + 1)]
    for i, change in enumerate(IN_THE_FILE.values(), start=4):
        change(content["images"][i], *content["annotations"][2 * i : 2 * i + 2])
    for i, spoil in enumerate(IN_THE_IMAGES.values(), start=4 + len(IN_THE_FILE)):
        spoil(files[i])
    (folder / "train.json").write_text(json.dumps(content))
    paint(folder / "train/unlisted.png", 900)
    other = correct(3)
    (folder / "val.json").write_text(json.dumps(other))
    paint(folder / "val/03.png", 903)
    (folder / "val/01.png").write_bytes(files[2].read_bytes())
    darker(files[3]).save(folder / "val/02.png")
    os.utime(folder / "train.json", ns=(10**18, 10**18))
    return folder
