"""Datasets in COCO's format: a folder with annotation files and the images of one or more splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.annotations import (
    Annotation,
    AnnotationFile,
    Defects,
    ImageRecord,
    read_annotations,
)
from solo_edge.data.masks import GroundTruth, crop_of_runs, runs_of_counts
from solo_edge.errors import DataError, UsageError
from solo_edge.images import read_image

__all__ = ["CocoDataset", "GroundTruth", "open_dataset"]

# Annotation files that COCO publishes beside those of instances.
OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")
ROBOFLOW_FILE = "_annotations.coco.json"  # Roboflow's export: one in the folder of each split
ALIASES = {"val": ("valid", "validation")}


class CocoDataset:
    """One split: images and their instances by index, in the annotation file's order.

    Everything but the pixels is checked when it is made.

    Args:
        path: the dataset's folder.
        split: the name of the part.
        annotation_path: its annotation file.
        image_folders: where the `file_name`s may be; the first folder with the first image is it.

    Raises:
        DataError: the annotations have mistakes or images are missing.
    """

    def __init__(
        self, path: Path, split: str, annotation_path: Path, image_folders: Sequence[Path]
    ):
        self.path = path
        self.split = split
        self.annotation_path = annotation_path
        content = read_annotations(annotation_path)
        self.warnings: list[str] = content.warnings
        self.category_ids: tuple[int, ...] = tuple(content.categories)
        self.class_names: tuple[str, ...] = tuple(content.categories.values())
        self.image_ids: list[int] = [record.id for record in content.images]
        self._records: list[ImageRecord] = content.images
        self.image_folder = _folder_of(self._records[0], image_folders)
        self._annotations = _by_image(content)
        self._labels = {category: label for label, category in enumerate(self.category_ids)}
        self._check_files()

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        return self.image_folder / self._records[index].file_name

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) as annotated, which is how the image is displayed."""
        return self._records[index].height, self._records[index].width

    def image(self, index: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, upright (EXIF orientation applied).

        Raises:
            DataError: the file is no readable image, or its size is not the annotated one.
        """
        path = self.image_path(index)
        image = read_image(path)
        (height, width), found = self.image_size(index), (image.shape[0], image.shape[1])
        if found != (height, width):
            swapped = " (width and height swapped: annotated without its EXIF orientation?)"
            raise DataError(
                f"image {self.image_ids[index]} is annotated as {width} x {height} pixels but"
                f" {path.name} has {found[1]} x {found[0]}{swapped if found == (width, height) else ''}",
                where=self.annotation_path,
                fix="annotate the image as it is, or restore the one that was annotated",
            )
        return image

    def ground_truth(self, index: int) -> GroundTruth:
        """The instances of one image, without crowd regions."""
        size = self.image_size(index)
        regions = []
        for annotation in self._annotations[index]:
            if annotation.is_crowd:
                continue
            region = crop_of_runs(runs_of_counts(annotation.counts), size)
            if region is not None:
                regions.append((*region, self._labels[annotation.category_id]))
        return GroundTruth.from_regions(size, regions)

    def mask_bytes(self, index: int) -> int:
        """About how much memory `ground_truth(index)` takes."""
        boxes = (annotation.bbox for annotation in self._annotations[index])
        return int(sum(width * height + 200 for _, _, width, height in boxes))

    def coco_dict(self) -> dict[str, Any]:
        """The ground truth for COCO's evaluators, crowd regions included; a new dict at each call.

        Every segmentation is a compressed run-length code with `counts` as text; `area`, `bbox` and
        `iscrowd` are always there. Areas keep the file's values, which decide what counts as small.
        """
        sizes = {record.id: [record.height, record.width] for record in self._records}
        return {
            "images": [
                {"id": r.id, "file_name": r.file_name, "width": r.width, "height": r.height}
                for r in self._records
            ],
            "annotations": [
                {
                    "id": annotation.id,
                    "image_id": annotation.image_id,
                    "category_id": annotation.category_id,
                    "iscrowd": int(annotation.is_crowd),
                    "area": annotation.area,
                    "bbox": list(annotation.bbox),
                    "segmentation": {
                        "size": list(sizes[annotation.image_id]),
                        "counts": annotation.counts,
                    },
                }
                for annotations in self._annotations
                for annotation in annotations
            ],
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(self.category_ids, self.class_names, strict=True)
            ],
        }

    def _check_files(self) -> None:
        defects = Defects(self.annotation_path)
        for index, record in enumerate(self._records):
            if not _is_file(self.image_path(index)):
                what = f"{record.file_name!r:.200} is not in {self.image_folder}"
                defects.note(f"image {record.id}", "image file not found", what)
        defects.raise_if_any("put the missing images there or remove their entries")


def open_dataset(path: Path, split: str) -> CocoDataset:
    """The part `split` of the dataset in the folder `path`.

    Known layouts, for the split "train":

        {path}/train.json                              images in {path}/train/
        {path}/annotations/instances_train2017.json    images in {path}/train2017/
        {path}/annotations/train.json                  images in {path}/images/train/ or {path}/images/
        {path}/train/_annotations.coco.json            images beside it

    Raises:
        UsageError: there is no such folder or split, or several files may be meant.
        DataError: the annotations have mistakes or images are missing.
    """
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "no such folder"
        raise UsageError(problem, where=path, fix="give the folder that holds the dataset")
    files = _annotation_files(path)
    numbered = re.compile(rf"{re.escape(split)}[-_]?\d+")  # "train2017", but not "training"
    names = [name for name in (split, *ALIASES.get(split, ())) if name in files][:1] or [
        name for name in files if numbered.fullmatch(name)
    ]
    if not names:
        found = f"there are: {', '.join(files)}" if files else "no annotation files (*.json) found"
        raise UsageError(f"no split {split!r}", where=path, fix=found)
    found_files = [file for name in names for file in files[name]]
    if len(found_files) > 1:
        listed = ", ".join(str(file.relative_to(path)) for file in found_files)
        fix = "name one of them exactly" if len(names) > 1 else "keep one of them"
        raise UsageError(f"split {split!r} may be any of {listed}", where=path, fix=fix)
    file = found_files[0]
    beside = [file.parent] if file.name == ROBOFLOW_FILE else []
    images = path / "images"
    folders = [path / names[0], path / split, images / names[0], images / split, images, path]
    return CocoDataset(path, split, file, beside + folders)


def _annotation_files(path: Path) -> dict[str, list[Path]]:
    """Name of a split -> the annotation files that may be meant by it."""
    files = sorted(path.glob("*.json")) + sorted((path / "annotations").glob("*.json"))
    found: dict[str, list[Path]] = {}
    for file in files:
        if not file.name.startswith((*OTHER_TASKS, ".")):
            found.setdefault(file.stem.removeprefix("instances_"), []).append(file)
    for file in sorted(path.glob(f"*/{ROBOFLOW_FILE}")):
        found.setdefault(file.parent.name, []).append(file)
    return found


def _folder_of(record: ImageRecord, folders: Sequence[Path]) -> Path:
    holding = [folder for folder in folders if _is_file(folder / record.file_name)]
    # Nothing there: name the likeliest place. The last one, the dataset's own folder, always exists.
    existing = [folder for folder in folders[:-1] if folder.is_dir()]
    return [*holding, *existing, *folders][0]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example a name that is too long
        return False


def _by_image(content: AnnotationFile) -> list[list[Annotation]]:
    found: dict[int, list[Annotation]] = {record.id: [] for record in content.images}
    for annotation in content.annotations:
        found[annotation.image_id].append(annotation)
    return list(found.values())
