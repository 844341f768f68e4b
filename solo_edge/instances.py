"""What was found in one image. Masks stay small (stride-4 probabilities) until somebody asks for pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ResourceError
from solo_edge.kernels.resize import STRIDE, Region, mask_regions, render_masks
from solo_edge.preprocess import Geometry

__all__ = ["Instances", "LazyMasks", "Region"]


@dataclass(frozen=True, eq=False)
class LazyMasks:
    """Masks that are rendered at the original image's size when they are asked for.

    Args:
        probabilities: [N, h, w] float32 at stride 4 of the network's input.
        geometry: how the original image lies in that input.
        threshold: a pixel is inside if its probability is above it.
    """

    probabilities: NDArray[np.float32]
    geometry: Geometry
    threshold: float = 0.5

    def __post_init__(self) -> None:
        shape, resized = self.probabilities.shape, self.geometry.resized_size
        if self.probabilities.ndim != 3:
            raise ValueError(f"probabilities must be [N, h, w], got {shape}")
        if resized[0] > STRIDE * shape[1] or resized[1] > STRIDE * shape[2]:
            raise ValueError(
                f"probabilities {shape} at stride {STRIDE} are smaller than the image {resized} they cover"
            )

    def __len__(self) -> int:
        return len(self.probabilities)

    def select(self, index: Any) -> LazyMasks:
        """The masks at `index`: whole numbers, booleans or a slice."""
        return LazyMasks(self.probabilities[_rows(index)], self.geometry, self.threshold)

    def regions(self) -> Iterator[Region]:
        """One `Region` (top, left, mask) for each mask; no full-size array is made."""
        resized, original = self.geometry.resized_size, self.geometry.original_size
        return mask_regions(self.probabilities, resized, original, self.threshold)

    def render(self, index: Any = None) -> NDArray[np.bool_]:
        """[N, H, W] bool, of all masks or of those at `index`.

        The same pixels as enlarging the probabilities four times (bilinear), cutting off the
        padding, resizing to the original size (bilinear) and comparing with the threshold, as the
        authors do. Only the surroundings of each object are computed, one mask at a time.
        """
        chosen = self if index is None else self.select(index)
        resized, original = self.geometry.resized_size, self.geometry.original_size
        return render_masks(chosen.probabilities, resized, original, self.threshold)


class Instances:
    """The instances found in one image, best first.

    Args:
        scores: [N], in [0, 1].
        labels: [N], 0-based classes.
        masks: [N, H, W] bool, or `LazyMasks` of that image.
        class_names: one name for each class.
        image_size: (height, width) of the image and of the masks.
        track_ids: [N], what a tracker calls each of them, from 1; 0 for what it is not sure of. None
            if nothing was tracked.

    Raises:
        ValueError: lengths, sizes or labels do not fit together.
    """

    def __init__(
        self,
        scores: NDArray[Any],
        labels: NDArray[Any],
        masks: NDArray[np.bool_] | LazyMasks,
        *,
        class_names: Sequence[str],
        image_size: tuple[int, int],
        track_ids: NDArray[Any] | None = None,
    ):
        self.scores: NDArray[np.float32] = np.asarray(scores, dtype=np.float32)
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.track_ids: NDArray[np.int64] | None = (
            None if track_ids is None else np.asarray(track_ids, dtype=np.int64)
        )
        self._source = masks
        if isinstance(masks, LazyMasks):
            size = masks.geometry.original_size
        elif masks.ndim == 3 and masks.dtype == np.bool_:
            size = masks.shape[1:]
        else:
            raise ValueError(f"masks must be bool [N, H, W], got {masks.dtype} {masks.shape}")
        if tuple(size) != self.image_size:
            raise ValueError(f"masks are of size {tuple(size)}, the image is {self.image_size}")
        if not self.scores.shape == self.labels.shape == (len(masks),):
            raise ValueError(
                f"scores {self.scores.shape} and labels {self.labels.shape} must be [{len(masks)}] like masks"
            )
        if self.track_ids is not None and self.track_ids.shape != self.labels.shape:
            raise ValueError(f"track_ids must be [{len(masks)}], got {self.track_ids.shape}")
        if len(masks) and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(
                f"labels reach from {self.labels.min()} to {self.labels.max()},"
                f" but there are {len(self.class_names)} class names"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image_size
        found = [
            f"{name} {score:.2f}" for name, score in zip(self.names[:4], self.scores, strict=False)
        ]
        more = [f"{len(self) - 4} more"] if len(self) > 4 else []
        what = ": " + ", ".join(found + more) if found else ""
        return f"<Instances: {len(self)} in {height}x{width}{what}>"

    @property
    def names(self) -> list[str]:
        """The class name of each instance."""
        return [self.class_names[label] for label in self.labels]

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """[N, h, w] at stride 4 of the network's input; None if the masks came as pixels. Not a copy."""
        return self._source.probabilities if isinstance(self._source, LazyMasks) else None

    @property
    def lazy_masks(self) -> LazyMasks | None:
        """The masks before they are rendered; None if they came as pixels."""
        return self._source if isinstance(self._source, LazyMasks) else None

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """[N, H, W] bool. Rendered at the first use and kept; `regions` needs less memory."""
        return self._source.render() if isinstance(self._source, LazyMasks) else self._source

    def regions(self) -> Iterator[Region]:
        """One `Region` (top, left, mask) for each instance: its mask is empty outside."""
        if isinstance(self._source, LazyMasks) and "masks" not in self.__dict__:
            return self._source.regions()
        return (Region(0, 0, mask) for mask in self.masks)

    @property
    def boxes(self) -> NDArray[np.float32]:
        """[N, 4] float32 (left, top, right, bottom): tight, the end exclusive; 0 for an empty mask."""
        return self._extents[0]

    @property
    def areas(self) -> NDArray[np.int64]:
        """[N] pixels of each mask."""
        return self._extents[1]

    @cached_property
    def _extents(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        boxes = np.zeros((len(self), 4), dtype=np.float32)
        areas = np.zeros(len(self), dtype=np.int64)
        for i, region in enumerate(self.regions()):
            boxes[i], areas[i] = _box(region), np.count_nonzero(region.mask)
        return boxes, areas

    def select(self, index: Any) -> Instances:
        """The instances at `index`: whole numbers, booleans or a slice, in that order."""
        rows, source = _rows(index), self._source
        return Instances(
            self.scores[rows],
            self.labels[rows],
            source.select(rows) if isinstance(source, LazyMasks) else source[rows],
            class_names=self.class_names,
            image_size=self.image_size,
            track_ids=None if self.track_ids is None else self.track_ids[rows],
        )

    def tracked_as(self, track_ids: NDArray[Any]) -> Instances:
        """The same instances with these `track_ids`, [N]."""
        return Instances(
            self.scores,
            self.labels,
            self._source,
            class_names=self.class_names,
            image_size=self.image_size,
            track_ids=track_ids,
        )

    def at_least(self, score: float) -> Instances:
        """Only the instances with at least this score."""
        return self.select(self.scores >= score)

    def to_coco(
        self, image_id: int, category_ids: Sequence[int] | None = None
    ) -> list[dict[str, Any]]:
        """Results in COCO's format, ready for `json.dump`.

        Args:
            image_id: the image's id in the annotation file.
            category_ids: the category id of each class; without it, label + 1.

        Returns:
            For each instance `image_id`, `category_id`, `bbox` (left, top, width, height), `score`
            and `segmentation`: a compressed run-length code with `counts` as text. Of tracked
            instances also `track_id`.

        Raises:
            ResourceError: the package faster-coco-eval is not installed.
        """
        try:
            from faster_coco_eval.core import mask as mask_api
        except ImportError as error:
            what, fix = "COCO masks need faster-coco-eval", "pip install faster-coco-eval"
            raise ResourceError(what, fix=fix) from error
        height, width = self.image_size
        results = []
        labels, scores = self.labels.tolist(), self.scores.tolist()
        for label, score, region in zip(labels, scores, self.regions(), strict=True):
            runs = {"size": [height, width], "counts": _runs(region, self.image_size)}
            code = mask_api.frPyObjects(runs, height, width)
            counts = code["counts"]
            left, top, right, bottom = _box(region)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": label + 1 if category_ids is None else int(category_ids[label]),
                    "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                    "score": score,
                    "segmentation": {
                        "size": [height, width],
                        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
                    },
                }
            )
        if self.track_ids is not None:
            for result, track_id in zip(results, self.track_ids.tolist(), strict=True):
                result["track_id"] = track_id
        return results

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A copy of `image` [H, W, 3] uint8 RGB with masks and names; see `solo_edge.draw`."""
        from solo_edge.draw import draw_instances

        return draw_instances(image, self)

    def to_supervision(self) -> Any:
        """The same as `supervision.Detections`; see `solo_edge.draw.to_supervision`."""
        from solo_edge.draw import to_supervision

        return to_supervision(self)


def _rows(index: Any) -> Any:
    """An index that keeps the first axis, also for a single number and an empty list."""
    if isinstance(index, slice):
        return index
    rows = np.atleast_1d(np.asarray(index))
    return rows if rows.size else rows.astype(np.intp)


def _box(region: Region) -> tuple[int, int, int, int]:
    """Tight (left, top, right, bottom), exclusive; zeros when nothing is inside."""
    rows = np.flatnonzero(region.mask.any(axis=1))
    if len(rows) == 0:
        return 0, 0, 0, 0
    columns = np.flatnonzero(region.mask.any(axis=0))
    return (
        region.left + int(columns[0]),
        region.top + int(rows[0]),
        region.left + int(columns[-1]) + 1,
        region.top + int(rows[-1]) + 1,
    )


def _runs(region: Region, image_size: tuple[int, int]) -> list[int]:
    """COCO's uncompressed run lengths of the whole image: column by column, background first.

    Made from the region alone: most of an image is outside of most objects.
    """
    height, width = image_size
    rows, columns = region.mask.shape
    # A border of background above and below each column makes every run of the column end inside
    # it.
    framed = np.zeros((columns, rows + 2), dtype=np.bool_)
    framed[:, 1:-1] = region.mask.T
    flat = framed.reshape(-1)
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), rows + 2)
    borders = (column + region.left) * height + row + region.top  # start, end, start, end, ...
    if len(borders) > 2:
        # A run to the lowest pixel goes on at the top of the next column.
        joined = np.flatnonzero(borders[1:-1:2] == borders[2::2])
        borders = np.delete(borders, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts: list[int] = np.diff(borders, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    return counts
