"""What of NVIDIA's software is on the disk, without loading any of it."""

from __future__ import annotations

import re

from solo_edge.environment.files import SystemFiles

__all__ = [
    "cuda_toolkits",
    "driver_version",
    "gpu_models",
    "has_driver",
    "library_versions",
    "pci_gpus",
]

LIBRARY_FOLDERS = (
    *("/usr/lib/*-linux-gnu", "/usr/lib64", "/usr/local/lib"),
    *("/usr/local/cuda*/lib64", "/usr/local/cuda*/targets/*/lib"),
)


def has_driver(files: SystemFiles) -> bool:
    """Whether NVIDIA's kernel driver is loaded; Jetsons of JetPack 6 and 7 have the file, too."""
    return files.exists("/proc/driver/nvidia/version")


def driver_version(files: SystemFiles) -> str | None:
    """Version of the kernel driver, "570.86.15". None without a driver, or where it has no number."""
    pattern = r"^NVRM version:.*?Kernel Module(?: for \w+)?\s+(\d+(?:\.\d+)+)\s"
    return files.found("/proc/driver/nvidia/version", pattern)


def gpu_models(files: SystemFiles) -> list[str]:
    """Names of the graphics cards that the driver knows. (The same files hold serial numbers.)"""
    places = files.matching("/proc/driver/nvidia/gpus/*/information")
    return [
        match.group(1).strip()
        for place in places
        if (match := re.search(r"^Model:\s*(.+)$", files.text(place) or "", re.MULTILINE))
    ]


def pci_gpus(files: SystemFiles) -> int:
    """NVIDIA graphics cards on the PCI bus, with or without a driver."""
    return sum(
        files.text(device / "vendor") == "0x10de"
        and (files.text(device / "class") or "").startswith("0x03")  # a display controller
        for device in files.matching("/sys/bus/pci/devices/*")
    )


def cuda_toolkits(files: SystemFiles) -> list[str]:
    """Versions of the CUDA toolkits below /usr/local, newest last."""
    pattern = r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"'
    found = {
        match.group(1)
        for place in files.matching("/usr/local/cuda*/version.json")
        if (match := re.search(pattern, files.text(place) or ""))
    }
    return sorted(found, key=_by_number)


def library_versions(files: SystemFiles, name: str) -> list[str]:
    """Versions in the names of a shared library's files: ["10.3.0"] for libnvinfer.so.10.3.0."""
    found = {
        path.name.removeprefix(f"{name}.so.")
        for folder in LIBRARY_FOLDERS
        for path in files.matching(f"{folder}/{name}.so.*.*")
    }
    return sorted((v for v in found if re.fullmatch(r"[\d.]+", v)), key=_by_number)


def _by_number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
