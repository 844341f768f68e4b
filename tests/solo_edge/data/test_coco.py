"""COCO datasets: right masks from every encoding, and a clear refusal of every kind of mistake."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO

from solo_edge.data.cache import CachedDataset
from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.data.masks import GroundTruth, crop_of_runs, runs_of_counts
from solo_edge.errors import DataError, UsageError

# pycocotools, built for an older NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 12, 20


def runs_of(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, counted the slow way."""
    runs, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def compressed(mask: np.ndarray) -> dict[str, Any]:
    code = reference.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def drawn(seed: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    rng = np.random.default_rng(seed)
    top, left = rng.integers(0, (6, 10))
    mask[top : top + 6, left : left + 9] = rng.random((6, 9)) > 0.3
    return mask


BLOB = drawn(1)
SQUARE = [2.0, 3.0, 8.0, 3.0, 8.0, 9.0, 2.0, 9.0]


def content() -> dict[str, Any]:
    """A correct file: two images; polygons, both kinds of run lengths and a crowd region."""
    square = {"id": 10, "image_id": 5, "category_id": 7, "segmentation": [SQUARE], "iscrowd": 0}
    two_parts = [[1.0, 1, 4, 1, 4, 4], [12.0, 6, 18, 6, 18, 11, 12, 11]]
    return {
        "info": {},
        "images": [
            {"id": 5, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
            {"id": 3, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
        ],
        "annotations": [
            square | {"area": 36.0, "bbox": [2, 3, 6, 6]},
            {"id": 11, "image_id": 5, "category_id": 2, "segmentation": two_parts},
            square | {"id": 12, "segmentation": compressed(BLOB)},
            square | {"id": 13, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs_of(BLOB)}},
            square | {"id": 14, "segmentation": compressed(drawn(2)), "iscrowd": 1},
        ],
        "categories": [
            {"id": 7, "name": "truck", "supercategory": "vehicle"},
            {"id": 2, "name": "car"},
            {"id": 90, "name": "unused"},
        ],
    }


def write(folder: Path, values: Any, *, file: str = "train.json", images: str = "train") -> Path:
    (folder / images).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(folder / images / name)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(values if isinstance(values, str) else json.dumps(values))
    return folder


def test_reads_a_correct_dataset(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, content()), "train")
    assert dataset.class_names == ("car", "truck", "unused")
    assert dataset.category_ids == (2, 7, 90)
    assert dataset.image_ids == [5, 3]
    assert dataset.warnings == []
    assert len(dataset) == 2
    assert dataset.image_size(0) == (HEIGHT, WIDTH)
    assert dataset.image_path(1) == tmp_path / "train/a.png"
    assert dataset.image(0).tolist() == np.full((HEIGHT, WIDTH, 3), (9, 8, 7)).tolist()

    truth = dataset.ground_truth(0)
    assert truth.labels.tolist() == [1, 0, 1, 1]  # no crowd
    assert truth.labels.dtype == np.int64
    assert truth.boxes.dtype == np.float32
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[3:9, 2:8] = 1
    np.testing.assert_array_equal(truth.masks[0], expected)
    assert truth.boxes[0].tolist() == [2, 3, 8, 9]
    np.testing.assert_array_equal(truth.masks[2], BLOB)
    np.testing.assert_array_equal(truth.masks[3], BLOB)

    nothing = dataset.ground_truth(1)
    assert nothing.masks.shape == (0, HEIGHT, WIDTH)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.labels.shape == (0,)


def test_masks_equal_the_coco_api(tmp_path: Path) -> None:
    path = write(tmp_path, content()) / "train.json"
    api, dataset = COCO(str(path)), open_dataset(tmp_path, "train")
    annotations = [a for a in api.loadAnns(api.getAnnIds(imgIds=[5])) if not a.get("iscrowd")]
    for mask, annotation in zip(dataset.ground_truth(0).masks, annotations, strict=True):
        np.testing.assert_array_equal(mask, api.annToMask(annotation))


def test_real_masks_equal_the_coco_api(shared: Path) -> None:
    for name, split in (("coco_road4", "val"), ("balloon", "val"), ("nuclei_dsb2018", "test")):
        dataset = open_dataset(shared / "data" / name, split)
        api = COCO(str(dataset.annotation_path))
        assert dataset.warnings == []
        for index in range(0, len(dataset), 9):
            image_id = dataset.image_ids[index]
            annotations = api.loadAnns(api.getAnnIds(imgIds=[image_id], iscrowd=False))
            truth = dataset.ground_truth(index)
            assert len(truth) == len(annotations)
            assert dataset.image(index).shape[:2] == truth.image_size
            for mask, box, annotation in zip(truth.masks, truth.boxes, annotations, strict=True):
                np.testing.assert_array_equal(mask, api.annToMask(annotation))
                assert mask[:, int(box[0]) : int(box[2])].any(axis=0)[[0, -1]].all()
                assert mask[int(box[1]) : int(box[3])].any(axis=1)[[0, -1]].all()
                assert (
                    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])].sum() == mask.sum()
                )


def test_real_datasets_open(shared: Path) -> None:
    expected = {
        ("nuclei_dsb2018", "val"): (117, 4894),
        ("coco_road4", "train"): (120, 1963),
        ("coco_road4", "val"): (30, 586),
        ("fruits_nuts", "all"): (18, 165),
        ("balloon", "train"): (61, 255),
        ("coco_train2017_287", "train"): (287, 2336),
    }
    for (name, split), counts in expected.items():
        dataset = open_dataset(shared / "data" / name, split)
        found = dataset.coco_dict()
        assert (len(found["images"]), len(found["annotations"])) == counts, name
        original = json.loads(dataset.annotation_path.read_text())
        areas = {a["id"]: a["area"] for a in original["annotations"]}
        assert {a["id"]: a["area"] for a in found["annotations"]} == areas, name


def test_evaluator_gets_everything(tmp_path: Path) -> None:
    truth = open_dataset(write(tmp_path, content()), "train").coco_dict()
    assert [record["id"] for record in truth["images"]] == [5, 3]
    assert [record["iscrowd"] for record in truth["annotations"]] == [0, 0, 0, 0, 1]
    by_id = {record["id"]: record for record in truth["annotations"]}
    assert by_id[10]["area"] == 36.0
    assert by_id[10]["bbox"] == [2, 3, 6, 6]
    assert by_id[12]["area"] == BLOB.sum()  # the file does not say
    assert by_id[12]["bbox"] == reference.toBbox(compressed(BLOB)).tolist()
    np.testing.assert_array_equal(reference.decode(by_id[14]["segmentation"]), drawn(2))
    assert truth["categories"] == [
        {"id": 2, "name": "car"},
        {"id": 7, "name": "truck"},
        {"id": 90, "name": "unused"},
    ]
    json.dumps(truth)


def test_run_lengths_of_random_masks() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((h, w)) < density for h, w, density in [
        (1, 1, 0.5), (1, 9, 0.5), (9, 1, 0.5), (40, 30, 0.01), (40, 30, 0.9), (7, 300, 0.5),
        (5, 5, 0.0), (5, 5, 2.0), (700, 500, 0.0005),
    ]]  # fmt: skip
    for mask in (mask.astype(np.uint8) for mask in masks):
        runs = runs_of_counts(compressed(mask)["counts"])
        assert runs.tolist() == runs_of(mask)
        region = crop_of_runs(runs, mask.shape)
        if region is None:
            assert not mask.any()
            continue
        (left, top, right, bottom), crop = region
        again = np.zeros_like(mask)
        again[top:bottom, left:right] = crop
        np.testing.assert_array_equal(again, mask)
        assert all(edge.any() for edge in (crop[0], crop[-1], crop[:, 0], crop[:, -1]))


@pytest.mark.parametrize("counts", ["é", " ", "p", "P", "0" * 3 + "o", "o" * 14 + "0"])
def test_damaged_run_lengths(counts: str) -> None:
    with pytest.raises(ValueError, match=r"char|cut|large"):
        runs_of_counts(counts)


def test_flipped_ground_truth() -> None:
    masks = np.stack([drawn(seed) for seed in range(5)])
    truth = GroundTruth.from_masks(masks, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(truth.masks, masks)
    flipped = truth.flipped()
    np.testing.assert_array_equal(flipped.masks, masks[:, :, ::-1])
    again = GroundTruth.from_masks(masks[:, :, ::-1], truth.labels.tolist())
    np.testing.assert_array_equal(flipped.boxes, again.boxes)


Change = Callable[[dict[str, Any]], Any]


def annotation(position: int = 1, **values: Any) -> Change:
    return lambda data: data["annotations"][position].update(values)


def image(position: int = 1, **values: Any) -> Change:
    return lambda data: data["images"][position].update(values)


def without(group: str, key: str, position: int = 1) -> Change:
    return lambda data: data[group][position].pop(key)


def code(**values: Any) -> Change:
    return annotation(segmentation=compressed(BLOB) | values)


SIZE = [HEIGHT, WIDTH]
MISTAKES: dict[str, tuple[Change, str]] = {
    "no images key": (lambda data: data.pop("images"), "'images' is missing"),
    "no annotations key": (lambda data: data.pop("annotations"), "'annotations' is missing"),
    "no categories key": (lambda data: data.pop("categories"), "'categories' is missing"),
    "images no list": (lambda data: data.update(images={}), "'images' is not a list"),
    "no images": (lambda data: data.update(images=[]), "'images' is empty"),
    "no categories": (lambda data: data.update(categories=[]), "'categories' is empty"),
    "annotation no object": (lambda data: data["annotations"].insert(2, 7), r"annotations\[2\]"),
    "annotation without id": (without("annotations", "id"), r"annotations\[1\]: id is missing"),
    "without image": (without("annotations", "image_id"), "annotation 11: image_id is missing"),
    "without category": (without("annotations", "category_id"), "annotation 11: category_id is m"),
    "without mask": (without("annotations", "segmentation"), "annotation 11: segmentation is mis"),
    "text id": (annotation(id="11"), r"annotations\[1\]: id is '11', not a number"),
    "true id": (annotation(id=True), r"annotations\[1\]: id is True"),
    "duplicate annotation": (annotation(id=10), "annotation 10: duplicate annotation id"),
    "duplicate image": (image(id=5), "image 5: duplicate image id"),
    "duplicate category": (lambda data: data["categories"][1].update(id=7), "category 7: duplic"),
    "category without name": (lambda data: data["categories"][1].pop("name"), "category 2: name is missing"),
    "unknown image": (annotation(image_id=77), "annotation 11: image_id 77 is not among"),
    "unknown category": (annotation(category_id=77), "annotation 11: category_id 77 is not among"),
    "crowd": (annotation(iscrowd=2), "annotation 11: iscrowd"),
    "image without size": (without("images", "width"), "image 3: width is missing"),
    "zero size": (image(height=0), "image 3: size is 20 x 0"),
    "text size": (image(height="12"), "image 3: height is '12'"),
    "image without file": (without("images", "file_name"), "image 3: file_name is missing"),
    "missing file": (image(file_name="c.png"), "image 3: 'c.png' is not in"),
    "folder as file": (image(file_name="."), "image 3: '.' is not in"),
    "long name": (image(file_name="x" * 300), "image 3: 'xxx.* is not in"),
    "parent folder": (image(file_name="../train/a.png"), "image 3: .*leaves the folder"),
    "hidden parent": (image(file_name="x/../../a.png"), "image 3: .*leaves the folder"),
    "windows parent": (image(file_name="..\\a.png"), "image 3: .*leaves the folder"),
    "absolute": (image(file_name="/etc/passwd"), "image 3: .*leaves the folder"),
    "windows absolute": (image(file_name="C:\\a.png"), "image 3: .*leaves the folder"),
    "nul": (image(file_name="a\0.png"), "image 3: file_name is missing or"),
    "odd polygon": (annotation(segmentation=[SQUARE[:7]]), "annotation 11: polygon has 7 numbers"),
    "short polygon": (annotation(segmentation=[SQUARE[:4]]), "annotation 11: polygon has 4 num"),
    "flat polygon": (annotation(segmentation=SQUARE), "annotation 11: polygon is not a list"),
    "deep polygon": (annotation(segmentation=[[[1, 2]] * 6]), "annotation 11: .*not a number"),
    "text polygon": (annotation(segmentation=[["1"] * 6]), "annotation 11: .*not a number"),
    "NaN": (annotation(segmentation=[[*SQUARE[:7], float("nan")]]), "annotation 11: .*NaN"),
    "infinity": (annotation(segmentation=[[*SQUARE[:7], float("inf")]]), "annotation 11: .*infin"),
    "null": (annotation(segmentation=None), "annotation 11: segmentation is neither"),
    "null in polygon": (annotation(segmentation=[[*SQUARE[:7], None]]), "annotation 11: a polygon with"),
    "far polygon": (annotation(segmentation=[[1, 1, 1e12, 1, 5, 5]]), "annotation 11: .*far out"),
    "code of other size": (code(size=[WIDTH, HEIGHT]), r"annotation 11: .* size \[20, 12\], its im"),
    "code without size": (code(size=None), "annotation 11: .* size None"),
    "code without counts": (code(counts=None), "annotation 11: run-length code without counts"),
    "short code": (code(counts="b3"), "annotation 11: run-length code covers 114 pixels"),
    "damaged code": (code(counts="~~"), "annotation 11: run-length code is damaged"),
    "cut code": (code(counts="oo"), "annotation 11: run-length code is damaged: cut off"),
    "short counts": (code(counts=[3, 5]), "annotation 11: run-length code covers 8 pixels"),
    "negative counts": (code(counts=[-3, 243]), "annotation 11: a run length is negative"),
    "huge counts": (code(counts=[10**30]), "annotation 11: a run length .* larger than the image"),
    "broken counts": (code(counts=[1.5, 238.5]), "annotation 11: run-length code without counts"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_named(tmp_path: Path, name: str) -> None:
    change, words = MISTAKES[name]
    data = content()
    change(data)
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(write(tmp_path, data), "train")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "train.json"))
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"images": [}', '{"images": 1}', "\ufeff{}", "\x00"]
)
def test_unreadable_file(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(write(tmp_path, text), "train")
    assert "train.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_counted(tmp_path: Path) -> None:
    data = content()
    for position in (0, 2, 3):
        annotation(position, category_id=77)(data)
    annotation(1, segmentation=[SQUARE[:5]])(data)
    image(0, width=-1)(data)  # and its annotations are not blamed for it
    with pytest.raises(DataError) as caught:
        open_dataset(write(tmp_path, data), "train")
    message = str(caught.value)
    assert "image 5: size is -1 x 12" in message
    assert "3 x category-id-unknown" in message
    image(0, width=WIDTH)(data)
    with pytest.raises(DataError) as caught:
        open_dataset(write(tmp_path, data), "train")
    message = str(caught.value)
    assert "annotation 10: category_id 77" in message
    assert "2 more of this kind" in message
    assert "1 x polygon-odd" in message


def test_annotations_without_pixels_are_left_out(tmp_path: Path) -> None:
    data = content()
    empty = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    annotation(0, segmentation=[[30.0, 1, 40, 1, 40, 9]])(data)  # right of the image
    annotation(1, segmentation=[])(data)
    annotation(2, segmentation=compressed(empty))(data)
    annotation(3, segmentation=[[1e9, 1e9, 2e9, 1e9, 2e9, 2e9], SQUARE])(data)  # one part is inside
    dataset = open_dataset(write(tmp_path, data), "train")
    assert dataset.warnings == [
        "train.json: annotation 10: a polygon entirely outside its image is not used [polygon-outside]",
        "train.json: 2 x, first annotation 11: an object without a pixel is not used [no-pixels]",
    ]
    assert dataset.ground_truth(0).boxes.tolist() == [[2, 3, 8, 9]]
    assert [record["id"] for record in dataset.coco_dict()["annotations"]] == [13, 14]


def test_polygon_leaving_the_image_is_cut(tmp_path: Path) -> None:
    data = content()
    annotation(0, segmentation=[[-5.0, -5, 4, -5, 4, 4, -5, 4]])(data)
    truth = open_dataset(write(tmp_path, data), "train").ground_truth(0)
    assert truth.boxes[0].tolist() == [0, 0, 4, 4]


def test_suspicious_but_usable(tmp_path: Path) -> None:
    data = content()
    data["annotations"] = []
    data["images"][1]["file_name"] = "b.png"
    data["categories"][1]["name"] = "truck"
    warnings = open_dataset(write(tmp_path, data), "train").warnings
    assert [w.removeprefix("train.json: ") for w in warnings] == [
        "there is no object in any image [no-objects]",
        "category 7: 'truck' is also category 2 [category-name-duplicate]",
        "image 3: 'b.png' is also image 5 [file-name-duplicate]",
    ]


def test_size_that_differs_from_the_image(tmp_path: Path) -> None:
    write(tmp_path, content())
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "train/a.png")
    dataset = open_dataset(tmp_path, "train")
    dataset.image(0)
    with pytest.raises(DataError, match=r"image 3 is annotated as 20 x 12 .* a.png has 20 x 13"):
        dataset.image(1)


def test_exif_orientation(tmp_path: Path) -> None:
    """Annotations belong to the image as it is displayed; its unrotated size is an error."""
    data = content()
    write(tmp_path, data)
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (HEIGHT, WIDTH), (250, 0, 0)).save(tmp_path / "train/b.png", exif=exif)
    assert open_dataset(tmp_path, "train").image(0).shape == (HEIGHT, WIDTH, 3)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "train/b.png", exif=exif)
    with pytest.raises(DataError, match="swapped"):
        open_dataset(tmp_path, "train").image(0)


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("train.json", "train", "train"),
        ("train.json", "images", "train"),
        ("train.json", "images/train", "train"),
        ("train.json", ".", "train"),
        ("annotations/train.json", "train", "train"),
        ("annotations/instances_train.json", "images/train", "train"),
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/instances_train2017.json", "train2017", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017", "train2017"),
        ("annotations/instances_val2017.json", "images/val2017", "val"),
        ("train/_annotations.coco.json", "train", "train"),
        ("valid/_annotations.coco.json", "valid", "val"),
    ],
)
def test_layouts(tmp_path: Path, file: str, images: str, split: str) -> None:
    dataset = open_dataset(write(tmp_path, content(), file=file, images=images), split)
    assert dataset.image_path(0).resolve() == (tmp_path / images / "b.png").resolve()
    assert dataset.split == split
    assert dataset.path == tmp_path


def test_missing_images_name_the_likely_folder(tmp_path: Path) -> None:
    write(tmp_path, content(), images="elsewhere")
    with pytest.raises(
        DataError, match=r"'b.png' is not in \S+/train \[image-missing\] \(and 1 more"
    ):
        open_dataset(tmp_path, "train")
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"'b.png' is not in \S+/images "):
        open_dataset(tmp_path, "train")


def test_file_names_with_the_folder(tmp_path: Path) -> None:
    data = content()
    for record in data["images"]:
        record["file_name"] = "train/" + record["file_name"]
    assert open_dataset(write(tmp_path, data), "train").image(0).shape == (HEIGHT, WIDTH, 3)


def test_folder_with_everything_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "it's [1] ü;$(x)\nset"
    assert len(open_dataset(write(folder, content()), "train")) == 2
    with pytest.raises(UsageError) as caught:
        open_dataset(folder, "val")
    assert "\n" not in str(caught.value)


def test_missing_split_lists_the_others(tmp_path: Path) -> None:
    write(tmp_path, content(), file="annotations/instances_train2017.json")
    (tmp_path / "annotations/captions_train2017.json").write_text("{}")
    (tmp_path / "all.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no split 'test'; there are: all, train2017$"):
        open_dataset(tmp_path, "test")


def test_split_that_may_be_several(tmp_path: Path) -> None:
    for year in ("2014", "2017"):
        file = f"annotations/instances_train{year}.json"
        write(tmp_path, content(), file=file, images="images")
    with pytest.raises(UsageError, match="any of train2014, train2017; name one"):
        open_dataset(tmp_path, "train")
    assert len(open_dataset(tmp_path, "train2017")) == 2


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        open_dataset(tmp_path / "nowhere", "train")
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(UsageError, match="is not a folder"):
        open_dataset(tmp_path / "train.json", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no annotation files"):
        open_dataset(tmp_path / "empty", "train")


def same(ours: Any, theirs: CocoDataset) -> None:
    assert len(ours) == len(theirs)
    for name in ("image_ids", "class_names", "category_ids", "path", "split", "warnings"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.coco_dict() == theirs.coco_dict()
    for index in range(len(theirs)):
        np.testing.assert_array_equal(ours.image(index), theirs.image(index))
        np.testing.assert_array_equal(
            ours.ground_truth(index).masks, theirs.ground_truth(index).masks
        )
        assert ours.image_size(index) == theirs.image_size(index)
        assert ours.image_path(index) == theirs.image_path(index)


def test_cache_reads_the_same(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, content()), "train")
    cached = CachedDataset(dataset, 1 << 20)
    assert cached.is_cached
    assert "in memory" in cached.describe()
    same(cached, dataset)
    assert cached.image(0) is cached.image(0)
    assert not cached.image(0).flags.writeable
    (tmp_path / "train/a.png").unlink()
    cached.image(1)


def test_cache_without_room_reads_from_disk(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, content()), "train")
    direct = CachedDataset(dataset, 2 * 3 * HEIGHT * WIDTH - 1)
    assert not direct.is_cached
    assert "from disk" in direct.describe()
    same(direct, dataset)
    assert copy.copy(direct.image(0)).flags.writeable


def test_cache_estimate_is_about_right(shared: Path) -> None:
    cached = CachedDataset(open_dataset(shared / "data/fruits_nuts", "all"), 1 << 30)
    held = sum(
        cached.image(i).nbytes + sum(crop.nbytes for crop in cached.ground_truth(i).crops)
        for i in range(len(cached))
    )
    assert held <= cached.needed_bytes < 1.3 * held
