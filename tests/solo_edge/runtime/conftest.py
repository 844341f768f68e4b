"""Drivers over a simulated device."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

import solo_edge
from solo_edge.kernels.aot_folder import KERNELS_FILE
from solo_edge.runtime.cuda_bindings_driver import CudaBindings
from solo_edge.runtime.pycuda_driver import PyCuda

STANDINS = Path(__file__).with_name("standins")


def load(name, file):
    spec = importlib.util.spec_from_file_location(name, STANDINS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def standins(monkeypatch):
    """Their folder, from which they can be imported."""
    monkeypatch.syspath_prepend(STANDINS)
    return STANDINS


@pytest.fixture
def bindings(standins, monkeypatch):
    """cuda-bindings on a simulated device: an open driver, and the device."""
    recorded = load("recorded_cuda", "recorded_cuda.py").RecordedBindings()
    package = types.ModuleType("cuda.bindings")
    package.driver = recorded
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", recorded)
    with CudaBindings() as driver, driver.active():
        recorded.calls.clear()
        yield driver, recorded.device


@pytest.fixture
def only_pycuda(standins, monkeypatch):
    """The stand-in of `pycuda.driver`; cuda-bindings is absent, and so is every other TensorRT."""
    package = types.ModuleType("pycuda")
    package.driver = module = load("pycuda.driver", "pycuda/driver.py")
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    foreign = [name for name in sys.modules if name.startswith("tensorrt")]
    for name in foreign:
        monkeypatch.delitem(sys.modules, name)
    yield module
    for name in [name for name in sys.modules if name.startswith("tensorrt")]:
        del sys.modules[name]


@pytest.fixture
def pycuda(only_pycuda):
    """PyCUDA on a simulated device: an open driver, and the device."""
    with PyCuda() as driver, driver.active():
        only_pycuda.calls.clear()
        yield driver, only_pycuda.device


@pytest.fixture(params=["bindings", "pycuda"])
def device(request):
    return request.getfixturevalue(request.param)


def variant(file, content, capability="8.7", newer_too=False, block=(128, 1, 1), shared=1024):
    return {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "compute_capability": capability,
        "newer_too": newer_too,
        "ptx_version": "8.0",
        "block": block,
        "shared_bytes": shared,
    }


FILES = {
    "scale.sm_87.cubin": b"scale_kernel",
    "scale.portable.ptx": b"scale_kernel",
    "add.sm_87.cubin": b"?",  # which the driver refuses
    "add.sm_87.ptx": b"add_kernel",
    "add.portable.ptx": b"add_kernel",
}

KERNELS = {
    "scale": {
        "entry": "scale_kernel",
        "constants": {"BLOCK": 128},
        "variants": [
            variant("scale.sm_87.cubin", FILES["scale.sm_87.cubin"], shared=50000),
            variant("scale.portable.ptx", b"scale_kernel", "8.0", True, (32, 1, 1)),
        ],
    },
    "add": {
        "entry": "add_kernel",
        "constants": {},
        "variants": [
            variant("add.sm_87.cubin", b"?"),
            variant("add.sm_87.ptx", b"add_kernel", block=(256, 1, 1), shared=0),
            variant("add.portable.ptx", b"add_kernel", "8.0", True, (64, 1, 1), 7),
        ],
    },
}
PLAN = {
    "inputs": ["image", "weights"],
    "outputs": ["result"],
    "buffers": {
        "image": {"shape": [2, 3], "dtype": "float32", "zeroed": False},
        "weights": {"shape": [5], "dtype": "float16", "zeroed": False},
        "count": {"shape": [2], "dtype": "int32", "zeroed": True},
        "result": {"shape": [2, 3], "dtype": "float32", "zeroed": False},
    },
    "launches": [
        {
            "kernel": "scale",
            "grid": [7, 2, 1],
            "arguments": [
                {"name": "source", "kind": "pointer", "buffer": "image"},
                {"name": "pixels", "kind": "int32", "value": 6},
                {"name": "score_threshold", "kind": "float32", "value": 0.25},
                {"name": "target", "kind": "pointer", "buffer": "count"},
            ],
        },
        {
            "kernel": "add",
            "grid": [1, 1, 3],
            "arguments": [
                {"name": "weights", "kind": "pointer", "buffer": "weights"},
                {"name": "result", "kind": "pointer", "buffer": "result"},
            ],
        },
    ],
}


@pytest.fixture
def description():
    """A small `kernels.json`, to be changed at will."""
    plans = {"postprocess": PLAN, "preprocess": {**PLAN, "launches": PLAN["launches"][:1]}}
    values = {"format": 2, "target": "sm_87", "kernels": KERNELS, "plans": plans}
    return copy.deepcopy(values)


@pytest.fixture
def folder(tmp_path, description):
    """The folder of kernels that `description` describes."""
    path = tmp_path / "small.kernels"
    path.mkdir()
    (path / KERNELS_FILE).write_text(json.dumps(description))
    for name, content in FILES.items():
        (path / name).write_bytes(content)
    return path


CANDIDATES = 100  # fewer than usual: kernels that are interpreted take their time


@pytest.fixture(scope="session")
def demo_engine(tmp_path_factory):
    """The demo model as an engine of ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    from solo_edge.export.build import build_engine

    checkpoint = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
    path = tmp_path_factory.mktemp("demo") / "scenes.engine"
    build_engine(checkpoint, path, backend="onnxruntime", max_candidates=CANDIDATES)
    return path


@pytest.fixture(scope="session")
def demo_kernels(demo_engine, tmp_path_factory):
    """The kernels for the demo model on an Orin."""
    pytest.importorskip("triton")
    from solo_edge.export.device_files import write_kernels
    from solo_edge.kernels.aot_targets import TARGETS
    from solo_edge.manifest import read_manifest

    manifest = read_manifest(demo_engine)
    path = tmp_path_factory.mktemp("demo") / "scenes.kernels"
    path.mkdir()
    write_kernels(path, manifest.model, manifest.postprocess, TARGETS["sm_87"])
    return path
