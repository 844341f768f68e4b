"""What kind of machine this is, and the command that installs something on it."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from solo_edge import environment
from solo_edge.environment import jetson, nvidia
from solo_edge.environment.files import SystemFiles
from solo_edge.environment.limits import container_limits

__all__ = ["OLDEST_L4T", "Platform", "cuda_requirement", "identify", "install_command"]

OLDEST_L4T = (36, 4)  # JetPack 6.1, the first with TensorRT 10.3
SYSTEM_PYTHON = {36: (3, 10), 38: (3, 12), 39: (3, 12)}  # for which JetPack's packages are built
NEW_ENVIRONMENT = "/usr/bin/python3 -m venv --system-site-packages .venv"

# Debian packages that belong to the system on a Jetson: its OpenCV knows the cameras, its TensorRT the GPU.
APT = {"cv2": "python3-opencv", "tensorrt": "python3-libnvinfer"}


@dataclass(frozen=True)
class Platform:
    """What decides which command helps."""

    machine: str  # x86_64, aarch64
    l4t: tuple[int, ...] | None = None  # release of Jetson Linux
    driver: bool = False  # NVIDIA's kernel driver is loaded
    gpus: int = 0  # NVIDIA's on the PCI bus
    container: bool = False
    distribution: str | None = None  # ubuntu, debian
    cuda: tuple[int, int] | None = None  # the newest CUDA that the driver supports
    python: tuple[int, int] = (0, 0)
    closed_environment: bool = (
        False  # a virtual environment that does not see the system's packages
    )
    system_modules: frozenset[str] = frozenset()  # of APT, those that are installed

    @property
    def nvidia(self) -> bool:
        return self.l4t is not None or self.driver or self.gpus > 0


def identify(files: SystemFiles, cuda: tuple[int, int] | None, devices: int) -> Platform:
    """The platform that the files describe, with the Python that runs here.

    Args:
        cuda: the newest that the driver supports.
        devices: GPUs that the driver gives; WSL has some without any of the files.
    """
    return Platform(
        machine=platform.machine(),
        l4t=jetson.l4t_release(files),
        driver=nvidia.has_driver(files) or devices > 0,
        gpus=nvidia.pci_gpus(files),
        container=container_limits(files).container,
        distribution=files.found("/etc/os-release", r"^ID=\"?(\w+)"),
        cuda=cuda,
        python=sys.version_info[:2],
        closed_environment=_is_closed_environment(),
        system_modules=frozenset(
            module for module in APT if files.matching(f"/usr/lib/python3*/dist-packages/{module}*")
        ),
    )


def install_command(module: str, on: Platform) -> str:
    """The command that makes `module` usable."""
    if module == "cuda":
        return f'pip install "{cuda_requirement(on)}"'
    if on.l4t is not None:
        return _on_jetson(module, on, on.l4t)
    if module == "tensorrt" and on.cuda is not None:
        return f'pip install "tensorrt-cu{on.cuda[0]}>=10.3"'
    return environment.INSTALL[module]


def cuda_requirement(on: Platform) -> str:
    """The cuda-bindings that fit the driver: their major version is that of CUDA."""
    major = on.cuda[0] if on.cuda else 12 if on.l4t and on.l4t[0] <= 36 else 13
    return "cuda-bindings>=12.8,<13" if major == 12 else "cuda-bindings>=13,<14"


def _on_jetson(module: str, on: Platform, l4t: tuple[int, ...]) -> str:
    if module not in APT:
        return environment.INSTALL[module]
    if module == "tensorrt" and l4t < OLDEST_L4T:
        return "install JetPack 6.2 or later with NVIDIA's SDK Manager"
    wrong_python = on.python != SYSTEM_PYTHON.get(l4t[0], on.python)
    if module in on.system_modules and (on.closed_environment or wrong_python):
        return NEW_ENVIRONMENT
    return f"sudo apt install {APT[module]}"


def _is_closed_environment() -> bool:
    if sys.prefix == sys.base_prefix:
        return False
    settings = SystemFiles().found(
        str(Path(sys.prefix, "pyvenv.cfg")), r"^include-system-site-packages\s*=\s*(\w+)"
    )
    return settings != "true"
