"""What the processes of `solo_edge.doctor.probes` do: load one library and describe it in JSON.

Run as a file; at module level it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["ENCODERS", "main"]

ENCODERS = ("libx264", "libopenh264", "mpeg4", "h264_nvenc", "h264_v4l2m2m")
# Of the CUDA driver's CUdevice_attribute.
MULTIPROCESSORS, INTEGRATED, MAJOR, MINOR = 16, 18, 75, 76


def main() -> None:
    """Answer the question that is the first argument; the last line of the output is the answer."""
    facts: dict[str, Any] = {}
    problem = ""
    try:
        QUESTIONS[sys.argv[1]](facts)
    except Exception as error:  # a broken native library can raise anything
        what = getattr(error, "what", None)  # of our own errors: without the remedy
        problem = what or f"{type(error).__name__}: {error}"
    print("\n" + json.dumps({"facts": facts, "problem": problem}))


def _opencv(facts: dict[str, Any]) -> None:
    import cv2

    information = cv2.getBuildInformation()

    def has(name: str) -> bool:
        found = re.search(rf"^\s*{re.escape(name)}:\s*(\S+)", information, re.MULTILINE)
        return found is not None and found.group(1) not in ("NO", "NONE")

    facts["version"] = cv2.__version__
    for key, name in (
        ("windows", "GUI"),
        ("gstreamer", "GStreamer"),
        ("v4l2", "v4l/v4l2"),
        ("cuda", "NVIDIA CUDA"),
    ):
        facts[key] = has(name)


def _video(facts: dict[str, Any]) -> None:
    import av

    facts["version"] = av.__version__
    facts["encoders"] = []
    for name in ENCODERS:
        with contextlib.suppress(Exception):
            av.codec.Codec(name, "w")
            facts["encoders"].append(name)


def _openvino(facts: dict[str, Any]) -> None:
    import openvino

    core = openvino.Core()
    facts["version"] = openvino.__version__.split("-")[0]
    facts["devices"] = {
        name: list(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        for name in core.available_devices
    }


def _onnxruntime(facts: dict[str, Any]) -> None:
    import onnxruntime

    names = onnxruntime.get_available_providers()
    facts["version"] = onnxruntime.__version__
    facts["providers"] = [name.removesuffix("ExecutionProvider") for name in names]


def _tensorrt(facts: dict[str, Any]) -> None:
    facts["version"] = importlib.import_module("tensorrt").__version__


def _cuda(facts: dict[str, Any]) -> None:
    """Open the device as an engine does: through cuda-bindings or PyCUDA."""
    from solo_edge.runtime.cuda_driver import open_cuda

    with open_cuda() as driver:
        package = {"CudaBindings": "cuda-bindings", "PyCuda": "pycuda"}[type(driver).__name__]
        facts["package"] = package
        facts["version"] = importlib.metadata.version(package)
        facts["device"] = driver.device_name


def _driver(facts: dict[str, Any]) -> None:
    """All devices as the driver's own library tells them, without any package."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        facts["library"] = False
        return
    facts["library"] = True

    def call(name: str, *arguments: Any) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            text = ctypes.c_char_p()
            library.cuGetErrorString(status, ctypes.byref(text))
            reason = (text.value or b"unknown").decode("utf-8", "replace")
            raise RuntimeError(f"{name}: {reason} ({status})")

    def number(name: str, *arguments: Any) -> int:
        value = ctypes.c_int()
        call(name, ctypes.byref(value), *arguments)
        return value.value

    version = number("cuDriverGetVersion")  # works without a device
    facts["cuda"] = [version // 1000, version % 1000 // 10]
    call("cuInit", 0)
    facts["devices"] = []
    for index in range(number("cuDeviceGetCount")):
        device = number("cuDeviceGet", index)
        name, size = ctypes.create_string_buffer(256), ctypes.c_size_t()
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(size), device)
        major, minor = (number("cuDeviceGetAttribute", which, device) for which in (MAJOR, MINOR))
        facts["devices"].append(
            {
                "name": name.value.decode("utf-8", "replace"),
                "compute_capability": f"{major}.{minor}",
                "multiprocessors": number("cuDeviceGetAttribute", MULTIPROCESSORS, device),
                "integrated": bool(number("cuDeviceGetAttribute", INTEGRATED, device)),
                "memory_bytes": size.value,
            }
        )


QUESTIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "opencv": _opencv,
    "video": _video,
    "openvino": _openvino,
    "onnxruntime": _onnxruntime,
    "tensorrt": _tensorrt,
    "cuda": _cuda,
    "driver": _driver,
}


if __name__ == "__main__":
    main()
