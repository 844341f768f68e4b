"""Checks of packages, and of the backends that they make possible."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from solo_edge.doctor.check import Check, Status
from solo_edge.doctor.platforms import Platform, install_command
from solo_edge.doctor.probes import Answer, is_installed
from solo_edge.environment.files import SystemFiles

if TYPE_CHECKING:
    from solo_edge.manifest import Backend

__all__ = ["backend_checks", "package_checks"]

HARDWARE_ENCODERS = ("/dev/v4l2-nvenc", "/dev/nvhost-msenc")
# For training and for building engines. Only their versions are looked up: importing takes seconds.
TRAINING = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript")
OPTIONAL = ("triton", "tensorboard")


def package_checks(
    files: SystemFiles, on: Platform, answers: Mapping[str, Answer]
) -> Iterator[Check]:
    """Everything that some command can use, apart from CUDA and TensorRT."""
    yield _opencv(on, answers["opencv"])
    yield _video(files, on, answers["video"])
    version = _version("faster-coco-eval")
    if version is None:
        fix = install_command("faster_coco_eval", on)
        yield Check("evaluation", "missing", "faster-coco-eval is not installed", {}, fix)
    else:
        yield Check("evaluation", "ok", f"faster-coco-eval {version}", {"version": version})
    openvino = answers["openvino"]
    devices = openvino.facts.get("devices", {})
    shown = "; ".join(f"{name} ({' '.join(values)})" for name, values in devices.items())
    yield _engine_package("openvino", openvino, shown or "no device", on, answers)
    providers = " ".join(answers["onnxruntime"].facts.get("providers", []))
    yield _engine_package("onnxruntime", answers["onnxruntime"], providers, on, answers)
    yield _training(on)


def _opencv(on: Platform, opencv: Answer) -> Check:
    if not opencv.ok:
        fix = install_command("cv2", on)
        if "numpy" in opencv.problem.lower():
            fix = 'pip install "numpy<2"'  # this OpenCV was built for NumPy 1
        elif opencv.state == "broken" and fix.startswith("pip install"):
            fix = fix.replace("install", "install --force-reinstall")
        text = opencv.problem or "not installed"
        return Check("opencv", opencv.state, text, opencv.facts, fix)
    names = {"windows": "windows", "v4l2": "V4L2 cameras", "gstreamer": "GStreamer", "cuda": "CUDA"}
    parts = [f"{name}: {'yes' if opencv.facts[key] else 'no'}" for key, name in names.items()]
    return Check("opencv", "ok", ", ".join([opencv.facts["version"], *parts]), opencv.facts)


def _video(files: SystemFiles, on: Platform, video: Answer) -> Check:
    """PyAV. What is written goes through an encoder on the CPU; hardware ones are told, not used."""
    hardware = [device for device in HARDWARE_ENCODERS if files.exists(device)]
    value = {**video.facts, "hardware_encoders": hardware}
    if not video.ok:
        fix = install_command("av", on)
        return Check("video", video.state, video.problem or "PyAV is not installed", value, fix)
    encoders = " ".join(video.facts["encoders"]) or "none for video"
    text = f"PyAV {video.facts['version']}, encoders: {encoders}"
    if on.l4t is not None:
        text += f", hardware encoder: {hardware[0] if hardware else 'none'}"
    return Check("video", "ok", text, value)


def _engine_package(
    name: str, answer: Answer, what: str, on: Platform, answers: Mapping[str, Answer]
) -> Check:
    """OpenVINO or ONNX Runtime: one of the ways to run an engine, and no loss where there is another."""
    if answer.ok:
        return Check(name, "ok", f"{answer.facts['version']}, {what}", answer.facts)
    fix = install_command(name, on)
    if answer.state == "broken":
        fix = fix.replace("install", "install --force-reinstall")
        return Check(name, "broken", answer.problem, answer.facts, fix)
    others = ("openvino", "onnxruntime", "tensorrt")
    if any(answers[other].ok for other in others if other != name):
        return Check(name, "info", "not installed")
    return Check(name, "missing", "not installed", {}, fix)


def _training(on: Platform) -> Check:
    names = (*TRAINING, *OPTIONAL)
    found = {name: version for name in names if (version := _version(name)) is not None}
    value: dict[str, Any] = {"versions": found, "torch_cuda": _torch_cuda()}
    absent = [name for name in TRAINING if name not in found]
    if not absent:
        text = f"PyTorch {found['torch']} and all that training and building engines need"
        return Check("training", "ok", text, value)
    text = f"for training and building engines, {' '.join(absent)} are not installed"
    if on.l4t is None:
        fix = f"pip install {' '.join(absent)}"
    else:  # PyTorch for the CPU is enough to build; others would bring CUDA libraries of their own
        index = "--extra-index-url https://download.pytorch.org/whl/cpu"
        fix = f'pip install "numpy<2" {" ".join(absent)} {index}'
    # On a device neither is done, as a rule.
    status: Status = "info" if len(absent) == len(TRAINING) else "missing"
    return Check("training", status, text, value, fix)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA that PyTorch was built for, read from its file of versions."""
    spec = importlib.util.find_spec("torch") if is_installed("torch") else None
    if spec is None or spec.origin is None:
        return None
    return SystemFiles().found(
        str(Path(spec.origin).with_name("version.py")), r"^cuda\b[^=]*=\s*'([\d.]+)'"
    )


def backend_checks(checks: Mapping[str, Check], devices: Mapping[str, Any]) -> Iterator[Check]:
    """Which backends run engines here, and in which precisions.

    Args:
        checks: those so far, by their ids.
        devices: OpenVINO's devices with their capabilities.
    """
    # Only now: it brings NumPy, which the processes of the probes need not load.
    from solo_edge.export.build import PRECISIONS

    works = {name: check.status in ("ok", "warning") for name, check in checks.items()}
    versions = checks["training"].value["versions"]
    torch = [name for name in ("torch", "timm", "safetensors") if name not in versions]
    blocked: dict[Backend, list[str]] = {
        "tensorrt": [name for name in ("gpu", "cuda", "tensorrt") if not works[name]],
        "torch": torch,
        "openvino": [] if works["openvino"] else ["openvino"],
        "onnxruntime": [] if works["onnxruntime"] else ["onnxruntime"],
    }
    for name, lacking in blocked.items():
        if lacking:
            text = f"needs {', '.join(lacking)}"
            yield Check(f"backend-{name}", "info", text, {"precisions": []})
            continue
        on_gpu = works["gpu"] and checks["training"].value["torch_cuda"] is not None
        refused = {
            "openvino": () if "BF16" in devices.get("CPU", ()) else ("bf16",),
            "torch": () if on_gpu else ("fp16",),
        }.get(name, ())
        precisions = [kind for kind in PRECISIONS[name] if kind not in refused]
        text = f"{', '.join(precisions)}{' (on the CPU)' if name == 'torch' and not on_gpu else ''}"
        yield Check(f"backend-{name}", "ok", text, {"precisions": precisions})
