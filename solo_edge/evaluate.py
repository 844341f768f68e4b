"""COCO mask AP of anything that turns an image into `Instances`.

The metric is that of pycocotools (`COCOeval`, iouType "segm"), computed by faster-coco-eval. Detections
are scored by the area of their *mask*: a "bbox" in a result would make both libraries sort it into
small/medium/large by the area of its box, so saved detections carry none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import AccuracyError, ArtifactError, UsageError
from solo_edge.files import atomic_file

if TYPE_CHECKING:
    from solo_edge.data.coco import CocoDataset
    from solo_edge.instances import Instances

__all__ = [
    "STATS",
    "Evaluation",
    "coco_metrics",
    "coco_results",
    "evaluate",
    "match_classes",
    "matched_iou",
]

# Names of COCOeval.stats, in its order. s, m, l: area below 32², up to 96², above. 1, 10, 100: detections
# allowed for each image.
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class Evaluation:
    """What was measured. A number is -1 where the data holds no object of that kind, as in pycocotools."""

    stats: dict[str, float]  # the twelve numbers, keys as in STATS
    per_class: dict[str, float]  # class name -> AP
    detections: list[
        dict[str, Any]
    ]  # COCO results: image_id, category_id, segmentation (RLE), score
    images: int

    @property
    def ap(self) -> float:
        """Mask AP averaged over IoU 0.50:0.95 and classes; 0 when there was nothing to find."""
        return max(self.stats["AP"], 0.0)

    def save_detections(self, path: Path) -> None:
        """Write the detections as a COCO results file, atomically."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(self.detections), "utf-8")


def evaluate(
    predict: Callable[[NDArray[np.uint8]], Instances],  # [H, W, 3] uint8 RGB -> Instances
    dataset: CocoDataset,
    *,
    progress: Callable[[int, int], None]
    | None = None,  # called with (done, total) after each image
    max_images: int | None = None,  # only the first ones
) -> Evaluation:
    """Run `predict` over the images of `dataset` and compare with its annotations.

    Classes are matched by name, so the label order of model and data may differ.

    Raises:
        ArtifactError: the model's classes are not those of the data.
        AccuracyError: a score is not a number.
        DataError: an image cannot be read.
    """
    total = count_images(dataset, max_images)
    class_names: Sequence[str] | None = getattr(predict, "class_names", None)
    category_ids = None if class_names is None else match_classes(class_names, dataset)
    detections: list[dict[str, Any]] = []
    for index in range(total):
        found = predict(dataset.image(index))
        if found.class_names is not class_names or category_ids is None:
            class_names = found.class_names
            category_ids = match_classes(class_names, dataset)
        detections += coco_results(found, dataset.image_ids[index], category_ids)
        if progress is not None:
            progress(index + 1, total)
    stats, per_class = coco_metrics(dataset, detections, total)
    return Evaluation(stats, per_class, detections, total)


def count_images(dataset: CocoDataset, max_images: int | None) -> int:
    """How many images to use: all, or the first `max_images`."""
    if max_images is not None and max_images < 1:
        raise UsageError(f"--max-images is {max_images}", fix="it must be at least 1")
    return len(dataset) if max_images is None else min(len(dataset), max_images)


def match_classes(class_names: Sequence[str], dataset: CocoDataset) -> tuple[int, ...]:
    """COCO category id in `dataset` of each label of a model, matched by name.

    Raises:
        ArtifactError: a class is missing on either side; the message says which.
    """
    ours, theirs = tuple(class_names), tuple(dataset.class_names)
    if ours == theirs:  # also right when a name occurs twice
        return tuple(dataset.category_ids)
    by_name = dict(zip(theirs, dataset.category_ids, strict=True))
    differences = [
        f"{problem} {_some(names)}"
        for problem, names in (
            ("the model lacks", [name for name in theirs if name not in ours]),
            ("the data lacks", [name for name in ours if name not in by_name]),
            ("named twice:", [name for name in by_name if theirs.count(name) > 1]),
            ("named twice in the model:", [n for n in dict.fromkeys(ours) if ours.count(n) > 1]),
        )
        if names
    ]
    if differences:
        raise ArtifactError(
            f"the classes of model and data differ: {', '.join(differences)}",
            where=dataset.path,
            fix="evaluate on data with the classes that the model was trained on",
        )
    return tuple(by_name[name] for name in ours)


def _some(names: Sequence[str], limit: int = 5) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def coco_results(
    found: Instances, image_id: int, category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """One image's instances as COCO results for mask AP: those of `Instances.to_coco` without the box."""
    results = found.to_coco(image_id, category_ids)
    for result in results:
        result.pop("bbox", None)
        if not math.isfinite(result["score"]):
            raise AccuracyError(
                "the network gave a score that is not a number",
                where=f"image {image_id}",
                fix="train again or build the engine in fp32",
            )
    return results


def coco_metrics(
    dataset: CocoDataset, detections: Sequence[dict[str, Any]], images: int | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """The twelve COCO numbers and the AP of each class, over the first `images` images.

    No detection at all gives zeros. Neither argument is changed.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    image_ids = set(dataset.image_ids[:images])
    truth = dataset.coco_dict()
    # faster-coco-eval adds keys to the records that it is given: hand it copies.
    ground_truth = COCO(
        {
            "images": [dict(r) for r in truth["images"] if r["id"] in image_ids],
            "annotations": [dict(r) for r in truth["annotations"] if r["image_id"] in image_ids],
            "categories": [dict(r) for r in truth["categories"]],
        }
    )
    results = ground_truth.loadRes([dict(result) for result in detections])
    evaluator = COCOeval_faster(ground_truth, results, iouType="segm")
    evaluator.run()
    stats = {name: float(value) for name, value in zip(STATS, evaluator.stats, strict=True)}

    precision = np.asarray(evaluator.eval["precision"])  # [IoU, recall, class, area, detections]
    by_category = {}
    for position, category_id in enumerate(evaluator.params.catIds):
        values = precision[:, :, position, 0, -1]
        values = values[values > -1]
        by_category[int(category_id)] = float(values.mean()) if values.size else -1.0
    per_class = {
        name: by_category[category_id]
        for name, category_id in zip(dataset.class_names, dataset.category_ids, strict=True)
    }
    return stats, per_class


def matched_iou(
    reference: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    *,
    min_score: float = 0.3,
) -> float:
    """Mean mask IoU of the instances of `reference` with what `others` has in their place.

    Each sure instance (from `min_score`) meets the instance of its image and class that overlaps it
    most, whatever that one's score; one that nothing overlaps counts as 0. Without any, the result is 1.

    Args:
        reference, others: COCO results, segmentations as run-length codes.
    """
    from faster_coco_eval import mask

    candidates: dict[tuple[int, int], list[Any]] = {}
    for each in others:
        key = (each["image_id"], each["category_id"])
        candidates.setdefault(key, []).append(each["segmentation"])
    best = []
    for each in reference:
        if each["score"] < min_score:
            continue
        there = candidates.get((each["image_id"], each["category_id"]))
        overlaps = mask.iou([each["segmentation"]], there, [0] * len(there)) if there else 0.0
        best.append(float(np.max(overlaps)))
    return float(np.mean(best)) if best else 1.0
