"""What is in a split: objects by class, their sizes, and how they are spread over the images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from solo_edge.data.annotations import AnnotationFile

__all__ = ["ClassStatistics", "SplitStatistics", "split_statistics"]

SMALL, MEDIUM = 32.0**2, 96.0**2  # COCO's borders between small, medium and large areas
PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


@dataclass(frozen=True)
class ClassStatistics:
    name: str
    instances: int
    images: int  # that show it
    small: int
    medium: int
    large: int
    median_size: float  # square root of the area, pixels


@dataclass(frozen=True)
class SplitStatistics:
    """Crowd regions count as `crowds` alone."""

    images: int
    empty_images: int
    instances: int
    crowds: int
    most_in_image: int
    median_in_image: float
    image_sizes: Mapping[str, int]  # "WIDTHxHEIGHT" -> how many, the commonest ten
    size_percentiles: Mapping[str, float]  # of the square roots of the areas, pixels
    size_histogram: Mapping[str, int]  # "16-32" pixels -> how many objects
    classes: tuple[ClassStatistics, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def split_statistics(content: AnnotationFile) -> SplitStatistics:
    """The figures of all records that can be used."""
    objects = [annotation for annotation in content.annotations if not annotation.is_crowd]
    areas = np.maximum(np.array([annotation.area for annotation in objects], dtype=float), 0.0)
    labels = np.array([annotation.category_id for annotation in objects], dtype=np.int64)
    images = np.array([annotation.image_id for annotation in objects], dtype=np.int64)
    by_image = Counter(images.tolist())
    counts = [by_image[record.id] for record in content.images]
    sizes = Counter(f"{record.width}x{record.height}" for record in content.images)
    roots = np.sqrt(areas)
    shares = np.percentile(roots, PERCENTILES) if len(roots) else np.zeros(len(PERCENTILES))
    return SplitStatistics(
        images=len(content.images),
        empty_images=counts.count(0),
        instances=len(objects),
        crowds=len(content.annotations) - len(objects),
        most_in_image=max(counts, default=0),
        median_in_image=float(np.median(counts)) if counts else 0.0,
        image_sizes=dict(sizes.most_common(10)),
        size_percentiles={
            f"p{p}": round(float(value), 1) for p, value in zip(PERCENTILES, shares, strict=True)
        },
        size_histogram=_histogram(roots),
        classes=tuple(
            _class(name, areas[labels == category], images[labels == category])
            for category, name in content.categories.items()
        ),
    )


def _class(name: str, areas: Any, images: Any) -> ClassStatistics:
    small, large = int((areas < SMALL).sum()), int((areas >= MEDIUM).sum())
    median = round(float(np.median(np.sqrt(areas))), 1) if len(areas) else 0.0
    between = len(areas) - small - large
    shown = len(np.unique(images))
    return ClassStatistics(name, len(areas), shown, small, between, large, median)


def _histogram(roots: Any) -> dict[str, int]:
    """Objects by size, in steps that double."""
    if not len(roots):
        return {}
    steps = np.floor(np.log2(np.maximum(roots, 1.0))).astype(int)
    found = Counter(steps.tolist())
    return {
        f"{2**step}-{2 ** (step + 1)}": found[step] for step in range(min(found), max(found) + 1)
    }
