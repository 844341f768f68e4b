"""Checks of the machine itself: CPU, memory, limits, heat, and variables that slow it down."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import solo_edge
from solo_edge import environment
from solo_edge.doctor.check import Check, Status
from solo_edge.doctor.platforms import OLDEST_L4T
from solo_edge.doctor.privacy import plain_value, scrub
from solo_edge.environment import jetson
from solo_edge.environment.files import SystemFiles
from solo_edge.environment.limits import container_limits, memory
from solo_edge.environment.processor import numa_nodes

__all__ = ["jetson_checks", "system_checks", "variable_checks"]

GIB = 2**30
LITTLE_MEMORY = 1 * GIB  # an engine and its frames want some hundred MB
LITTLE_DISK = 2 * GIB  # a build writes the model three times
HOT_CELSIUS = 85.0  # Jetsons lower their clocks from about 95

SLOW_VARIABLES = {
    "CUDA_LAUNCH_BLOCKING": "every kernel waits for the one before",
    "CUDA_CACHE_DISABLE": "kernels are compiled again in every process",
    "OPENBLAS_CORETYPE": "NumPy multiplies with another processor's code",
    "ONEDNN_MAX_CPU_ISA": "some instructions of this CPU are not used",
    "TRITON_INTERPRET": "Triton's kernels run in Python",
}
TOLD_VARIABLES = ("OPENBLAS_NUM_THREADS", "LD_PRELOAD", "LD_LIBRARY_PATH", "CUDA_MODULE_LOADING")


def system_checks(files: SystemFiles, folder: Path) -> Iterator[Check]:
    """Machine, CPU, memory, disk and the limits of a container.

    Args:
        folder: on the disk whose free space matters.
    """
    yield from _machine(files)
    cores = environment.cpu_count()
    yield _processor(files, cores)
    yield from _memory(files)
    yield _disk(folder)
    yield from _limits(files, cores)


def _machine(files: SystemFiles) -> Iterator[Check]:
    board, _ = jetson.board(files)
    if board is not None:
        yield Check("board", "info", board, {"name": board})
    system = {
        "distribution": files.found("/etc/os-release", r'^PRETTY_NAME="?([^"\n]+)'),
        "kernel": scrub(platform.release()),
        "architecture": platform.machine(),
    }
    name = system["distribution"] or platform.system()
    yield Check("system", "info", f"{name}, {system['kernel']}, {system['architecture']}", system)
    software = {
        "solo_edge": solo_edge.__version__,
        "python": platform.python_version(),
        "numpy": environment.versions()["numpy"],
    }
    names = ("solo-edge", "Python", "NumPy")
    text = ", ".join(f"{n} {v}" for n, v in zip(names, software.values(), strict=True))
    yield Check("software", "info", text, software)


def _processor(files: SystemFiles, cores: int) -> Check:
    flags = environment.cpu_flags(files)
    value = {
        "model": environment.cpu_model(files),
        "cores": cores,
        "numa_nodes": numa_nodes(files),
        "isa": [name for name in environment.ISA_FLAGS if name in flags],
    }
    nodes = f" in {value['numa_nodes']} NUMA nodes" if value["numa_nodes"] != 1 else ""
    isa = " ".join(name for name in environment.ISA_FLAGS if name in flags) or "no known extensions"
    return Check("cpu", "info", f"{value['model']}, {cores} cores{nodes}, {isa}", value)


def _memory(files: SystemFiles) -> Iterator[Check]:
    found = memory(files)
    if found is None:
        return
    text = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB available, "
    text += f"swap {found.swap_used / GIB:.1f} of {found.swap_total / GIB:.1f} GiB used"
    low = found.available < LITTLE_MEMORY
    value = {f"{name}_bytes": size for name, size in dataclasses.asdict(found).items()}
    fix = "close other programs"
    if jetson.l4t_release(files) is not None:
        fix += ", or stop the desktop: sudo systemctl isolate multi-user.target"
    yield Check("memory", "warning" if low else "info", text, value, fix if low else None)


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    low = free < LITTLE_DISK
    text = f"{free / GIB:.1f} GiB free in this folder"
    fix = "free some space, or work on another disk"
    value = {"free_bytes": free}
    return Check("disk", "warning" if low else "info", text, value, fix if low else None)


def _limits(files: SystemFiles, cores: int) -> Iterator[Check]:
    limits = container_limits(files)
    value = {"container": limits.container, "cpus": limits.cpus, "memory_bytes": limits.memory}
    parts = ["container"] if limits.container else []
    if limits.cpus is not None:
        parts.append(f"{limits.cpus:g} CPUs")
    if limits.memory is not None:
        parts.append(f"{limits.memory / GIB:.1f} GiB of memory")
    if not parts:
        return
    status: Status = "info"
    fix = None
    if limits.cpus is not None and limits.cpus < cores:
        # More threads than CPUs are stopped by the kernel again and again.
        status = "warning"
        fix = f"give --threads {max(1, int(limits.cpus))} to commands that run a network"
        parts.append(f"but libraries start {cores} threads")
    yield Check("limits", status, ", ".join(parts), value, fix)


def jetson_checks(files: SystemFiles) -> Iterator[Check]:
    """JetPack, power mode, clocks; heat and throttling of any machine that tells."""
    release = jetson.l4t_release(files)
    if release is not None:
        yield _jetpack(files, release)
        yield from _power(files)
        yield from _clock(files)
    yield from _heat(files)


def _jetpack(files: SystemFiles, release: tuple[int, ...]) -> Check:
    l4t, version = ".".join(map(str, release)), jetson.jetpack(files)
    text = f"JetPack {version or 'unknown'} (Jetson Linux {l4t})"
    value = {"jetpack": version, "l4t": l4t, "compute_capability": jetson.board(files)[1]}
    if release < OLDEST_L4T:
        fix = "install JetPack 6.2 or later with NVIDIA's SDK Manager"
        return Check("jetpack", "broken", f"{text}; 6.1 is the oldest that works", value, fix)
    return Check("jetpack", "ok", text, value)


def _power(files: SystemFiles) -> Iterator[Check]:
    mode, fastest = jetson.power_modes(files)
    if mode is None or fastest is None:
        return
    value = {"mode": mode.name, "number": mode.number, "fastest": fastest.name}
    if mode == fastest:
        yield Check("power", "ok", f"{mode.name}, the fastest mode", value)
        return
    text = f"{mode.name}; {fastest.name} is faster"
    yield Check("power", "warning", text, value, f"sudo nvpmodel -m {fastest.number}")


def _clock(files: SystemFiles) -> Iterator[Check]:
    clock = jetson.gpu_clock(files)
    if clock is None:
        return
    fixed = clock.lowest == clock.highest
    text = f"GPU at {clock.now} MHz, "
    text += "fixed" if fixed else f"moves up to {clock.highest} (sudo jetson_clocks fixes it)"
    yield Check("clocks", "info", text, {**dataclasses.asdict(clock), "fixed": fixed})


def _heat(files: SystemFiles) -> Iterator[Check]:
    found = jetson.thermal(files)
    if found.hottest is None and not found.throttled and not found.overcurrent_events:
        return
    parts = []
    status: Status = "info"
    fix = None
    if found.hottest is not None:
        sensor, celsius = found.hottest
        parts.append(f"{celsius:.0f} °C ({sensor})")
        if celsius >= HOT_CELSIUS:
            status, fix = "warning", "improve the cooling"
    if found.fan_percent is not None:
        parts.append(f"fan {found.fan_percent} %")
    if found.overcurrent_events:
        parts.append(f"{found.overcurrent_events} over-current events since the start")
        status, fix = "warning", "use a stronger power supply, or a lower mode of nvpmodel"
    if found.throttled:
        parts.append(f"slowed down by heat: {', '.join(found.throttled)}")
        status, fix = "warning", "improve the cooling, or use a lower mode of nvpmodel"
    value = {
        "hottest_celsius": None if found.hottest is None else found.hottest[1],
        "sensor": None if found.hottest is None else found.hottest[0],
        "fan_percent": found.fan_percent,
        "throttled": list(found.throttled),
        "overcurrent_events": found.overcurrent_events,
    }
    yield Check("heat", status, ", ".join(parts), value, fix)


def variable_checks(variables: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """Environment variables that make things slow, or that explain surprises."""
    cores = environment.cpu_count()
    found: dict[str, Any] = {}
    slow: dict[str, str] = {}
    for name in ("OMP_NUM_THREADS", *SLOW_VARIABLES, *TOLD_VARIABLES, "CUDA_VISIBLE_DEVICES"):
        if name not in variables:
            continue
        value = variables[name]
        found[name] = plain_value(value)
        if name == "OMP_NUM_THREADS" and value.isdecimal() and 0 < int(value) < cores:
            slow[name] = f"fewer threads than the {cores} cores"
        elif name in SLOW_VARIABLES and value not in ("", "0"):
            slow[name] = SLOW_VARIABLES[name]
        elif name == "CUDA_VISIBLE_DEVICES" and value in ("", "-1"):
            slow[name] = "hides every GPU"
    if not found:
        return
    texts = [
        f"{name}={value}{f' ({slow[name]})' if name in slow else ''}"
        for name, value in found.items()
    ]
    fix = f"unset {' '.join(slow)}" if slow else None
    yield Check("variables", "warning" if slow else "info", ", ".join(texts), found, fix)
