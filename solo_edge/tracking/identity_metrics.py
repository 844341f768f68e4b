"""How well a tracker keeps things apart: IDF1 (Ristani et al. 2016) and CLEAR MOT (Bernardin 2008)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.tracking.assignment import assign

__all__ = ["IdentityMetrics", "IdentityScores"]

_STAY = 1e6  # more than all overlaps of a frame together


@dataclass(frozen=True)
class IdentityScores:
    """Shares in [0, 1] unless something is counted. What has nothing to be measured on is 0."""

    idf1: float  # 2 IDTP / (objects + reported)
    idp: float  # IDTP / reported
    idr: float  # IDTP / objects
    mota: float  # 1 - (misses + false_positives + switches) / objects; may be negative
    switches: int  # an object is followed under another id than the one it had last
    misses: int
    false_positives: int
    objects: int  # true ones, summed over the frames
    reported: int  # by the tracker, summed over the frames


class IdentityMetrics:
    """Collects the frames of one film, or several films whose ids do not meet.

    Args:
        min_iou: from this overlap on a reported mask can be a true one.
    """

    def __init__(self, min_iou: float = 0.5):
        self.min_iou = min_iou
        self._together: dict[tuple[int, int], int] = {}  # frames in which a pair overlaps enough
        self._previous: dict[int, int] = {}  # under which id each object was followed a frame ago
        self._last: dict[int, int] = {}  # ... and when it was followed last
        self._objects = self._reported = 0
        self._matches = self._switches = 0

    def add(self, truth: NDArray[Any], reported: NDArray[Any], iou: NDArray[Any]) -> None:
        """One frame.

        Args:
            truth: [T] ids of the objects, each once.
            reported: [P] ids of the tracker, each once; what it is not sure of (id 0) must be left out.
            iou: [T, P].

        Raises:
            ValueError: shapes do not fit, or an id comes twice.
        """
        true_ids, ids = np.asarray(truth).tolist(), np.asarray(reported).tolist()
        iou = np.asarray(iou, dtype=np.float64)
        if iou.shape != (len(true_ids), len(ids)):
            raise ValueError(f"iou must be [{len(true_ids)}, {len(ids)}], got {iou.shape}")
        if len(set(true_ids)) < len(true_ids) or len(set(ids)) < len(ids):
            raise ValueError("an id comes twice in one frame")
        self._objects += len(true_ids)
        self._reported += len(ids)
        possible = iou >= self.min_iou
        for row, column in np.argwhere(possible).tolist():
            pair = true_ids[row], ids[column]
            self._together[pair] = self._together.get(pair, 0) + 1
        self._follow(true_ids, ids, np.where(possible, iou, 0.0))

    def _follow(self, true_ids: list[int], ids: list[int], weights: NDArray[np.float64]) -> None:
        """CLEAR MOT: pairs of the frame before stay while they overlap enough, then the best match."""
        for row, true_id in enumerate(true_ids):
            before = self._previous.get(true_id)
            if before in ids and weights[row, ids.index(before)] > 0:
                weights[row, ids.index(before)] += _STAY
        rows, columns = (index.tolist() for index in assign(weights))
        self._matches += len(rows)
        self._previous = {true_ids[r]: ids[c] for r, c in zip(rows, columns, strict=True)}
        for true_id, track in self._previous.items():
            self._switches += self._last.get(true_id, track) != track
        self._last |= self._previous

    def scores(self) -> IdentityScores:
        """Of all frames so far.

        IDTP is the number of frames explained by the best assignment of whole tracks to whole objects.
        """
        rows = {
            true_id: k for k, true_id in enumerate(sorted({pair[0] for pair in self._together}))
        }
        columns = {track: k for k, track in enumerate(sorted({pair[1] for pair in self._together}))}
        frames = np.zeros((len(rows), len(columns)))
        for (true_id, track), count in self._together.items():
            frames[rows[true_id], columns[track]] = count
        explained = int(frames[assign(frames)].sum())
        misses = self._objects - self._matches
        false_positives = self._reported - self._matches
        wrong = misses + false_positives + self._switches
        return IdentityScores(
            idf1=2 * explained / max(self._objects + self._reported, 1),
            idp=explained / max(self._reported, 1),
            idr=explained / max(self._objects, 1),
            mota=1.0 - wrong / self._objects if self._objects else 0.0,
            switches=self._switches,
            misses=misses,
            false_positives=false_positives,
            objects=self._objects,
            reported=self._reported,
        )
