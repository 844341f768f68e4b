"""The CPU: its name, its instruction sets, and how many cores this process may use."""

from __future__ import annotations

import os
import platform
import re

from solo_edge.environment.files import SystemFiles

__all__ = ["ISA_FLAGS", "cpu_count", "cpu_flags", "cpu_model", "numa_nodes"]

# Instruction sets that decide how fast FP32, BF16 and INT8 are (x86, then ARM names of /proc/cpuinfo).
ISA_FLAGS = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2"),
)

# On ARM /proc/cpuinfo numbers the core instead of naming it: ARM's "CPU part" (MIDR_EL1) of boards that
# people use here.
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
    "0xd83": "Neoverse-V3AE",
    "0xd85": "Cortex-X925",
    "0xd87": "Cortex-A725",
}
CPUINFO = "/proc/cpuinfo"


def cpu_count() -> int:
    """Cores that this process may use; `taskset` and some containers make it less than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(files: SystemFiles | None = None) -> str:
    """The processor's name."""
    files = files or SystemFiles()
    info = files.text(CPUINFO) or ""
    if named := re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE):
        return named.group(1).strip()
    parts = dict.fromkeys(re.findall(r"^CPU part\s*:\s*(\w+)$", info, re.MULTILINE))
    if parts:
        return " and ".join(ARM_PARTS.get(part, f"ARM core {part}") for part in parts)
    return platform.processor() or platform.machine()


def cpu_flags(files: SystemFiles | None = None) -> frozenset[str]:
    """The processor's features under the names of /proc/cpuinfo; empty where there is no such file."""
    found = (files or SystemFiles()).found(CPUINFO, r"^(?:flags|Features)\s*:\s*(.+)$")
    return frozenset((found or "").split())


def numa_nodes(files: SystemFiles | None = None) -> int:
    """Groups of cores with memory of their own; 1 on most machines."""
    return len((files or SystemFiles()).matching("/sys/devices/system/node/node[0-9]*")) or 1
