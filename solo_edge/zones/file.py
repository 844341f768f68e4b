"""The YAML file of zones and lines, read strictly: every mistake is told with its line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import DataError, UsageError, did_you_mean
from solo_edge.zones.geometry import crosses_itself
from solo_edge.zones.yaml_lines import Place, read_yaml

if TYPE_CHECKING:
    from solo_edge.zones.counter import ZoneCounter

__all__ = ["PATIENCE_S", "Anchor", "Line", "Zone", "ZoneFile", "read_zones"]

Anchor = Literal["bottom", "center", "mask"]

PATIENCE_S = 2.0  # as long as `solo_edge.tracking.MaskTracker` keeps what it has lost
MAX_POINTS = 1000


@dataclass(frozen=True, eq=False)
class _Figure:
    name: str
    points: NDArray[np.float64]  # [K, 2] x, y as they stand in the file
    in_pixels: bool  # else shares of the image's width and height
    classes: tuple[str, ...] = ()  # empty for all
    source: int | str | None = (
        None  # the only source that it is for: its number from 0, or its name
    )

    def points_in(self, image_size: tuple[int, int]) -> NDArray[np.float64]:
        """[K, 2] x, y in pixels of an image of (height, width)."""
        return self.points if self.in_pixels else self.points * (image_size[1], image_size[0])


@dataclass(frozen=True, eq=False)
class Zone(_Figure):
    """An area in which things are counted."""

    anchor: Anchor = "bottom"
    dwell_s: float | None = None  # who stays that long is reported


@dataclass(frozen=True, eq=False)
class Line(_Figure):
    """A path of one or more straight pieces that things cross."""

    anchor: Anchor = "bottom"


@dataclass(frozen=True)
class ZoneFile:
    """All zones and lines of a file."""

    path: Path
    zones: tuple[Zone, ...]
    lines: tuple[Line, ...]

    @property
    def needs_tracking(self) -> bool:
        """Whether something is asked for that needs ids; how many are in a zone does not."""
        return bool(self.lines) or any(zone.dwell_s is not None for zone in self.zones)

    def check(
        self, class_names: Sequence[str], *, tracked: bool, sources: Sequence[str] = ()
    ) -> None:
        """Whether the file fits what is about to run.

        Args:
            class_names: of the model.
            tracked: instances will have track ids.
            sources: the names of all sources; without them that is not checked.

        Raises:
            UsageError: ids are needed, but nothing is tracked.
            DataError: a class or source that does not exist.
        """
        if self.needs_tracking and not tracked:
            what = "lines and 'dwell_s' follow single objects"
            raise UsageError(what, where=self.path, fix="add --track")
        for figure in (*self.zones, *self.lines):
            for name in figure.classes:
                if name not in class_names:
                    what = f"{figure.name!r} counts the unknown class {name!r}"
                    raise DataError(what, where=self.path, fix=did_you_mean(name, class_names))
            wrong = figure.source is not None and not _names_one_of(figure.source, sources)
            if sources and wrong:
                what = f"{figure.name!r} is for the source {figure.source!r}, which is not open"
                fix = f"use a number from 0 to {len(sources) - 1} or one of: {', '.join(sources)}"
                raise DataError(what, where=self.path, fix=fix)

    def counter(
        self, source_index: int | None = None, source: str = "", *, patience_s: float = PATIENCE_S
    ) -> ZoneCounter:
        """A counter for one source. Without its number, for what is in the file whatever the source.

        Args:
            source_index: of all sources, from 0.
            source: its name.
            patience_s: who has not been seen for that long has left.
        """
        from solo_edge.zones.counter import ZoneCounter

        def fits(figure: _Figure) -> bool:
            return source_index is None or figure.source in (None, source_index, source)

        zones, lines = filter(fits, self.zones), filter(fits, self.lines)
        return ZoneCounter(tuple(zones), tuple(lines), patience_s=patience_s)


def _names_one_of(source: int | str, sources: Sequence[str]) -> bool:
    return source in sources if isinstance(source, str) else 0 <= source < len(sources)


def read_zones(path: str | Path) -> ZoneFile:
    """The zones and lines in a YAML file; `docs/tracking.md` has the grammar.

    Raises:
        UsageError: there is no such file.
        DataError: it is no YAML, or something in it makes no sense; with the line.
        ResourceError: PyYAML is not installed.
    """
    path = Path(path)
    top = read_yaml(path)
    values = top.mapping(("zones", "lines", "units"))
    units = values["units"].one_of(("fractions", "pixels")) if "units" in values else "fractions"
    places = [values[key].items() if key in values else [] for key in ("zones", "lines")]
    zones = [_zone(place, units == "pixels") for place in places[0]]
    lines = [_line(place, units == "pixels") for place in places[1]]
    if not zones and not lines:
        raise top.error("there is neither a zone nor a line", "add 'zones:' or 'lines:'")
    seen: set[str] = set()
    for figure, place in zip((*zones, *lines), (*places[0], *places[1]), strict=True):
        if figure.name in seen:
            raise place.error(f"the name {figure.name!r} comes twice", "give each its own")
        seen.add(figure.name)
    return ZoneFile(path, tuple(zones), tuple(lines))


def _zone(place: Place, in_pixels: bool) -> Zone:
    values = place.mapping(
        ("name", "points", "classes", "anchor", "source", "dwell_s"), needed=("name", "points")
    )
    common = _common(values, in_pixels, fewest=3)
    points = common["points"]
    if crosses_itself(points):
        raise values["points"].error("the sides cross each other", "give the corners in order")
    following = np.roll(points, -1, axis=0)
    area = float(np.sum(points[:, 0] * following[:, 1] - points[:, 1] * following[:, 0]))
    if abs(area) < 1e-9:
        raise values["points"].error("the zone has no area", "move its corners apart")
    dwell_s = None
    if "dwell_s" in values:
        dwell_s = values["dwell_s"].number()
        if dwell_s <= 0:
            raise values["dwell_s"].error("must be more than 0 seconds", "leave it out for none")
    return Zone(**common, dwell_s=dwell_s)


def _line(place: Place, in_pixels: bool) -> Line:
    values = place.mapping(
        ("name", "points", "classes", "anchor", "source"), needed=("name", "points")
    )
    common = _common(values, in_pixels, fewest=2)
    if (np.abs(np.diff(common["points"], axis=0)).max(axis=1) < 1e-9).any():
        raise values["points"].error("two points that follow each other are the same", "remove one")
    if common["anchor"] == "mask":
        raise values["anchor"].error("a line is crossed by a point", "use bottom or center")
    return Line(**common)


def _common(values: Mapping[str, Place], in_pixels: bool, *, fewest: int) -> dict[str, Any]:
    """The fields that zones and lines share."""
    name = values["name"].text()
    if not name.strip() or not name.isprintable() or len(name) > 60:
        raise values["name"].error("a name has 1 to 60 printable characters", "shorten or fill it")
    classes: tuple[str, ...] = ()
    if "classes" in values:
        classes = tuple(each.text() for each in values["classes"].items())
        if not classes:
            raise values["classes"].error("the list is empty", "leave it out to count all classes")
    anchor = values["anchor"].one_of(get_args(Anchor)) if "anchor" in values else "bottom"
    source = values["source"].text_or_index() if "source" in values else None
    points = np.array([_point(each, in_pixels) for each in values["points"].items(MAX_POINTS)])
    if len(points) < fewest:
        what = f"{len(points)} points are too few"
        raise values["points"].error(what, f"give at least {fewest}")
    return {
        "name": name,
        "points": points,
        "in_pixels": in_pixels,
        "classes": classes,
        "anchor": anchor,
        "source": source,
    }


def _point(place: Place, in_pixels: bool) -> tuple[float, float]:
    coordinates = [each.number() for each in place.items()]
    if len(coordinates) != 2:
        raise place.error("a point is [x, y]", "give two numbers")
    x, y = coordinates
    if not in_pixels and not (0 <= x <= 1 and 0 <= y <= 1):
        what = f"[{x:g}, {y:g}] is outside of the picture, which reaches from 0 to 1"
        raise place.error(what, "for pixels add 'units: pixels' at the top")
    if not (math.isfinite(x) and math.isfinite(y) and max(abs(x), abs(y)) < 1e6):
        raise place.error("the numbers are too large", "give pixels")
    return x, y
