"""The machine and the software that a number was made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import solo_edge
from solo_edge.environment import jetson
from solo_edge.environment.files import SystemFiles
from solo_edge.environment.limits import container_limits
from solo_edge.environment.processor import ISA_FLAGS, cpu_count, cpu_flags, cpu_model

__all__ = [
    "INSTALL",
    "ISA_FLAGS",
    "PACKAGES",
    "cpu_count",
    "cpu_flags",
    "cpu_model",
    "describe",
    "versions",
]

# Distributions whose version belongs beside a measurement.
PACKAGES = (
    *("numpy", "pillow", "faster-coco-eval", "rich"),
    *("opencv-python-headless", "opencv-python", "openvino", "onnxruntime", "av"),
    *("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript", "triton"),
    *("tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings"),
)

# Module of an optional package -> how to get it. Names of packages and not of extras of this one, so
# that the line is right wherever solo-edge itself was installed from.
INSTALL = {
    "av": "pip install av",
    "cv2": "pip install opencv-python-headless",
    "faster_coco_eval": "pip install faster-coco-eval",
    "onnx": "pip install onnx",
    "onnxruntime": "pip install onnxruntime",
    "onnxscript": "pip install onnxscript",
    "openvino": "pip install openvino",
    "pycuda": "pip install pycuda",
    "safetensors": "pip install safetensors",
    "tensorboard": "pip install tensorboard",
    "tensorrt": "use the one of the device's JetPack, or: pip install tensorrt",
    "timm": "pip install timm",
    "torch": "pip install torch",
    "torchvision": "pip install torchvision",
    "triton": "pip install triton",
}


def describe(root: Path = Path("/")) -> dict[str, Any]:
    """CPU, cores, load, board, operating system, versions and commit, as plain values for JSON.

    Args:
        root: where the system's files are; another folder in tests.
    """
    files = SystemFiles(root)
    flags = cpu_flags(files)
    return {
        "cpu": cpu_model(files),
        "cores": cpu_count(),
        "cpu_quota": container_limits(files).cpus,
        "isa": [name for name in ISA_FLAGS if name in flags],
        "memory_bytes": _memory_bytes(),
        "load_1min": round(os.getloadavg()[0], 2),
        "governor": files.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "device": jetson.board(files)[0],  # names the board on a Jetson or a Raspberry Pi
        "jetson": _jetson(files),
        "system": platform.platform(),
        "python": platform.python_version(),
        "solo_edge": solo_edge.__version__,
        "commit": _commit(),
        "versions": {name: version for name, version in versions().items() if version},
    }


def _jetson(files: SystemFiles) -> dict[str, Any] | None:
    """What decides the speed of a Jetson; None on other machines."""
    release = jetson.l4t_release(files)
    if release is None:
        return None
    mode, _ = jetson.power_modes(files)
    clock, thermal = jetson.gpu_clock(files), jetson.thermal(files)
    return {
        "l4t": ".".join(map(str, release)),
        "jetpack": jetson.jetpack(files),
        "power_mode": None if mode is None else mode.name,
        "gpu_mhz": None if clock is None else [clock.lowest, clock.highest],
        "clocks_fixed": None if clock is None else clock.lowest == clock.highest,
        "hottest_celsius": None if thermal.hottest is None else thermal.hottest[1],
        "throttled": list(thermal.throttled),
        "overcurrent_events": thermal.overcurrent_events,
    }


def versions() -> dict[str, str | None]:
    """Installed version of each distribution in PACKAGES, None where it is not installed."""
    result: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = None
    return result


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, "+changes" if it has any."""
    root = Path(solo_edge.__file__).resolve().parents[1]
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return None

    def ask(*words: str) -> str | None:
        command = [git, "-C", str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "--short=12", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changes" if ask("status", "--porcelain", "--untracked-files=no") else commit
