"""The machine and the software that a number was made on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import solo_edge

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

# Instruction sets that decide how fast FP32, BF16 and INT8 are (x86, then ARM names of /proc/cpuinfo).
ISA_FLAGS = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni"),
    *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
    *("asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve"),
)

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


def describe() -> dict[str, Any]:
    """CPU, cores, load, operating system, versions and commit, as plain values for JSON."""
    flags = cpu_flags()
    return {
        "cpu": cpu_model(),
        "cores": cpu_count(),
        "isa": [name for name in ISA_FLAGS if name in flags],
        "memory_bytes": _memory_bytes(),
        "load_1min": round(os.getloadavg()[0], 2),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "device": _read("/proc/device-tree/model"),  # names the board on a Jetson or a Raspberry Pi
        "system": platform.platform(),
        "python": platform.python_version(),
        "solo_edge": solo_edge.__version__,
        "commit": _commit(),
        "versions": {name: version for name, version in versions().items() if version},
    }


def cpu_count() -> int:
    """Cores that this process may use; containers and `taskset` make it less than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    info = _read("/proc/cpuinfo") or ""
    named = re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return named.group(1).strip() if named else platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """The processor's features under the names of /proc/cpuinfo; empty where there is no such file."""
    info = _read("/proc/cpuinfo") or ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    return frozenset(found.group(1).split()) if found else frozenset()


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


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8", "replace").strip("\0\n ") or None
    except OSError:
        return None


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
