"""Counts what one source shows in its zones and on its lines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from solo_edge.instances import Instances
from solo_edge.zones.anchors import Anchors
from solo_edge.zones.file import Line, Zone
from solo_edge.zones.states import Event, LineState, ZoneState

if TYPE_CHECKING:
    from solo_edge.draw import Shape

__all__ = ["ZoneCounter"]


class ZoneCounter:
    """What happens in zones and on lines, frame by frame.

    How many are in a zone needs nothing but instances. Events need the track ids of
    `solo_edge.tracking.MaskTracker`; instances without a sure id are left out of them.

    Args:
        zones, lines: those of this source.
        patience_s: who has not been seen for that long has left.
    """

    def __init__(self, zones: tuple[Zone, ...], lines: tuple[Line, ...], *, patience_s: float):
        self._zones = [ZoneState(zone, patience_s) for zone in zones]
        self._lines = [LineState(line, patience_s) for line in lines]
        self._now_s = -math.inf

    def update(self, instances: Instances, timestamp_s: float) -> tuple[Event, ...]:
        """Take a frame into account.

        Args:
            timestamp_s: of the source. If it goes back, the source began anew and everybody has left.

        Returns:
            What happened, each as a dict that is ready for JSON: `type` (enter, leave, dwell or
            cross), `zone` or `line` (its name), `track_id`, `class`, `direction` (in or out; of a
            cross), `seconds` (that it has been inside; of leave and dwell), `timestamp_s` and `count`
            (`inside`, `entered` and `left` of a zone, `in` and `out` of a line, with this event).
        """
        restarted = timestamp_s < self._now_s
        self._now_s = timestamp_s
        anchors = Anchors(instances)
        events: list[Event] = []
        states: list[ZoneState | LineState] = [*self._zones, *self._lines]
        for state in states:
            events += state.forget(timestamp_s, everybody=restarted)
            events += state.update(instances, anchors, timestamp_s)
        return tuple(events)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """By the name of the zone or line, as `count` of an event; `inside` alone if nothing is tracked."""
        zones = {state.zone.name: state.count() for state in self._zones}
        return zones | {state.line.name: state.count() for state in self._lines}

    def shapes(self, image_size: tuple[int, int]) -> list[Shape]:
        """What to draw on an image of (height, width), with the present counts."""
        from solo_edge.draw import Shape

        figures = [(state.zone, True, state.text()) for state in self._zones]
        lines = [(state.line, False, state.text()) for state in self._lines]
        return [
            Shape(figure.name, figure.points_in(image_size).astype(np.float32), closed, text)
            for figure, closed, text in (*figures, *lines)
        ]
