"""What is made of the instances of one source: filtered, tracked, counted in zones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from solo_edge.errors import UsageError, did_you_mean
from solo_edge.instances import Instances
from solo_edge.video.clock import now
from solo_edge.video.options import StreamOptions

if TYPE_CHECKING:
    from solo_edge.draw import Shape
    from solo_edge.tracking import MaskTracker
    from solo_edge.zones import ZoneCounter, ZoneFile

__all__ = ["ClassFilter", "Followed", "Follower", "read_zones_for"]

SUREST_SCORE = 0.8  # a track may begin a little above it, however few instances are asked for


class ClassFilter:
    """Keeps the instances of some classes.

    Args:
        wanted: their names; empty for all.
        known: the names of all classes.

    Raises:
        UsageError: a name that is not known.
    """

    def __init__(self, wanted: Sequence[str], known: Sequence[str]):
        for name in wanted:
            if name not in known:
                what, fix = f"the engine knows no class {name!r}", did_you_mean(name, known)
                raise UsageError(what, where="--classes", fix=fix)
        self._labels = [label for label, name in enumerate(known) if name in wanted]
        self._all = not wanted

    def __call__(self, instances: Instances) -> Instances:
        if self._all:
            return instances
        return instances.select(np.isin(instances.labels, self._labels))


class Followed(NamedTuple):
    """What is left of a frame's instances, and what they did."""

    instances: Instances
    events: tuple[Mapping[str, Any], ...]
    shapes: Sequence[Shape]  # zones and lines
    stage_ms: dict[str, float]


class Follower:
    """Takes the frames of one source in their order.

    Args:
        keep: the classes that are looked at.
        zones: those of this source.
    """

    def __init__(self, options: StreamOptions, keep: ClassFilter, zones: ZoneCounter | None):
        self._keep, self._min_score, self._zones = keep, options.min_score, zones
        self._tracker: MaskTracker | None = None
        if options.track:
            from solo_edge.tracking import MaskTracker

            sure = min(options.min_score, SUREST_SCORE)
            self._tracker = MaskTracker(high_score=sure) if sure > 0 else MaskTracker()

    def update(self, instances: Instances, timestamp_s: float) -> Followed:
        """Take everything that was found in the next frame."""
        stage_ms: dict[str, float] = {}
        instances = self._keep(instances)
        if self._tracker is not None:
            start_s = now()
            # Before the unsure ones are left out: they keep tracks alive.
            instances = self._tracker.update(instances, timestamp_s)
            stage_ms["track"] = 1000.0 * (now() - start_s)
        shown = instances.scores >= self._min_score
        if instances.track_ids is not None:  # what was sure once stays while it is followed
            shown |= instances.track_ids > 0
        instances = instances.select(shown)
        if self._zones is None:
            return Followed(instances, (), (), stage_ms)
        start_s = now()
        events = self._zones.update(instances, timestamp_s)
        shapes = self._zones.shapes(instances.image_size)
        stage_ms["zones"] = 1000.0 * (now() - start_s)
        return Followed(instances, events, shapes, stage_ms)


def read_zones_for(options: StreamOptions, class_names: Sequence[str]) -> ZoneFile | None:
    """The zones of a stream; None if there are none.

    Raises:
        UsageError, DataError: no such file, or one that does not fit.
    """
    if options.zones is None:
        return None
    from solo_edge.zones import read_zones

    zones = read_zones(options.zones)
    zones.check(class_names, tracked=options.track)
    return zones
