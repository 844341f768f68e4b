"""Dividing: shares and classes come out as asked for, copies stay together, nothing is lost."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_edge.data.check import check_dataset
from solo_edge.data.coco import open_dataset
from solo_edge.data.split import divide, split_dataset
from solo_edge.errors import DataError, UsageError

SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}


def pixels(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """30 images; each third of them shows a rare class, each fifth nothing. Four look alike."""
    folder = tmp_path / "data"
    (folder / "all").mkdir(parents=True)
    images, annotations = [], []
    for i in range(30):
        shown = pixels(i) if i >= 4 else (pixels(0) * (1 - i / 50)).astype(np.uint8)
        Image.fromarray(shown).save(folder / f"all/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": 60, "width": 80})
        labels = [] if i % 5 == 0 else [1, 2] if i % 3 == 0 else [1]
        for label in labels:
            polygon = [[10, 10, 30, 10, 30, 30]]
            common = {"id": len(annotations) + 1, "image_id": i, "category_id": label}
            annotations.append({**common, "segmentation": polygon, "iscrowd": 0})
    categories = [{"id": 1, "name": "often"}, {"id": 2, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "all.json").write_text(json.dumps(content))
    return folder


def names_of(out: Path, split: str) -> list[str]:
    return [
        image["file_name"] for image in json.loads((out / f"{split}.json").read_text())["images"]
    ]


def test_every_image_is_in_one_split_and_copies_stay_together(
    data: Path, tmp_path: Path, tree_digest
) -> None:
    before = tree_digest(data)
    out = tmp_path / "out"
    division = split_dataset(data, out, SHARES)
    assert tree_digest(data) == before
    found = {split: names_of(out, split) for split in SHARES}
    assert sorted(itertools.chain(*found.values())) == sorted(f"{i}.png" for i in range(30))
    assert {split: len(names) for split, names in found.items()} == division.images
    assert division.images == {"train": 21, "val": 6, "test": 3}
    together = [
        split for split, names in found.items() if {"0.png", "1.png", "2.png", "3.png"} & {*names}
    ]
    assert len(together) == 1
    assert division.largest_group == 4
    report = check_dataset(out)
    codes = {code for _, defects in report.all_defects() for code in defects.by_code}
    assert not codes & {"leak-near", "leak-exact"}
    assert report.count("error") == 0
    assert sum(len(open_dataset(out, split).coco_dict()["annotations"]) for split in SHARES) == 32


def test_copies_are_divided_only_when_asked_for(data: Path, tmp_path: Path) -> None:
    found = []
    for seed in range(3):
        out = tmp_path / str(seed)
        split_dataset(data, out, {"train": 0.5, "val": 0.5}, seed=seed, keep_copies_together=False)
        found.append(check_dataset(out).between.by_code.get("leak-near"))
    assert any(found)


def test_the_seed_decides(data: Path, tmp_path: Path) -> None:
    def train(seed: int, out: str) -> list[str]:
        split_dataset(data, tmp_path / out, SHARES, seed=seed)
        return names_of(tmp_path / out, "train")

    assert train(1, "a") == train(1, "b") != train(2, "c")


def test_classes_are_spread_evenly() -> None:
    rng = np.random.default_rng(0)
    rare = [Counter({2: 1}) if i % 20 == 0 else Counter() for i in range(200)]
    labels = [Counter({1: int(rng.integers(0, 4))}) + other for other in rare]
    for seed in range(5):
        chosen = divide(labels, list(range(200)), SHARES, seed)
        rare_ones = Counter(name for name, own in zip(chosen, labels, strict=True) if own[2])
        assert rare_ones == {"train": 7, "val": 2, "test": 1}
        often = Counter(name for name, own in zip(chosen, labels, strict=True) if own[1])
        total = sum(often.values())
        for name, share in SHARES.items():
            assert often[name] == pytest.approx(share * total, abs=2)
            assert chosen.count(name) == pytest.approx(share * 200, abs=3)


def test_groups_stay_whole() -> None:
    groups = [i // 7 for i in range(70)]
    chosen = divide([Counter({1: 1})] * 70, groups, {"train": 0.8, "val": 0.2}, 0)
    assert all(len({chosen[i] for i in range(70) if groups[i] == g}) == 1 for g in range(10))
    assert chosen.count("val") == 14


def test_one_scene_cannot_be_divided(data: Path, tmp_path: Path) -> None:
    for i in range(30):
        Image.fromarray((pixels(0) * (1 - i / 150)).astype(np.uint8)).save(data / f"all/{i}.png")
    with pytest.raises(DataError, match=r"nothing is left for val: of 30 images, 30 look alike"):
        split_dataset(data, tmp_path / "out", {"train": 0.8, "val": 0.2})
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_divided_is_said(data: Path, tmp_path: Path) -> None:
    split_dataset(data, tmp_path / "out", SHARES)
    with pytest.raises(UsageError, match=r"divided already \(test, train, val\)"):
        split_dataset(tmp_path / "out", tmp_path / "again", SHARES)
    split_dataset(tmp_path / "out", tmp_path / "again", SHARES, split="train")
    with pytest.raises(UsageError, match="shares"):
        split_dataset(data, tmp_path / "x", {"train": 0.0, "val": 1.0})
    with pytest.raises(UsageError, match="already exists"):
        split_dataset(data, tmp_path / "out", SHARES)
    content = json.loads((data / "all.json").read_text())
    content["annotations"][0]["category_id"] = 9
    (data / "all.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="category-id-unknown"):
        split_dataset(data, tmp_path / "x", SHARES)
