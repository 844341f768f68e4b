"""Every kind of defect is found, in one pass, with the record it is in; a correct set has none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from solo_edge.data.check import check_dataset
from solo_edge.data.check.geometry import crosses_itself
from solo_edge.data.coco import open_dataset
from solo_edge.data.defect_kinds import KINDS
from solo_edge.errors import DataError


def test_a_correct_data_set_has_no_defect(good: Path, codes_of) -> None:
    assert codes_of(good) == {}


def test_real_data_sets_have_no_errors(shared: Path) -> None:
    for name in ("balloon", "fruits_nuts", "coco_road4"):
        report = check_dataset(shared / "data" / name)
        assert report.count("error") == 0
        found = {code for _, defects in report.all_defects() for code in defects.by_code}
        assert found <= {"rle-uncompressed", "polygon-self-crossing"}


def test_all_kinds_are_found_in_one_run(spoilt: Path, every_kind: set[str], codes_of) -> None:
    assert len(every_kind) >= 45
    found = codes_of(spoilt)
    assert set(found) == every_kind
    assert found["image-near-duplicate"] == found["leak-near"] == found["leak-exact"] == 1
    once = {code: count for code, count in found.items() if count != 1}
    # Images whose record is useless are unlisted, and run lengths that do not add up are a list, too.
    assert set(once) == {"category-unused", "image-unlisted", "rle-uncompressed"}


def test_defects_name_their_records(spoilt: Path) -> None:
    report = check_dataset(spoilt)
    content = json.loads((spoilt / "train.json").read_text())
    found = report.splits[0].defects.by_code
    nan = next(
        a["id"]
        for a in content["annotations"]
        if isinstance(a, dict) and "NaN" in json.dumps(a.get("segmentation"))
    )
    (finding,) = found["polygon-not-finite"]
    assert (finding.noun, finding.key, finding.place) == ("annotation", nan, f"annotation {nan}")
    (leak,) = report.between.by_code["leak-exact"]
    assert leak.key == "val/01.png"
    assert "train" in leak.detail
    assert "03.png" in leak.detail


def test_the_report_is_plain_json(spoilt: Path, every_kind: set[str]) -> None:
    values = json.loads(json.dumps(check_dataset(spoilt).to_dict(), allow_nan=False))
    assert {defect["code"] for defect in values["defects"]} == every_kind
    for defect in values["defects"]:
        assert defect["count"] == len(defect["found"])
        assert all(defect[key] for key in ("what", "fix", "fix_to", "severity"))
    assert values["errors"] == sum(
        d["count"] for d in values["defects"] if d["severity"] == "error"
    )
    assert values["splits"]["val"]["image_folder"].endswith("val")


def test_training_refuses_what_is_an_error_and_nothing_else(good: Path, spoilt: Path) -> None:
    """The same codes: those of the annotations at once, those of the pixels when they are read."""
    with pytest.raises(DataError) as caught:
        open_dataset(spoilt, "train")
    report = check_dataset(spoilt)
    by_code = report.splits[0].defects.by_code
    only_seen_in_pixels = {
        "image-unreadable",
        "image-too-large",
        "image-size-differs",
        "exif-size-differs",
    }
    told_otherwise = {"file-name-case"}  # to training it is a missing file
    for code in by_code:
        told = f"{code}]" in str(caught.value) or f" x {code}" in str(caught.value)
        is_error = KINDS[code].severity == "error"
        assert told == (is_error and code not in only_seen_in_pixels | told_otherwise), code
    assert len(open_dataset(good, "train")) == 6


def test_sizes_of_images_are_refused_with_their_code(good: Path, paint) -> None:
    paint(good / "train/02.png", 1, (50, 50))
    paint(good / "train/03.png", 1, (80, 60))
    dataset = open_dataset(good, "train")
    for index, code in ((1, "image-size-differs"), (2, "exif-size-differs")):
        with pytest.raises(DataError, match=rf"\[{code}\]; solo-edge check-data"):
            dataset.image(index)


@pytest.mark.parametrize(
    ("level", "hidden"),
    [
        ("headers", {"image-unreadable", "image-near-duplicate", "leak-near"}),
        (
            "none",
            {"image-unreadable", "image-near-duplicate", "leak-near", "leak-exact", "image-duplicate",
             "image-too-large", "image-size-differs", "exif-size-differs", "exif-ambiguous",
             "image-mode", "image-unlisted"},
        ),
    ],
)  # fmt: skip
def test_a_quicker_look_sees_less(spoilt: Path, every_kind: set[str], level, hidden) -> None:
    report = check_dataset(spoilt, level=level)
    found = {code for _, defects in report.all_defects() for code in defects.by_code}
    assert found == every_kind - hidden


def test_one_split_is_checked_alone(spoilt: Path) -> None:
    report = check_dataset(spoilt, ["val"])
    assert [split.source.split for split in report.splits] == ["val"]
    assert report.count("error") == 0
    assert not report.between.by_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "file-unreadable"),
        ("[1, 2]", "file-unreadable"),
        ('{"images": [}', "file-unreadable"),
        ('{"images": 1, "annotations": []}', "list-missing"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no-images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "no-categories"),
    ],
)
def test_broken_files_do_not_end_the_check(good: Path, text: str, code: str, codes_of) -> None:
    (good / "val.json").write_text(text)
    assert code in codes_of(good)
    with pytest.raises(DataError, match=code):
        open_dataset(good, "val")


def test_nothing_is_changed_in_the_data_set(spoilt: Path, tree_digest) -> None:
    before = tree_digest(spoilt)
    check_dataset(spoilt)
    assert tree_digest(spoilt) == before


def test_numbers_that_would_hang_or_fill_the_memory(good: Path, codes_of) -> None:
    content = json.loads((good / "train.json").read_text())
    content["images"][0].update(height=10**9, width=10**9)
    content["annotations"][2].update(segmentation=[[float("nan")] * 6])
    content["annotations"][4].update(segmentation=[[1, 1, float("inf"), 1, 5, 5]])
    content["annotations"][6].update(segmentation=[[1, 1, 10**400, 1, 5, 5]], area=10**400)
    content["annotations"][8].update(segmentation={"size": [60, 80], "counts": [10**30]})
    (good / "train.json").write_text(json.dumps(content))
    found = codes_of(good)
    assert found["image-too-large"] == 1
    assert found["polygon-not-finite"] == 2
    assert found["polygon-not-numbers"] == found["rle-counts"] == 1


def test_statistics(good: Path) -> None:
    content = json.loads((good / "train.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 6]
    content["annotations"][0]["iscrowd"] = 1
    (good / "train.json").write_text(json.dumps(content))
    facts = check_dataset(good).splits[0].statistics
    assert (facts.images, facts.empty_images, facts.instances, facts.crowds) == (6, 1, 9, 1)
    assert (facts.most_in_image, facts.median_in_image) == (2, 2.0)
    assert facts.image_sizes == {"80x60": 6}
    ant, bee = facts.classes
    assert (ant.name, ant.instances, ant.images, ant.small, ant.large) == ("ant", 4, 4, 4, 0)
    assert (bee.instances, bee.median_size) == (5, 21.2)
    assert facts.size_percentiles["p1"] == 20.0
    assert facts.size_histogram == {"16-32": 9}
    assert Counter(facts.size_histogram.values()).total() == 1


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([[0, 0], [4, 0], [4, 4], [0, 4]], False),
        ([[0, 0], [4, 4], [4, 0], [0, 4]], True),
        ([[0, 0], [4, 0], [2, 0], [2, 3]], False),  # goes back on itself
        ([[0, 0], [4, 0], [4, 4], [2, 0], [0, 4]], False),  # touches its own side
        ([[0, 0], [4, 0], [4, 4], [2, -1], [0, 4]], True),
        ([[0, 0], [0, 0], [4, 0], [4, 4], [4, 4], [0, 4]], False),  # doubled points
        ([[1, 1], [2, 2], [3, 1]], False),
    ],
)
def test_polygons_that_cross_themselves(points: list[list[float]], expected: bool) -> None:
    assert crosses_itself(np.array(points, dtype=float)) is expected


def test_long_polygons_that_cross_themselves() -> None:
    angles = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 100
    assert not crosses_itself(circle)
    circle[[200, 2700]] = circle[[2700, 200]]
    assert crosses_itself(circle)


def test_the_documentation_lists_every_kind() -> None:
    page = (Path(__file__).resolve().parents[4] / "docs/data.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert rows == [
        f"| `{k.code}` | {k.severity} | {k.title} | {k.clean} |" for k in KINDS.values()
    ]


def test_crossings_are_those_found_pair_by_pair() -> None:
    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    def crosses(points: np.ndarray) -> bool:
        sides = [(points[i - 1], points[i]) for i in range(len(points))]
        return any(
            side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
            for a, b in sides
            for c, d in sides
        )

    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        points = rng.integers(0, 8, (int(rng.integers(4, 8)), 2)).astype(float)
        found.append(crosses_itself(points))
        assert found[-1] == crosses(points)
    assert any(found)
    assert not all(found)
