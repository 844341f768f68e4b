"""What native libraries answer on some machines."""

from __future__ import annotations

import pytest

from solo_edge.doctor.probes import MODULES, Answer

GIB = 2**30
OPENCV = {"version": "4.8.0", "windows": True, "gstreamer": True, "v4l2": True, "cuda": False}


def gpu(name, capability, memory, *, integrated=False):
    return {
        "name": name,
        "compute_capability": capability,
        "multiprocessors": 8,
        "integrated": integrated,
        "memory_bytes": memory,
    }


@pytest.fixture
def answers():
    """answers(name, **changes): of every question on that kind of machine, all packages installed."""

    def build(name, **changes):
        found = {question: Answer("missing") for question in MODULES}
        found["driver"] = Answer("ok", {"library": False})
        found["opencv"] = Answer("ok", OPENCV)
        found["video"] = Answer("ok", {"version": "17.1.0", "encoders": ["libx264", "mpeg4"]})
        machines = {
            "orin": ("Orin", "8.7", [12, 6], "10.3.0", "12.9.10"),
            "agx": ("Orin", "8.7", [13, 2], "10.16.2.10", "13.2.0"),
            "thor": ("NVIDIA Thor", "11.0", [13, 0], "10.13.3.9", "13.0.3"),
            "desktop": ("NVIDIA GeForce RTX 3060", "8.6", [12, 8], "10.9.0.34", "12.9.10"),
        }
        if name in machines:
            model, capability, cuda, tensorrt, bindings = machines[name]
            device = gpu(model, capability, 12 * GIB)
            found["driver"] = Answer("ok", {"library": True, "cuda": cuda, "devices": [device]})
            found["tensorrt"] = Answer("ok", {"version": tensorrt})
            facts = {"package": "cuda-bindings", "version": bindings, "device": model}
            found["cuda"] = Answer("ok", facts)
        else:
            found["openvino"] = Answer("ok", {"version": "2026.4.1", "devices": {"CPU": ["FP32"]}})
        return {**found, **changes}

    return build
