"""Stand-ins for TensorRT and the GPU, and NVIDIA's own TensorRT for RTX, for tests of the builder."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from solo_edge.errors import ResourceError

ROOT = Path(__file__).resolve().parents[3]
STANDINS = ROOT / "tests/solo_edge/runtime/standins"
STANDIN_MODULES = ("tensorrt_rules", "tensorrt_parts", "tensorrt_engine", "tensorrt")


def _load(name: str):
    spec = importlib.util.spec_from_file_location(name, STANDINS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # monkeypatch has noted what to put back
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """standin(version, FAILURE=..., ...) -> the stand-in for TensorRT, in this process; see its docstring.

    Its log is the file `standin.log` in `tmp_path`.
    """
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def make(version: str = "10.3.0", **environment: str):
        for name in STANDIN_MODULES:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
        monkeypatch.setenv("FAKE_TENSORRT_LOG", str(tmp_path / "standin.log"))
        for name, value in environment.items():
            monkeypatch.setenv(f"FAKE_TENSORRT_{name}", value)
        return [_load(name) for name in STANDIN_MODULES][-1]

    return make


@pytest.fixture
def start_process(tmp_path: Path):
    """start_process(code, *arguments, NAME=...) -> Popen where TensorRT and PyCUDA are the stand-ins."""
    started = []

    def start(code: str, *arguments, **environment: str) -> subprocess.Popen:
        settings = {"PYTHONPATH": f"{STANDINS}:{ROOT}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        code = "import sys; sys.modules['cuda.bindings'] = None\n" + code
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


@pytest.fixture
def tiny_onnx(tmp_path: Path):
    """tiny_onnx(name, batch=1, domain="") -> a file with the nodes `first` (Conv) and `second` (Relu)."""
    onnx = pytest.importorskip("onnx")
    np = pytest.importorskip("numpy")

    def write(name: str = "tiny.onnx", batch: int | str = 1, domain: str = "") -> Path:
        helper, kind = onnx.helper, onnx.TensorProto.FLOAT
        nodes = [
            helper.make_node("Conv", ["image", "weight"], ["middle"], name="first"),
            helper.make_node("Relu", ["middle"], ["out"], name="second", domain=domain),
        ]
        inputs = [helper.make_tensor_value_info("image", kind, [batch, 3, 8, 8])]
        outputs = [helper.make_tensor_value_info("out", kind, [batch, 4, 8, 8])]
        weight = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "weight")
        opsets = [
            helper.make_opsetid("", 18),
            *([helper.make_opsetid(domain, 1)] if domain else []),
        ]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
        path = tmp_path / name
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path

    return write


@pytest.fixture(scope="session")
def rtx():
    """The module of TensorRT for RTX; skips without it."""
    from solo_edge.export.tensorrt_rtx import load_tensorrt_rtx

    load_tensorrt_rtx.cache_clear()
    try:
        return load_tensorrt_rtx()
    except ResourceError as error:
        pytest.skip(str(error))
