"""How much memory there is, and what a container may use of the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from solo_edge.environment.files import SystemFiles

__all__ = ["ContainerLimits", "Memory", "container_limits", "memory"]


@dataclass(frozen=True)
class Memory:
    """Bytes, of /proc/meminfo."""

    total: int
    available: int  # without swapping, as the kernel estimates it
    swap_total: int
    swap_used: int


def memory(files: SystemFiles) -> Memory | None:
    """Memory and swap, None where the kernel does not tell."""

    def amount(name: str) -> int:
        return 1024 * int(files.found("/proc/meminfo", rf"^{name}:\s*(\d+) kB") or 0)

    total = amount("MemTotal")
    if not total:
        return None
    swap = amount("SwapTotal")
    return Memory(total, amount("MemAvailable"), swap, swap - amount("SwapFree"))


@dataclass(frozen=True)
class ContainerLimits:
    """What a control group allows; None is no limit."""

    container: bool  # Docker or Podman
    cpus: float | None
    memory: int | None  # bytes


def container_limits(files: SystemFiles) -> ContainerLimits:
    """The tightest limit of this process's control group and of those above it, version 2 or 1."""
    cpus: list[float] = []
    sizes: list[int] = []
    for line in (files.text("/proc/self/cgroup") or "").splitlines():
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        for folder in _folders(controllers, group):
            cpus += _quota(files, folder)
            for name in ("memory.max", "memory.limit_in_bytes"):
                sizes += [size] if (size := files.number(f"{folder}/{name}")) else []
    marks = ("/.dockerenv", "/run/.containerenv")
    # Version 1 writes "no limit" as a number near 2^63.
    sizes = [size for size in sizes if 0 < size < 1 << 62]
    return ContainerLimits(
        container=any(map(files.exists, marks)),
        cpus=min(cpus, default=None),
        memory=min(sizes, default=None),
    )


def _folders(controllers: str, group: str) -> list[str]:
    """Where the limits of a line of /proc/self/cgroup stand, up to the top of the tree.

    A container often sees its own group as the top, although the line gives the path outside.
    """
    if not controllers:  # version 2: one tree
        top = "/sys/fs/cgroup"
    elif {"cpu", "memory"} & set(controllers.split(",")):
        top = f"/sys/fs/cgroup/{controllers}"
    else:
        return []
    path = PurePosixPath(group.lstrip("/"))
    inner = [f"{top}/{folder}" for folder in (path, *path.parents) if str(folder) != "."]
    return [*inner, top]


def _quota(files: SystemFiles, folder: str) -> list[float]:
    """CPUs that one control group allows, as a list of one or none."""
    content = files.text(f"{folder}/cpu.max")  # "200000 100000" or "max 100000"
    quota, period = (*(content or "").split(), "", "")[:2]
    if not content:
        quota = files.text(f"{folder}/cpu.cfs_quota_us") or ""  # -1 is no limit
        period = files.text(f"{folder}/cpu.cfs_period_us") or ""
    if quota.isdecimal() and period.isdecimal() and int(period):
        return [int(quota) / int(period)]
    return []
