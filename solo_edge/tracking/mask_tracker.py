"""Ids that persist: ByteTrack's association (Zhang et al. 2022) on the overlap of masks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import did_you_mean
from solo_edge.instances import Instances
from solo_edge.tracking.association import Stage, associate, closeness, first_of_the_same
from solo_edge.tracking.motion import Motion
from solo_edge.tracking.silhouettes import (
    Cutout,
    Silhouettes,
    box_overlaps,
    mask_overlaps,
    silhouettes_of,
)

__all__ = ["PATIENCE_S", "MaskTracker", "Overlap"]

Overlap = Literal["mask", "box"]

PATIENCE_S = 2.0

# Found on rendered films of other seeds than those of docs/tracking.md.
_LEAST_OVERLAP = 0.2
_LEAST_OVERLAP_OF_LOW = 0.3
# Two instances of one frame that overlap that much are one thing. Boxes overlap more than what is in them.
_SAME_THING = {"mask": 0.5, "box": 0.6}
_OTHER_CLASS = 0.35  # what an overlap is worth between different classes
_OLD_VOTE = 0.98  # what is left of a vote about the class, frame by frame
_SURER = 0.1  # by so much a score must be above `high_score` to begin a track
_SMALLEST = 8.0  # cells; smaller things move and tremble as if they were that large


@dataclass(slots=True)
class _Track:
    """Something that was seen. Places are in cells of the grid, vertical first."""

    cutout: Cutout  # as it was seen last
    centroid: NDArray[np.float64]  # [2] then
    size: float
    seen_s: float
    label: int
    votes: dict[int, float]  # the sum of the scores of each class
    hits: int = 1
    track_id: int = 0  # 0 until it is confirmed

    def vote(self, labels: list[int], scores: list[float]) -> None:
        self.votes = {label: _OLD_VOTE * votes for label, votes in self.votes.items()}
        for label, score in zip(labels, scores, strict=True):
            self.votes[label] = self.votes.get(label, 0.0) + score
        self.label = max(self.votes, key=lambda label: self.votes[label])


class MaskTracker:
    """Gives every thing that one source shows a number that it keeps.

    Instances of at least `high_score` choose among all tracks by the overlap of their mask with the
    track's last one, moved to where it should be by now. Those of at least `low_score` then choose
    among the tracks that were there a frame ago and are left, and last come those that moved too far
    to overlap. What is left over begins a track if its score is high by 0.1 and more. A track gets its
    id when it is seen again in the next frame, and goes when it was not seen for `patience_s` seconds
    of the source. Ids count from 1 and are never used again.

    An instance that shows the same thing as a better one, under another class, gets no id of its own.
    Of the two the one whose class the track mostly had carries the id, so that the class is steady.

    In a stream: all instances of at least `low_score` go in; what comes out is then cut down to
    those that people see, `(scores >= score) | (track_ids > 0)`, where `score` is also the tracker's
    `high_score`. A thing whose score drops for a while thus stays on the screen and in its zone.

    Args:
        overlap: of the masks, or, as a baseline to compare with, of their boxes alone.
        per_class: other classes fit less well. False: the class does not matter.
        low_score: instances below it are left alone.
        high_score: from which score on an instance is sure.
        patience_s: how long a track that is not seen waits, in seconds.
        confirm_hits: in how many frames something must be seen before it gets an id.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        *,
        overlap: Overlap = "mask",
        per_class: bool = True,
        low_score: float = 0.1,
        high_score: float = 0.3,
        patience_s: float = PATIENCE_S,
        confirm_hits: int = 2,
    ):
        if overlap not in get_args(Overlap):
            raise ValueError(f"overlap {overlap!r}: {did_you_mean(overlap, get_args(Overlap))}")
        if not (patience_s >= 0 and confirm_hits >= 1):
            raise ValueError(f"patience_s {patience_s} or confirm_hits {confirm_hits} is too small")
        self.low_score, self.high_score = min(low_score, high_score), high_score
        self.patience_s, self.confirm_hits = patience_s, confirm_hits
        self.overlap, self.per_class = overlap, per_class
        self._by_box = overlap == "box"
        self._tracks: list[_Track] = []
        self._motion = Motion(4 if self._by_box else 2)  # of the tracks
        self._now_s = -math.inf
        self._extent: tuple[float, float] | None = None  # of the image on the grid
        self._last_id = 0

    def update(self, instances: Instances, timestamp_s: float) -> Instances:
        """The instances with `track_ids`: 0 for what is not, or not yet, a thing of its own.

        Args:
            instances: of the next frame, any number in any order. The image's size may have changed.
            timestamp_s: of the source. If it goes back, the source began anew, and so do all tracks.
        """
        silhouettes = silhouettes_of(instances)
        current = self._advance(silhouettes.extent, timestamp_s)
        overlaps = self._overlaps(silhouettes)
        count = len(self._tracks)
        first = first_of_the_same(overlaps[count:], instances.scores, _SAME_THING[self.overlap])
        stages = self._stages(instances, silhouettes, overlaps[:count], first, current)
        owners = associate(stages, len(instances))
        ids = self._follow(instances, silhouettes, owners, first)
        self._keep([track.track_id > 0 or track.seen_s == self._now_s for track in self._tracks])
        sure = instances.scores >= self.high_score + _SURER
        begins = np.flatnonzero(stages[0].found & (owners < 0) & sure)
        ids[begins] = self._begin(instances, silhouettes, begins)
        return instances.tracked_as(ids)

    def _advance(self, extent: tuple[float, float], now_s: float) -> NDArray[np.bool_]:
        """Forget, follow a change of the image's size, and let time pass.

        Returns:
            [T]: whether the track was seen in the frame before.
        """
        elapsed_s, before_s = now_s - self._now_s, self._now_s
        restarted = not elapsed_s >= 0
        self._now_s = now_s
        self._keep(
            [not restarted and now_s - track.seen_s <= self.patience_s for track in self._tracks]
        )
        if self._extent not in (None, extent):
            self._rescale(extent)
        self._extent = extent
        current = np.array([track.seen_s == before_s for track in self._tracks], dtype=np.bool_)
        if self._tracks:
            self._motion.advance(elapsed_s, self._sizes(), current)
        return current

    def _rescale(self, extent: tuple[float, float]) -> None:
        assert self._extent is not None
        factors = (extent[0] / self._extent[0], extent[1] / self._extent[1])
        for track in self._tracks:
            track.cutout = track.cutout.scaled(factors)
            track.centroid = track.centroid * factors
            track.size *= math.sqrt(factors[0] * factors[1])
        self._motion.scale(np.resize(factors, self._motion.place.shape[1]))

    def _overlaps(self, silhouettes: Silhouettes) -> NDArray[Any]:
        """[T + N, N]: of the tracks, where they should be by now, and of the instances among themselves."""
        place = self._motion.place
        if self._by_box:
            half = np.maximum(place[:, 2:], 1.0) / 2
            boxes = np.concatenate([place[:, :2] - half, place[:, :2] + half], axis=1)
            return box_overlaps(boxes, silhouettes)
        moved = []
        for track, centroid in zip(self._tracks, place, strict=True):
            down, right = np.rint(centroid - track.centroid).astype(int).tolist()
            top, left, mask = track.cutout
            moved.append(Cutout(top + down, left + right, mask))
        return mask_overlaps(moved, silhouettes)

    def _stages(
        self,
        instances: Instances,
        silhouettes: Silhouettes,
        overlaps: NDArray[Any],
        first: NDArray[np.intp],
        current: NDArray[np.bool_],
    ) -> list[Stage]:
        usable = (first == np.arange(len(first))) & silhouettes.occupied
        high = usable & (instances.scores >= self.high_score)
        low = usable & ~high & (instances.scores >= self.low_score)
        confirmed = np.array([track.track_id > 0 for track in self._tracks], dtype=np.bool_)
        alike = np.ones(overlaps.shape, dtype=np.bool_)
        if self.per_class:
            labels = np.array([track.label for track in self._tracks], dtype=np.int64)
            alike = labels[:, None] == instances.labels
            for index in np.flatnonzero(~usable).tolist():  # the thing has that class, too
                alike[:, first[index]] |= alike[:, index]
        weights = np.where(alike, overlaps, _OTHER_CLASS * overlaps)
        places, sizes = self._measured(silhouettes)
        near = alike * closeness(self._motion.place[:, :2], self._sizes(), places[:, :2], sizes)
        return [
            Stage(confirmed, high, weights, _LEAST_OVERLAP),
            Stage(confirmed & current, low, weights, _LEAST_OVERLAP_OF_LOW),
            Stage(~confirmed, high, weights, _LEAST_OVERLAP),
            Stage(confirmed, high, near, 0.0),
            Stage(~confirmed, high, near, 0.0),
        ]

    def _measured(
        self, silhouettes: Silhouettes
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Places [N, D] for the motion, and sizes [N]."""
        lengths = silhouettes.lengths.astype(np.float64)
        sizes = np.maximum(np.sqrt(np.prod(lengths, axis=1)), _SMALLEST)
        if not self._by_box:
            return silhouettes.centroids, sizes
        return np.concatenate([silhouettes.boxes[:, :2] + lengths / 2, lengths], axis=1), sizes

    def _follow(
        self,
        instances: Instances,
        silhouettes: Silhouettes,
        owners: NDArray[np.intp],
        first: NDArray[np.intp],
    ) -> NDArray[np.int64]:
        """Take what was seen of each track into account. Returns the ids, [N]."""
        ids = np.zeros(len(instances), dtype=np.int64)
        found = np.flatnonzero(owners >= 0)
        places, sizes = self._measured(silhouettes)
        self._motion.correct(owners[found], places[found], sizes[found])
        for index in found.tolist():
            track = self._tracks[owners[index]]
            track.cutout, track.centroid = silhouettes.cutout(index), silhouettes.centroids[index]
            track.size, track.seen_s = float(sizes[index]), self._now_s
            track.hits += 1
            self._confirm(track)
            same = np.flatnonzero(first == index)
            track.vote(instances.labels[same].tolist(), instances.scores[same].tolist())
            steady = same[instances.labels[same] == track.label]
            ids[steady[0] if len(steady) else index] = track.track_id
        return ids

    def _begin(
        self, instances: Instances, silhouettes: Silhouettes, index: NDArray[np.intp]
    ) -> list[int]:
        """A track for each of these instances. Returns their ids, 0 as a rule."""
        places, sizes = self._measured(silhouettes)
        self._motion.add(places[index], sizes[index])
        begun = []
        for k in index.tolist():
            label, score = int(instances.labels[k]), float(instances.scores[k])
            centroid, size = silhouettes.centroids[k], float(sizes[k])
            track = _Track(
                silhouettes.cutout(k), centroid, size, self._now_s, label, {label: score}
            )
            self._confirm(track)
            begun.append(track)
        self._tracks += begun
        return [track.track_id for track in begun]

    def _confirm(self, track: _Track) -> None:
        if track.track_id == 0 and track.hits >= self.confirm_hits:
            self._last_id += 1
            track.track_id = self._last_id

    def _keep(self, kept: list[bool]) -> None:
        if not all(kept):
            self._tracks = [track for track, keep in zip(self._tracks, kept, strict=True) if keep]
            self._motion.keep(np.array(kept, dtype=np.bool_))

    def _sizes(self) -> NDArray[np.float64]:
        return np.array([track.size for track in self._tracks], dtype=np.float64)
