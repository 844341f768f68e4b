"""Zones and lines in the picture: how many are inside, who enters, leaves, stays and crosses."""

from solo_edge.zones.counter import ZoneCounter
from solo_edge.zones.file import Line, Zone, ZoneFile, read_zones

__all__ = ["Line", "Zone", "ZoneCounter", "ZoneFile", "read_zones"]
