"""Jetson boards: release, power mode, clocks, fan, temperatures and throttling, from files alone.

NVIDIA documents the files in the Jetson Linux Developer Guide (Platform Power and Performance). None of
them needs root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from solo_edge.environment.files import SystemFiles

__all__ = [
    "GpuClock",
    "PowerMode",
    "Thermal",
    "board",
    "gpu_clock",
    "jetpack",
    "l4t_release",
    "power_modes",
    "thermal",
]

COMPUTE_CAPABILITIES = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}

# Jetson Linux release -> JetPack, for systems on which the package nvidia-jetpack is not installed.
JETPACKS = {
    (36, 3): "6.0", (36, 4): "6.1", (36, 4, 3): "6.2", (36, 4, 4): "6.2.1", (36, 4, 7): "6.2.1",
    (36, 5): "6.2.2", (38, 2): "7.0", (38, 4): "7.1", (39, 2): "7.2", (39, 2, 1): "7.2.1",
}  # fmt: skip


def l4t_release(files: SystemFiles) -> tuple[int, ...] | None:
    """Release of Jetson Linux, (36, 4, 3); None on other machines."""
    first = (files.text("/etc/nv_tegra_release") or "").partition("\n")[0]
    found = re.search(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", first)
    return tuple(int(part) for part in ".".join(found.groups()).split(".")) if found else None


def jetpack(files: SystemFiles) -> str | None:
    """The JetPack, "6.2.1": of the installed package, else the one that this release belongs to."""
    release = l4t_release(files)
    if release is None:
        return None
    packages = files.text("/var/lib/dpkg/status") or ""
    pattern = r"^Package: nvidia-jetpack\n(?:\S.*\n| .*\n)*?Version: ([\d.]+)"
    if installed := re.search(pattern, packages, re.MULTILINE):
        return installed.group(1)
    return JETPACKS.get(release) or JETPACKS.get(release[:2])


def board(files: SystemFiles) -> tuple[str | None, str | None]:
    """Name of the board and, on a Jetson, compute capability of its GPU."""
    chips = (files.text("/proc/device-tree/compatible") or "").split("\0")
    capabilities = [
        capability for chip, capability in COMPUTE_CAPABILITIES.items() if f"nvidia,{chip}" in chips
    ]
    return files.text("/proc/device-tree/model"), next(iter(capabilities), None)


@dataclass(frozen=True)
class PowerMode:
    """One mode of nvpmodel."""

    number: int
    name: str  # "MAXN", "25W", "MODE_30W"


def power_modes(files: SystemFiles) -> tuple[PowerMode | None, PowerMode | None]:
    """The mode that is set and the fastest one; None where the files do not tell.

    Neither the order nor the numbers say which is fastest: it is the one without a limit (MAXN), else
    the one with the most watts.
    """
    config = files.text("/etc/nvpmodel.conf") or ""
    found = re.findall(r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", config, re.MULTILINE)
    modes = {int(number): PowerMode(int(number), name) for number, name in found}
    number = files.found("/var/lib/nvpmodel/status", r"pmode:(\d+)")
    number = number or files.found("/etc/nvpmodel.conf", r"^\s*<\s*PM_CONFIG\s+DEFAULT=(\d+)")
    return modes.get(int(number or -1)), max(modes.values(), key=_speed, default=None)


def _speed(mode: PowerMode) -> tuple[bool, int]:
    watts = re.search(r"(\d+)W", mode.name)
    return mode.name.startswith("MAXN"), int(watts.group(1)) if watts else 0


@dataclass(frozen=True)
class GpuClock:
    """MHz."""

    now: int
    lowest: int  # what the power mode and jetson_clocks leave
    highest: int


def gpu_clock(files: SystemFiles) -> GpuClock | None:
    """The GPU's clock and its bounds."""
    for name in (
        "17000000.gpu",
        "gpu-gpc-0",
        "17000000.ga10b",
    ):  # Orin, Thor, Orin on older kernels
        folder = f"/sys/class/devfreq/{name}"
        hertz = [files.number(f"{folder}/{kind}_freq") for kind in ("cur", "min", "max")]
        if None not in hertz:
            return GpuClock(*(round((value or 0) / 1e6) for value in hertz))
    return None


@dataclass(frozen=True)
class Thermal:
    """Heat and what was done about it."""

    hottest: tuple[str, float] | None  # sensor, degrees Celsius
    throttled: tuple[str, ...]  # what runs slower now because of heat
    overcurrent_events: (
        int | None
    )  # since the start of the system; the clocks were lowered each time
    fan_percent: int | None


def thermal(files: SystemFiles) -> Thermal:
    """Temperatures, throttling and the fan of any Linux machine, as far as the kernel tells."""
    temperatures = {}
    for zone in files.matching("/sys/class/thermal/thermal_zone*"):
        value = files.number(zone / "temp")  # unreadable where the sensor's part is powered off
        if value is not None and 0 < value < 200_000:
            temperatures[files.text(zone / "type") or zone.name] = value / 1000.0
    alerts = []
    for device in files.matching("/sys/class/thermal/cooling_device*"):
        # Others, like the fan or a lowered clock, are at work in normal operation, too.
        name = files.text(device / "type") or ""
        if name.endswith("-alert") and (files.number(device / "cur_state") or 0) > 0:
            alerts.append(name.removesuffix("-alert").removesuffix("-throttle"))
    chips = files.matching("/sys/class/hwmon/hwmon*")
    events = [
        files.number(counter)
        for chip in chips
        for counter in files.matching(f"/sys/class/hwmon/{chip.name}/oc*_event_cnt")
    ]
    return Thermal(
        hottest=max(temperatures.items(), key=lambda item: item[1], default=None),
        throttled=tuple(alerts),
        overcurrent_events=sum(event or 0 for event in events) if events else None,
        fan_percent=_fan_percent(files, chips),
    )


def _fan_percent(files: SystemFiles, chips: list[Path]) -> int | None:
    for chip in chips:
        level = files.number(chip / "pwm1")
        if files.text(chip / "name") == "pwmfan" and level is not None:
            return round(100 * level / 255)
    return None
