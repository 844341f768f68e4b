"""What one zone and one line remember of the tracks that they have seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.instances import Instances
from solo_edge.zones.anchors import Anchors
from solo_edge.zones.file import Line, Zone
from solo_edge.zones.geometry import crossings, distance, inside

__all__ = ["Event", "LineState", "ZoneState"]

Event = dict[str, Any]

# Who is inside must get that far out before it has left, and who crosses that far from the line before
# it counts, as a share of the image's diagonal: 7 pixels of 720p. So a trembling anchor is one event.
MARGIN = 0.005
MASK_ENTERS, MASK_STAYS = 0.5, 0.4  # the same for shares of a mask


@dataclass(slots=True)
class _Stay:
    """Somebody inside a zone."""

    name: str  # of the class
    entered_s: float
    seen_s: float
    told: bool = False  # that it stays long


class ZoneState:
    """A zone and who is inside."""

    def __init__(self, zone: Zone, patience_s: float):
        self.zone = zone
        self._patience_s = patience_s
        self._stays: dict[int, _Stay] = {}
        self._tracked = False
        self._present = self._entered = self._left = 0

    def count(self) -> dict[str, int]:
        if not self._tracked:
            return {"inside": self._present}
        return {"inside": len(self._stays), "entered": self._entered, "left": self._left}

    def text(self) -> str:
        """The counts as people read them."""
        count = self.count()
        total = f", {count['entered']} in all" if self._tracked else ""
        return f"{count['inside']} inside{total}"

    def update(self, instances: Instances, anchors: Anchors, now_s: float) -> list[Event]:
        rows = _rows(instances, self.zone.classes)
        enters, stays = self._judge(instances, anchors, rows)
        if instances.track_ids is None:
            self._present = int(np.count_nonzero(enters))
            return []
        self._tracked = True
        events = []
        for row, is_in, may_stay in zip(
            rows.tolist(), enters.tolist(), stays.tolist(), strict=True
        ):
            track_id = int(instances.track_ids[row])
            if track_id in self._stays:
                stay = self._stays[track_id]
                if not may_stay:
                    events.append(self._leave(track_id, now_s, now_s))
                    continue
                stay.seen_s = now_s
                limit_s = self.zone.dwell_s
                if limit_s is not None and not stay.told and now_s - stay.entered_s >= limit_s:
                    stay.told = True
                    events.append(self._event("dwell", track_id, stay, now_s, now_s))
            elif is_in and track_id > 0:
                name = instances.class_names[int(instances.labels[row])]
                self._stays[track_id] = stay = _Stay(name, now_s, now_s)
                self._entered += 1
                events.append(self._event("enter", track_id, stay, now_s))
        return events

    def forget(self, now_s: float, *, everybody: bool) -> list[Event]:
        """Those leave who have not been seen for too long."""
        gone = [
            (track_id, stay.seen_s)
            for track_id, stay in self._stays.items()
            if everybody or now_s - stay.seen_s > self._patience_s
        ]
        return [self._leave(track_id, now_s, seen_s) for track_id, seen_s in gone]

    def _judge(
        self, instances: Instances, anchors: Anchors, rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """For each row: whether it is inside enough to enter, and whether enough to stay."""
        polygon = self.zone.points_in(instances.image_size)
        if self.zone.anchor == "mask":
            shares = anchors.shares(polygon)[rows]
            return shares >= MASK_ENTERS, shares >= MASK_STAYS
        points = anchors.points(self.zone.anchor)[rows]
        enters = inside(polygon, points)
        near = distance(polygon, points, closed=True) <= _margin(instances)
        return enters, enters | near

    def _leave(self, track_id: int, now_s: float, seen_s: float) -> Event:
        stay = self._stays.pop(track_id)
        self._left += 1
        return self._event("leave", track_id, stay, now_s, seen_s)

    def _event(
        self, kind: str, track_id: int, stay: _Stay, now_s: float, until_s: float | None = None
    ) -> Event:
        event = {"type": kind, "zone": self.zone.name, "track_id": track_id, "class": stay.name}
        if until_s is not None:
            event["seconds"] = round(until_s - stay.entered_s, 3)
        return event | {"timestamp_s": now_s, "count": self.count()}


@dataclass(slots=True)
class _Path:
    """Where a track was last, and how it stands to the line."""

    share: NDArray[np.float64]  # [2] x, y as shares of the image, which may change its size
    seen_s: float
    crossed: int = 0  # to the right less to the left, since it was clear of the line


class LineState:
    """A line and on which side everybody is."""

    def __init__(self, line: Line, patience_s: float):
        self.line = line
        self._patience_s = patience_s
        self._paths: dict[int, _Path] = {}
        self._count = {"in": 0, "out": 0}

    def count(self) -> dict[str, int]:
        return dict(self._count)

    def text(self) -> str:
        """The counts as people read them."""
        return f"{self._count['in']} in, {self._count['out']} out"

    def update(self, instances: Instances, anchors: Anchors, now_s: float) -> list[Event]:
        events: list[Event] = []
        rows = _rows(instances, self.line.classes)
        if instances.track_ids is None or not len(rows):
            return events
        size = np.array([instances.image_size[1], instances.image_size[0]], dtype=np.float64)
        line = self.line.points_in(instances.image_size)
        points = anchors.points(self.line.anchor)[rows]
        clear = distance(line, points) > _margin(instances)
        for row, point, is_clear in zip(rows.tolist(), points, clear.tolist(), strict=True):
            track_id = int(instances.track_ids[row])
            if track_id == 0:
                continue
            path = self._paths.get(track_id)
            if path is None:
                self._paths[track_id] = _Path(point / size, now_s)
                continue
            path.crossed += crossings(line, path.share * size, point)
            path.share, path.seen_s = point / size, now_s
            if is_clear and path.crossed:
                direction, times = ("in" if path.crossed > 0 else "out"), abs(path.crossed)
                path.crossed = 0
                for _ in range(times):
                    self._count[direction] += 1
                    events.append(
                        {
                            "type": "cross",
                            "line": self.line.name,
                            "track_id": track_id,
                            "class": instances.class_names[int(instances.labels[row])],
                            "direction": direction,
                            "timestamp_s": now_s,
                            "count": self.count(),
                        }
                    )
        return events

    def forget(self, now_s: float, *, everybody: bool) -> list[Event]:
        """Those who have not been seen for too long will not come again under their id."""
        self._paths = {
            track_id: path
            for track_id, path in self._paths.items()
            if not everybody and now_s - path.seen_s <= self._patience_s
        }
        return []


def _rows(instances: Instances, classes: tuple[str, ...]) -> NDArray[np.intp]:
    """Which instances are of one of these classes; all where none is named."""
    if not classes:
        return np.arange(len(instances))
    wanted = [label for label, name in enumerate(instances.class_names) if name in classes]
    return np.flatnonzero(np.isin(instances.labels, wanted))


def _margin(instances: Instances) -> float:
    return MARGIN * math.hypot(*instances.image_size)
