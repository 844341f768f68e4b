"""Checks of what a TensorRT engine needs: GPU, driver, a CUDA package, TensorRT."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from solo_edge.doctor.check import Check, Status
from solo_edge.doctor.platforms import OLDEST_L4T, Platform, install_command
from solo_edge.doctor.probes import Answer
from solo_edge.environment import nvidia
from solo_edge.environment.files import SystemFiles

__all__ = ["gpu_checks"]

OLDEST_TENSORRT = (10, 3)
# Jetson Linux -> TensorRT that fits it: from, below. JetPack 6 takes the versions for CUDA 12.6 up to the
# last one of TensorRT that was made for it, 10.7; JetPack 7.2 also takes TensorRT 11.
TENSORRT_OF_L4T = {36: ((10, 3), (10, 8)), 38: ((10, 13), (10, 16)), 39: ((10, 16), (12, 0))}
DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvmap", "/dev/nvhost-gpu")
NOT_NEEDED = "not needed: no NVIDIA GPU"
GIB = 2**30


def gpu_checks(files: SystemFiles, on: Platform, answers: Mapping[str, Answer]) -> Iterator[Check]:
    """GPU, CUDA package, CUDA libraries and TensorRT."""
    yield _gpu(files, on, answers["driver"])
    yield _cuda(on, answers["cuda"], works=bool(answers["driver"].facts.get("devices")))
    yield from _libraries(files)
    yield _tensorrt(files, on, answers["tensorrt"])


def _gpu(files: SystemFiles, on: Platform, driver: Answer) -> Check:
    version = nvidia.driver_version(files)
    devices = driver.facts.get("devices", [])
    value = {
        "driver": version,
        "cuda": None if on.cuda is None else "{}.{}".format(*on.cuda),
        "models": nvidia.gpu_models(files),
        "devices": devices,
    }
    if not on.nvidia and not devices:
        return Check("gpu", "info", "no NVIDIA GPU", value)
    software = [f"driver {version}"] if version else []
    software += [f"CUDA {value['cuda']}"] if value["cuda"] else []
    if driver.ok and devices:
        names = [
            f"{device['name']} (sm_{device['compute_capability'].replace('.', '')}, "
            f"{device['memory_bytes'] / GIB:.1f} GiB)"
            for device in devices
        ]
        return Check("gpu", "ok", ", ".join([*names, *software]), value)
    why, fix = _why_no_gpu(files, on, driver)
    status: Status = "broken" if on.driver or on.l4t is not None else "missing"
    text = ", ".join([*nvidia.gpu_models(files), *software])
    return Check("gpu", status, f"{text}: {why}" if text else why, value, fix)


def _why_no_gpu(files: SystemFiles, on: Platform, driver: Answer) -> tuple[str, str]:
    """What is wrong and what helps, where there should be a GPU."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU", "unset CUDA_VISIBLE_DEVICES"
    if driver.ok and not driver.facts.get("library"):
        if on.container:
            option = "--runtime nvidia" if on.l4t is not None else "--gpus all"
            return "the container does not see the driver", f"start it with docker run {option}"
        if not on.driver and on.l4t is None:
            commands = {
                "ubuntu": "sudo ubuntu-drivers install",
                "debian": "sudo apt install nvidia-driver",
            }
            return "no driver", commands.get(on.distribution or "", "install NVIDIA's driver")
        return "libcuda.so.1 is missing", "install NVIDIA's driver again, and restart"
    if forbidden := _forbidden(files):
        text = f"no permission to use {', '.join(forbidden)}"
        return text, "sudo usermod -aG video,render $USER, and log in again"
    if driver.ok:
        return "the driver sees no device", "sudo dmesg | grep -iE 'nvrm|nvgpu'"
    what = f"the driver does not work: {driver.problem}"
    return what, "restart the computer; sudo dmesg | grep -iE 'nvrm|nvgpu' says why"


def _forbidden(files: SystemFiles) -> list[str]:
    """The GPU's devices that are there, but not for this user."""
    return [
        device
        for device in DEVICES
        if files.exists(device)
        and not os.access(files.root / device.lstrip("/"), os.R_OK | os.W_OK)
    ]


def _cuda(on: Platform, cuda: Answer, *, works: bool) -> Check:
    """Whether the package that engines talk to the driver through is there and works.

    Args:
        works: the driver itself does; else installing a package helps nobody.
    """
    if cuda.ok:
        text = f"{cuda.facts['package']} {cuda.facts['version']} opens {cuda.facts['device']}"
        return Check("cuda", "ok", text, cuda.facts)
    if not on.nvidia:
        return Check("cuda", "info", NOT_NEEDED)
    fix = install_command("cuda", on) if works else None
    if cuda.state == "missing":
        return Check("cuda", "missing", "neither cuda-bindings nor PyCUDA is installed", {}, fix)
    return Check("cuda", "broken", cuda.problem, cuda.facts, fix)


def _libraries(files: SystemFiles) -> Iterator[Check]:
    """Libraries on the disk; engines need those of TensorRT and, of CUDA, only the driver's."""
    found = {
        "toolkits": nvidia.cuda_toolkits(files),
        "cudart": nvidia.library_versions(files, "libcudart"),
        "nvinfer": nvidia.library_versions(files, "libnvinfer"),
        "cudnn": nvidia.library_versions(files, "libcudnn"),
    }
    names = {"toolkits": "toolkit", "cudart": "runtime", "nvinfer": "TensorRT", "cudnn": "cuDNN"}
    texts = [f"{names[key]} {' '.join(values)}" for key, values in found.items() if values]
    if texts:
        yield Check("cuda-libraries", "info", ", ".join(texts), found)


def _tensorrt(files: SystemFiles, on: Platform, tensorrt: Answer) -> Check:
    fix = install_command("tensorrt", on)
    version = str(tensorrt.facts.get("version", ""))
    value = {"version": version or None}
    if not on.nvidia and not tensorrt.ok:
        return Check("tensorrt", "info", NOT_NEEDED, value)
    if tensorrt.state == "missing":
        text = "not installed"
        if on.l4t is not None and "tensorrt" in on.system_modules:
            text = "JetPack's is there, but this Python does not see it"
        elif nvidia.library_versions(files, "libnvinfer"):
            text = "the libraries are there, but not their Python package"
        return Check("tensorrt", "missing", text, value, fix)
    if not tensorrt.ok:
        return Check("tensorrt", "broken", tensorrt.problem, value, fix)
    release = tuple(int(part) for part in version.split(".")[:2])
    if release < OLDEST_TENSORRT:
        return Check("tensorrt", "broken", f"{version}; 10.3 is the oldest that works", value, fix)
    if on.l4t is not None and on.l4t >= OLDEST_L4T and on.l4t[0] in TENSORRT_OF_L4T:
        oldest, limit = TENSORRT_OF_L4T[on.l4t[0]]
        if not oldest <= release < limit:
            text = f"{version} is not made for this JetPack, which has {'.'.join(map(str, oldest))}"
            return Check("tensorrt", "warning", text, value, "pip uninstall tensorrt")
    return Check("tensorrt", "ok", version, value)
