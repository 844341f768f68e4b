"""What works on this machine, what is missing, and the line that installs it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from solo_edge import environment

__all__ = ["Check", "can_run_engines", "diagnose"]

Status = Literal["ok", "missing", "broken", "info"]


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis."""

    topic: str  # what it concerns: machine, opencv, openvino ...
    status: Status
    detail: str  # what was found
    fix: str | None = None  # the command that helps


def diagnose() -> list[Check]:
    """Look at the machine and at every package that some command can use. Nothing is changed."""
    checks = _machine()
    with _quiet_native_output():
        checks += [_probe(topic, module, look) for topic, module, look in PROBES]
    return checks


def can_run_engines(checks: list[Check]) -> bool:
    """Whether images can be segmented here: OpenCV and at least one backend work."""
    working = {check.topic for check in checks if check.status == "ok"}
    backends = ({"openvino"}, {"onnxruntime"}, {"torch", "safetensors"}, {"tensorrt", "pycuda"})
    return "opencv" in working and any(needed <= working for needed in backends)


def _machine() -> list[Check]:
    facts = environment.describe()
    isa = " ".join(facts["isa"]) or "no known extensions"
    board = f"{facts['device']}, " if facts["device"] else ""
    gib = facts["memory_bytes"] / 2**30
    machine = f"{board}{facts['cpu']}, {facts['cores']} cores, {gib:.1f} GiB, {isa}"
    software = f"solo-edge {facts['solo_edge']}, Python {facts['python']}, {facts['system']}"
    return [Check("machine", "info", machine), Check("software", "info", software)]


def _probe(topic: str, module: str, look: Callable[[Any], str]) -> Check:
    """Import `module` and let `look` describe it; a package that raises is broken, not missing."""
    install = environment.INSTALL[module]
    if importlib.util.find_spec(module) is None:
        return Check(topic, "missing", "not installed", install)
    try:
        return Check(topic, "ok", look(importlib.import_module(module)))
    except Exception as error:  # a broken native library can raise anything
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Check(topic, "broken", what, install.replace("install", "install --force-reinstall"))


def _opencv(cv2: Any) -> str:
    information = cv2.getBuildInformation()

    def feature(name: str) -> str:
        found = re.search(rf"^\s*{name}:\s*(\S+)", information, re.MULTILINE)
        return "no" if found is None or found.group(1) in ("NO", "NONE") else "yes"

    window = "yes" if feature("GUI") == "yes" else "no (--show needs opencv-python)"
    return f"{cv2.__version__}, windows: {window}, GStreamer: {feature('GStreamer')}"


def _av(av: Any) -> str:
    encoders = []
    for name in ("libx264", "h264_v4l2m2m", "h264_nvenc", "libopenh264", "mpeg4"):
        with contextlib.suppress(Exception):
            av.codec.Codec(name, "w")
            encoders.append(name)
    return f"{av.__version__}, encoders: {' '.join(encoders) or 'none for video'}"


def _openvino(openvino: Any) -> str:
    core = openvino.Core()
    devices = []
    for name in core.available_devices:
        precisions = " ".join(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        devices.append(f"{name} {core.get_property(name, 'FULL_DEVICE_NAME')} ({precisions})")
    return f"{openvino.__version__.split('-')[0]}, {'; '.join(devices) or 'no device'}"


def _onnxruntime(onnxruntime: Any) -> str:
    names = (
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )
    return f"{onnxruntime.__version__}, providers: {' '.join(names)}"


def _torch(torch: Any) -> str:
    if not torch.cuda.is_available():
        return f"{torch.__version__}, no CUDA GPU"
    gpus = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        gib = facts.total_memory / 2**30
        gpus.append(f"{facts.name} (sm_{facts.major}{facts.minor}, {gib:.0f} GiB)")
    return f"{torch.__version__}, {', '.join(gpus)}"


def _version(module: Any) -> str:
    return str(getattr(module, "__version__", "installed"))


def _pycuda(pycuda: Any) -> str:
    driver = importlib.import_module("pycuda.driver")
    driver.init()
    return f"{pycuda.VERSION_TEXT}, {driver.Device.count()} GPUs"


# topic, module, what to say about it
PROBES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("opencv", "cv2", _opencv),
    ("evaluation", "faster_coco_eval", _version),
    ("video", "av", _av),
    ("openvino", "openvino", _openvino),
    ("onnxruntime", "onnxruntime", _onnxruntime),
    ("tensorrt", "tensorrt", _version),
    ("pycuda", "pycuda", _pycuda),
    ("torch", "torch", _torch),
    ("torchvision", "torchvision", _version),
    ("timm", "timm", _version),
    ("safetensors", "safetensors", _version),
    ("onnx", "onnx", _version),
    ("onnxscript", "onnxscript", _version),
    ("triton", "triton", _version),
    ("tensorboard", "tensorboard", _version),
)


@contextlib.contextmanager
def _quiet_native_output() -> Iterator[None]:
    """Send what native libraries write to file descriptor 2 while loading nowhere."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
