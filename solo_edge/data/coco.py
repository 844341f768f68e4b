"""A split of a data set, checked and ready to be read: images and their instances by index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.annotations import Annotation, AnnotationFile, ImageRecord, parse_content
from solo_edge.data.defects import Defects, advice
from solo_edge.data.formats import read_source, require_format
from solo_edge.data.labelme import embedded_image
from solo_edge.data.masks import GroundTruth, crop_of_runs, runs_of_counts
from solo_edge.data.source import Source, is_file
from solo_edge.errors import DataError
from solo_edge.images import read_image

__all__ = ["CocoDataset", "GroundTruth", "folder_of", "open_dataset"]


class CocoDataset:
    """One split of a data set of any format, in COCO's terms and in the annotation file's order.

    Everything but the pixels is checked when it is made.

    Args:
        source: what the reader of its format found.
        defects: what that found wrong already.

    Raises:
        DataError: the annotations have errors or images are missing.
    """

    def __init__(self, source: Source, defects: Defects):
        self.path = source.path
        self.split = source.split
        self.annotation_path = source.annotation_path  # the file, or the folder with many of them
        content = parse_content(source.content, defects)
        self._records: list[ImageRecord] = content.images
        self._embedded = source.embedded
        self.image_folder = folder_of(self._records, source.image_folders)
        self._check_files(defects)
        defects.raise_if_errors()
        self.warnings: list[str] = [*source.notes, *defects.warnings()]
        self.category_ids: tuple[int, ...] = tuple(content.categories)
        self.class_names: tuple[str, ...] = tuple(content.categories.values())
        self.image_ids: list[int] = [record.id for record in content.images]
        self._annotations = _by_image(content)
        self._labels = {category: label for label, category in enumerate(self.category_ids)}

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_path(self, index: int) -> Path:
        """The file that holds the image: its own, or the LabelMe file that it is embedded in."""
        return self.image_folder / self._records[index].file_name

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) as annotated, which is how the image is displayed."""
        return self._records[index].height, self._records[index].width

    def image(self, index: int) -> NDArray[np.uint8]:
        """[H, W, 3] uint8 RGB, upright (EXIF orientation applied).

        Raises:
            DataError: the file is no readable image, or its size is not the annotated one.
        """
        path, name = self.image_path(index), self._records[index].file_name
        image = embedded_image(path) if name in self._embedded else read_image(path)
        (height, width), found = self.image_size(index), (image.shape[0], image.shape[1])
        if found != (height, width):
            swapped = found == (width, height)
            what = (
                f"image {self.image_ids[index]} is annotated as {width} x {height} pixels but"
                f" {path.name} has {found[1]} x {found[0]}"
            )
            if swapped:
                what += " (width and height swapped: annotated without its EXIF orientation?)"
            code = "exif-size-differs" if swapped else "image-size-differs"
            fix = advice(self.path)
            raise DataError(f"{what} [{code}]", where=self.annotation_path, fix=fix)
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

    def _check_files(self, defects: Defects) -> None:
        for index, record in enumerate(self._records):
            if not is_file(self.image_path(index)):
                what = f"{record.file_name!r:.200} is not in {self.image_folder}"
                defects.note("image-missing", "image", record.id, what)


def open_dataset(path: Path, split: str) -> CocoDataset:
    """The part `split` of the data set in the folder `path`, in whatever format it is.

    COCO's layouts, for the split "train"; docs/data.md has those of LabelMe, YOLO-seg, Pascal VOC and
    masks as images:

        {path}/train.json                              images in {path}/train/
        {path}/annotations/instances_train2017.json    images in {path}/train2017/
        {path}/annotations/train.json                  images in {path}/images/train/ or {path}/images/
        {path}/train/_annotations.coco.json            images beside it

    Raises:
        UsageError: there is no such folder or split, or several files may be meant.
        DataError: the annotations have errors or images are missing.
    """
    return CocoDataset(*read_source(require_format(path), split))


def folder_of(records: Sequence[ImageRecord], folders: Sequence[Path]) -> Path:
    """The first of `folders` with the first image; the likeliest one if it is nowhere."""
    name = records[0].file_name if records else ""
    holding = [folder for folder in folders if is_file(folder / name)]
    # Nothing there: name the likeliest place. The last one, the dataset's own folder, always exists.
    existing = [folder for folder in folders[:-1] if folder.is_dir()]
    return [*holding, *existing, *folders][0]


def _by_image(content: AnnotationFile) -> list[list[Annotation]]:
    found: dict[int, list[Annotation]] = {record.id: [] for record in content.images}
    for annotation in content.annotations:
        found[annotation.image_id].append(annotation)
    return list(found.values())
