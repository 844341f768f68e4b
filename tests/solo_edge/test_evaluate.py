"""The numbers are those of pycocotools, whatever the detections look like."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import AccuracyError, ArtifactError, UsageError
from solo_edge.evaluate import STATS, coco_metrics, evaluate, match_classes
from solo_edge.instances import Instances

SIZE = (120, 160)


class Data:
    """The part of `CocoDataset` that evaluation uses, in memory."""

    path = Path("data")
    split = "val"

    def __init__(self, class_names, category_ids, images, annotations):
        self.class_names, self.category_ids = tuple(class_names), tuple(category_ids)
        self.image_ids = [10 * (i + 1) for i in range(images)]
        self.annotations = annotations

    def __len__(self):
        return len(self.image_ids)

    def image(self, index):
        image = np.zeros((*SIZE, 3), np.uint8)
        image[0, 0, 0] = index  # so that a predictor knows which image this is
        return image

    def coco_dict(self):
        return {
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in self.image_ids],
            "annotations": self.annotations,
            "categories": [
                {"id": i, "name": n}
                for n, i in zip(self.class_names, self.category_ids, strict=True)
            ],
        }


def ellipse(rng):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    cy, cx = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1])
    ry, rx = rng.uniform(2, 60, 2)
    return ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1


def rle(mask):
    from pycocotools import mask as api

    code = api.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def random_case(seed, images=12):
    """Data with all object sizes and crowds, and for each image a list of (label, score, mask)."""
    rng = np.random.default_rng(seed)
    annotations, found = [], []
    ids = (7, 3, 90)  # neither sorted nor contiguous
    for index in range(images):
        predictions = []
        for _ in range(rng.integers(0, 7)):
            mask, label, crowd = ellipse(rng), int(rng.integers(3)), rng.random() < 0.2
            if not mask.any():
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 * (index + 1),
                    "category_id": ids[label],
                    "segmentation": rle(mask),
                    "area": float(mask.sum()),
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                    "iscrowd": int(crowd),
                }
            )
            for _ in range(rng.integers(0, 4)):  # found once, several times, or missed
                moved = np.roll(mask, rng.integers(-6, 7, 2), (0, 1))
                other = label if rng.random() < 0.9 else int(rng.integers(3))
                predictions.append((other, float(rng.integers(1, 20)) / 20, moved))  # with ties
        for _ in range(rng.integers(0, 3)):
            predictions.append((int(rng.integers(3)), float(rng.random()), ellipse(rng)))
        found.append(sorted(predictions, key=lambda p: -p[1]))
    return Data(("disk", "ring", "bar"), ids, images, annotations), found


def predictor(found, class_names):
    def predict(image):
        here = found[int(image[0, 0, 0])]
        return Instances(
            np.array([score for _, score, _ in here], np.float32),
            np.array([label for label, _, _ in here], np.int64),
            np.array([mask for _, _, mask in here], bool).reshape(-1, *SIZE),
            class_names=class_names,
            image_size=SIZE,
        )

    return predict


def pycocotools_metrics(data, detections):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(data.coco_dict())
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(copy.deepcopy(detections)), "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    precision = evaluator.eval["precision"][:, :, :, 0, -1]
    by_id = {c: precision[:, :, k] for k, c in enumerate(evaluator.params.catIds)}
    per_class = {
        name: by_id[i][by_id[i] > -1].mean() if (by_id[i] > -1).any() else -1.0
        for name, i in zip(data.class_names, data.category_ids, strict=True)
    }
    return evaluator.stats, per_class


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed):
    data, found = random_case(seed)
    result = evaluate(predictor(found, data.class_names), data)
    stats, per_class = pycocotools_metrics(data, result.detections)
    assert tuple(result.stats) == STATS
    np.testing.assert_allclose(list(result.stats.values()), stats, rtol=0, atol=1e-12)
    assert result.per_class == pytest.approx(per_class, abs=1e-12)
    assert 0 < result.ap < 1


def test_inputs_stay_as_they_were():
    data, found = random_case(0)
    before = copy.deepcopy(data.annotations)
    result = evaluate(predictor(found, data.class_names), data)
    detections = copy.deepcopy(result.detections)
    coco_metrics(data, result.detections)
    assert data.annotations == before
    assert result.detections == detections


def test_perfect_detections_score_one():
    data, _ = random_case(1)
    truth = data.annotations
    for annotation in truth:
        annotation["iscrowd"] = 0
    detections = [
        {k: a[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.9}
        for a in truth
    ]
    stats, per_class = coco_metrics(data, detections)
    assert stats["AP"] == pytest.approx(1.0)
    assert list(per_class.values()) == pytest.approx([1.0] * 3)


def test_nothing_found_is_zero_not_a_crash():
    data, _ = random_case(2)
    result = evaluate(predictor([[]] * len(data), data.class_names), data)
    assert result.stats["AP"] == result.ap == 0.0
    assert result.detections == []


def test_nothing_to_find():
    data = Data(("disk",), (1,), 2, [])
    result = evaluate(predictor([[]] * 2, ("disk",)), data)
    assert result.stats["AP"] == -1.0
    assert result.ap == 0.0


def test_only_the_first_images_count():
    data, found = random_case(3)
    seen = []
    result = evaluate(
        predictor(found, data.class_names),
        data,
        max_images=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 5) for i in range(1, 6)]
    assert result.images == 5
    ids = set(data.image_ids[:5])
    data.annotations = [a for a in data.annotations if a["image_id"] in ids]
    data.image_ids = data.image_ids[:5]
    stats, _ = pycocotools_metrics(data, result.detections)
    np.testing.assert_allclose(list(result.stats.values()), stats, rtol=0, atol=1e-12)


def test_saved_detections_give_the_same_numbers_in_pycocotools(tmp_path):
    from pycocotools.coco import COCO

    data, found = random_case(4)
    result = evaluate(predictor(found, data.class_names), data)
    result.save_detections(tmp_path / "new" / "detections.json")
    saved = json.loads((tmp_path / "new" / "detections.json").read_text())
    assert {"image_id", "category_id", "segmentation", "score"} == set(saved[0])
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = data.coco_dict()
        truth.createIndex()
        truth.loadRes(str(tmp_path / "new" / "detections.json"))
    stats, _ = pycocotools_metrics(data, saved)
    np.testing.assert_allclose(list(result.stats.values()), stats, rtol=0, atol=1e-12)


def test_classes_are_matched_by_name():
    data, found = random_case(0)
    straight = evaluate(predictor(found, data.class_names), data)
    order = [2, 0, 1]  # the model's labels of disk, ring, bar are 1, 2, 0
    names = tuple(data.class_names[i] for i in order)
    swapped = [[(order.index(label), s, m) for label, s, m in image] for image in found]
    result = evaluate(predictor(swapped, names), data)
    assert result.stats == straight.stats
    assert result.per_class == straight.per_class


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("disk", "ring"), "the model lacks 'bar'"),
        (("disk", "ring", "bar", "cup"), "the data lacks 'cup'"),
        (("disk", "ring", "Bar"), "the model lacks 'bar', the data lacks 'Bar'"),
        (("disk", "ring", "bar", "bar"), "named twice in the model: 'bar'"),
    ],
)
def test_different_classes_are_refused(names, message):
    data, _ = random_case(0)
    with pytest.raises(ArtifactError, match=message):
        match_classes(names, data)


def test_many_missing_classes_make_a_short_message():
    data = Data([f"class {i}" for i in range(80)], range(80), 1, [])
    with pytest.raises(ArtifactError, match="and 75 more") as caught:
        match_classes([], data)
    assert len(str(caught.value)) < 250


def test_scores_that_are_no_numbers_are_refused():
    data, found = random_case(0)
    index = next(i for i, predictions in enumerate(found) if predictions)
    found[index][0] = (0, float("nan"), found[index][0][2])
    with pytest.raises(AccuracyError, match="not a number"):
        evaluate(predictor(found, data.class_names), data)


def test_max_images_must_be_positive():
    data, found = random_case(0)
    with pytest.raises(UsageError, match="max-images"):
        evaluate(predictor(found, data.class_names), data, max_images=0)
