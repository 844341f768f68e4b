"""The GPU architectures that kernels are compiled for, and the PTX versions that their drivers take."""

from __future__ import annotations

from dataclasses import dataclass

from solo_edge.errors import ResourceError, UsageError, did_you_mean

__all__ = ["ALIASES", "PORTABLE", "TARGETS", "Target", "find_target", "target_for"]


@dataclass(frozen=True)
class Target:
    """A GPU architecture. PTX versions are as Triton has them: 80 is 8.0.

    Raises:
        UsageError: the PTX version is too low for the architecture.
    """

    arch: int  # 87 for compute capability 8.7
    lowest_ptx: int  # with a lower one LLVM ends the process, or ptxas refuses what Triton writes
    ptx: int  # what is written: a driver takes its own version and all lower ones

    def __post_init__(self) -> None:
        if self.ptx < self.lowest_ptx:
            what = f"PTX {self.ptx // 10}.{self.ptx % 10} cannot be written for {self.name}"
            lowest = f"{self.lowest_ptx // 10}.{self.lowest_ptx % 10}"
            raise UsageError(what, fix=f"{lowest} is the lowest version")

    @property
    def name(self) -> str:
        return f"sm_{self.arch}"

    @property
    def compute_capability(self) -> str:
        return f"{self.arch // 10}.{self.arch % 10}"


# From 9.0 on, Triton's PTX is for that very architecture ("sm_90a"), which needs a newer version.
TARGETS = {
    target.name: target
    for target in (
        Target(80, 78, 80),  # A100;                         8.0: CUDA 12.0
        Target(86, 78, 80),  # GeForce RTX 30
        Target(87, 78, 80),  # Jetson Orin; JetPack 6 takes up to 8.5 (6.0: 8.2)
        Target(89, 78, 80),  # GeForce RTX 40
        Target(90, 80, 80),  # H100
        Target(100, 86, 86),  # B200;                        8.6: CUDA 12.7
        Target(103, 88, 88),  # B300;                        8.8: CUDA 12.9
        Target(110, 90, 90),  # Jetson Thor;                 9.0: CUDA 13.0, JetPack 7
        Target(120, 87, 87),  # GeForce RTX 50;              8.7: CUDA 12.8
        Target(121, 88, 88),  # DGX Spark
    )
}
ALIASES = {"orin": "sm_87", "thor": "sm_110"}
# Runs on whatever is newer than it, too, if the driver is of CUDA 11.8 or later.
PORTABLE = Target(80, 78, 78)


def find_target(name: str) -> Target:
    """The target called "orin", "thor" or "sm_XX".

    Raises:
        UsageError: there is no such target; the message names the nearest.
    """
    known = {**TARGETS, **{alias: TARGETS[name] for alias, name in ALIASES.items()}}
    if name not in known:
        raise UsageError(f"unknown target {name!r}", fix=did_you_mean(name, known))
    return known[name]


def target_for(compute_capability: str) -> Target:
    """The target for a GPU of that compute capability ("8.7"); PORTABLE for one that is not known yet.

    Raises:
        ResourceError: the GPU is older than all targets.
    """
    major, _, minor = compute_capability.partition(".")
    arch = 10 * int(major) + int(minor)
    if arch < PORTABLE.arch:
        what = f"the GPU kernels need compute capability {PORTABLE.compute_capability}"
        raise ResourceError(f"{what}, this GPU has {compute_capability}")
    return TARGETS.get(f"sm_{arch}", PORTABLE)
