"""The whole way to a TensorRT engine and back, with stand-ins for TensorRT and the CUDA driver."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import ResourceError
from solo_edge.manifest import MANIFEST, read_manifest, write_manifest
from solo_edge.runtime.kernel_folder import read_kernels
from solo_edge.runtime.tensorrt_runner import import_tensorrt

ROOT = Path(__file__).resolve().parents[3]
STANDINS = Path(__file__).with_name("standins")

BUILD = """
import shutil, sys
from pathlib import Path
import solo_edge.export.onnx
import solo_edge.export.self_check
from solo_edge.export.build import build_engine

checkpoint, onnx_path, out = map(Path, sys.argv[1:4])
solo_edge.export.onnx.export_onnx = lambda model, path, **options: shutil.copy(onnx_path, path)
# The stand-in for the GPU runs no kernels; test_tensorrt_frames has one that does.
solo_edge.export.self_check.check_frames = lambda engine, where: None
build_engine(checkpoint, out, graph=sys.argv[4], report=print)
"""

RUN = """
import sys
import numpy as np
from solo_edge.errors import SoloEdgeError
from solo_edge.runtime.engine import load_engine

try:
    with load_engine(sys.argv[1]) as engine:
        image = np.load(sys.argv[2])
        first, second = engine(image), engine(image)  # buffers are used again
        assert (first.scores == second.scores).all()
        print(*first.scores[:5].round(5), len(first), engine.backend)
except SoloEdgeError as error:
    print(type(error).__name__, error)
"""


def run(code, *arguments, folder=None, **environment):
    """Run `code` where TensorRT is the stand-in; CUDA is cuda-bindings with `folder`, else PyCUDA."""
    environment = {**os.environ, "PYTHONPATH": f"{STANDINS}:{ROOT}", **environment}
    if folder is None:
        code = "import sys; sys.modules['cuda.bindings'] = None\n" + code
    else:
        environment["LD_LIBRARY_PATH"] = str(folder)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def built(lively_checkpoint, exported, tmp_path_factory):
    """The engine as it is built, with its kernels where Triton is installed."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("tensorrt") / "scenes.engine"
    lines = run(BUILD, lively_checkpoint, exported(), folder, "network")
    assert lines[0] == "backend tensorrt: the first that works here"
    assert any("self-check: largest difference" in line for line in lines)
    return folder


@pytest.fixture(scope="module")
def engine(built, tmp_path_factory):
    """The engine without kernels; `test_tensorrt_frames` is about those that have them."""
    folder = tmp_path_factory.mktemp("plain") / "scenes.engine"
    folder.mkdir()
    (folder / "engine.plan").write_bytes((built / "engine.plan").read_bytes())
    manifest = read_manifest(built)
    files = {"engine.plan": manifest.files["engine.plan"]}
    write_manifest(folder, dataclasses.replace(manifest, files=files))
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    from solo_edge.export.self_check import make_image

    path = tmp_path_factory.mktemp("image") / "image.npy"
    np.save(path, make_image((200, 256), seed=4))
    return path


def test_the_manifest_says_what_the_plan_was_built_for(built):
    manifest = read_manifest(built)
    assert "engine.plan" in manifest.files
    if importlib.util.find_spec("triton"):
        read_kernels(built).check_fit("8.7", "", plans=("preprocess", "postprocess"))
        assert {"kernels.json", "preprocess.sm_87.cubin"} < set(manifest.files)
    assert manifest.versions["tensorrt"] == "10.3.0"
    assert manifest.machine["gpu"] == "Fake GPU"
    assert manifest.machine["compute_capability"] == "8.7"


def test_instances_equal_those_of_another_backend(engine, image, exported, lively_model):
    from solo_edge.runtime.onnx_runner import OnnxRunner

    (line,) = run(RUN, engine, image)
    *scores, count, backend = line.split()
    assert backend == "tensorrt"
    manifest = read_manifest(engine)
    prepared, geometry = manifest.preprocess(np.load(image))
    from solo_edge.postprocess import postprocess_arrays

    with OnnxRunner(exported()) as runner:
        outputs = runner.infer({"image": prepared[np.newaxis]})
    arrays = [outputs[spec.name][0] for spec in manifest.outputs]
    expected = postprocess_arrays(*arrays, manifest.cell_strides, manifest.postprocess, geometry)
    assert int(count) == len(expected) > 20
    np.testing.assert_allclose([float(s) for s in scores], expected.scores[:5], atol=2e-5)


def changed(engine, tmp_path, **fields):
    """A copy of the engine whose manifest says that it was made elsewhere."""
    copy = tmp_path / "copy.engine"
    copy.mkdir()
    (copy / "engine.plan").write_bytes((engine / "engine.plan").read_bytes())
    values = json.loads((engine / MANIFEST).read_text())
    for group, entries in fields.items():
        values[group].update(entries)
    (copy / MANIFEST).write_text(json.dumps(values))
    return copy


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"versions": {"tensorrt": "11.4.0"}},
            "built for tensorrt 11.4.0, but this machine has 10.3.0",
        ),
        (
            {"machine": {"compute_capability": "8.9"}},
            "built for compute_capability 8.9, but this machine has 8.7",
        ),
        ({"machine": {"architecture": "riscv64"}}, "built for architecture riscv64"),
    ],
)
def test_a_plan_for_another_machine_is_refused_by_name(engine, image, tmp_path, fields, expected):
    (line,) = run(RUN, changed(engine, tmp_path, **fields), image)
    assert line.startswith("ArtifactError")
    assert expected in line
    assert "on this machine, build the engine again" in line


def test_a_damaged_plan_never_reaches_tensorrt(engine, image, tmp_path):
    copy = changed(engine, tmp_path)
    content = bytearray((copy / "engine.plan").read_bytes())
    content[1000] ^= 1
    (copy / "engine.plan").write_bytes(content)
    (line,) = run(RUN, copy, image)
    assert "SHA-256 differs" in line


def test_a_plan_that_tensorrt_refuses(engine, image, tmp_path):
    from solo_edge.files import sha256_of

    copy = changed(engine, tmp_path)
    (copy / "engine.plan").write_bytes(b"no plan")
    record = {"engine.plan": {"sha256": sha256_of(copy / "engine.plan"), "size": 7}}
    values = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**values, "files": record}))
    (line,) = run(RUN, copy, image)
    assert "TensorRT 10.3.0 refuses this plan (magic tag does not match)" in line


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FAKE_CUDA_NO_DEVICE": "1"}, "ResourceError there is no usable CUDA device"),
        ({"FAKE_TENSORRT_NO_MEMORY": "1"}, "TensorRT cannot set the engine up"),
        ({"FAKE_TENSORRT_VERSION": "8.6.1"}, "TensorRT 8.6.1 is too old; 10.3 is the oldest"),
        ({"FAKE_TENSORRT_VERSION": "11.4.1.5"}, "but this machine has 11.4.1.5"),
    ],
)
def test_what_is_missing_is_said(engine, image, environment, expected):
    (line,) = run(RUN, engine, image, **environment)
    assert expected in line


def test_without_tensorrt(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ResourceError, match="TensorRT is not installed"):
        import_tensorrt()
