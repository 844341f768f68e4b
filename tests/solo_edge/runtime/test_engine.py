"""Engines: loading, running, thresholds, and that the device needs neither PyTorch nor the exporter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.export.build import build_engine
from solo_edge.export.self_check import make_image
from solo_edge.files import sha256_of
from solo_edge.manifest import MANIFEST
from solo_edge.runtime.engine import load_engine, open_predictor

ROOT = Path(__file__).resolve().parents[3]
IMAGE_SIZE = (170, 256)


@pytest.fixture(scope="module")
def image():
    return make_image(IMAGE_SIZE, seed=5)


@pytest.fixture(scope="module")
def engines(lively_checkpoint, exported, tmp_path_factory):
    """engines(backend, graph) -> engine folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("engines")
    patch = pytest.MonkeyPatch()

    def export(model, path, *, graph, precision, postprocess_config, batch):
        path.write_bytes(exported(graph, precision, postprocess_config).read_bytes())

    patch.setattr("solo_edge.export.onnx.export_onnx", export)

    def build(backend, graph="network"):
        if backend != "torch":
            pytest.importorskip(backend)
        path = folder / f"{backend}-{graph}.engine"
        if not path.exists():
            build_engine(lively_checkpoint, path, backend=backend, graph=graph)
        return path

    yield build
    patch.undo()


@pytest.fixture
def copy(engines, tmp_path):
    """A copy of an engine that a test may change."""
    path = tmp_path / "copy.engine"
    path.mkdir()
    for file in engines("onnxruntime").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def rewrite(folder, **fields):
    values = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**values, **fields}))


@pytest.mark.parametrize(
    ("backend", "graph"),
    [
        ("openvino", "network"),
        ("onnxruntime", "network"),
        ("torch", "network"),
        ("onnxruntime", "full"),
        ("torch", "full"),
    ],
)
def test_an_engine_finds_what_the_checkpoint_finds(
    engines, lively_checkpoint, image, backend, graph
):
    with open_predictor(lively_checkpoint) as predictor:
        expected = predictor(image)
    with load_engine(engines(backend, graph), threads=1) as engine:
        assert (engine.backend, engine.graph, engine.precision) == (backend, graph, "fp32")
        assert engine.name == f"{backend}-{graph}"
        assert engine.manifest is not None
        found, times = engine.run(image)
    assert found.image_size == IMAGE_SIZE
    assert found.class_names == engine.class_names
    assert found.masks.shape == (len(found), *IMAGE_SIZE)
    assert min(times) > 0
    assert times.total_ms == pytest.approx(sum(times))
    assert len(found) == len(expected) == 100
    both = min(len(found), len(expected), 10)
    np.testing.assert_allclose(found.scores[:both], expected.scores[:both], atol=0.01)


def test_results_outlive_the_next_call(engines, image):
    for graph in ("network", "full"):
        with load_engine(engines("onnxruntime", graph)) as engine:
            first = engine(image)
            before = (first.scores.copy(), first.labels.copy(), first.select([0, 1]).masks.copy())
            engine(255 - image)
            after = (first.scores, first.labels, first.select([0, 1]).masks)
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)


def test_wrong_images_are_refused(engines, image):
    with load_engine(engines("onnxruntime")) as engine:
        for wrong in (image[:, :, 0], image.astype(np.float32), image[:0]):
            with pytest.raises(ValueError, match="uint8 RGB"):
                engine(wrong)


def test_thresholds_are_replaced_at_load_time(engines, image):
    with load_engine(engines("onnxruntime"), update_threshold=0.3, max_instances=5) as engine:
        assert engine.postprocess_config.update_threshold == 0.3
        found = engine(image)
    assert 0 < len(found) <= 5
    assert found.scores.min() >= 0.3
    with load_engine(engines("torch", "full"), max_instances=3) as engine:
        assert len(engine(image)) == 3


def test_impossible_thresholds_are_usage_errors(engines):
    with pytest.raises(UsageError, match="did you mean 'score_threshold'"):
        load_engine(engines("onnxruntime"), score_treshold=0.3)
    with pytest.raises(UsageError, match="it must be in"):
        load_engine(engines("onnxruntime"), score_threshold=7)
    with pytest.raises(UsageError, match="--graph network"):
        load_engine(engines("onnxruntime", "full"), score_threshold=0.3)
    load_engine(engines("onnxruntime", "full"), score_threshold=0.1).close()  # the one built in


def test_a_damaged_file_never_reaches_the_backend(copy, monkeypatch):
    import onnxruntime

    def refuse(*arguments, **options):
        pytest.fail("nothing may be loaded")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 4
    (copy / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match="SHA-256 differs"):
        load_engine(copy)


def test_the_file_of_another_engine_is_refused(copy, engines):
    """Whole, and with the right digest, but not what the manifest describes."""
    other = engines("onnxruntime", "full") / "model.onnx"
    (copy / "model.onnx").write_bytes(other.read_bytes())
    record = {"sha256": sha256_of(other), "size": other.stat().st_size}
    rewrite(copy, files={"model.onnx": record})
    with pytest.raises(ArtifactError, match=r"output '\w+' should be"):
        load_engine(copy)


def test_a_missing_backend_is_named(engines, monkeypatch):
    path = engines("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match="pip install onnxruntime"):
        load_engine(path)


def test_what_is_no_engine(tmp_path):
    (tmp_path / "file.txt").write_text("x")
    for opener in (load_engine, open_predictor):
        with pytest.raises(UsageError, match="not found"):
            opener(tmp_path / "none")
        with pytest.raises(ArtifactError):
            opener(tmp_path)
        with pytest.raises(ArtifactError):
            opener(tmp_path / "file.txt")


def test_a_predictor_opens_engines_checkpoints_and_runs(
    engines, lively_checkpoint, tmp_path, image
):
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.safetensors").write_bytes(lively_checkpoint.read_bytes())
    results = []
    for path, backend, name in [
        (engines("onnxruntime"), "onnxruntime", "onnxruntime-network"),
        (lively_checkpoint, "torch", "lively"),
        (run, "torch", "run"),
    ]:
        with open_predictor(path, max_instances=20) as engine:
            assert (engine.backend, engine.name) == (backend, name)
            assert engine.category_ids == (3, 1, 7, 8, 20)
            assert engine.postprocess_config.max_instances == 20
            results.append(engine(image))
    assert [len(found) for found in results] == [20, 20, 20]
    np.testing.assert_array_equal(results[1].scores, results[2].scores)


def test_a_checkpoint_without_pytorch_says_what_to_do(lively_checkpoint, monkeypatch):
    monkeypatch.delitem(sys.modules, "solo_edge.checkpoint", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ResourceError, match="build an engine of it elsewhere"):
        open_predictor(lively_checkpoint)


DEVICE = """
import sys
for name in sys.argv[3].split(","):
    sys.modules[name] = None
import numpy as np
import solo_edge
engine = solo_edge.load_engine(sys.argv[1], threads=1)
found = engine(np.load(sys.argv[2]))
assert found.masks.any(), "masks are rendered"
print(len(found), round(float(found.scores[0]), 3), engine.backend)
engine.close()
"""


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_the_device_needs_nothing_but_the_backend(engines, image, tmp_path, backend):
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}[backend]
    blocked = (
        "torch,torchvision,triton,timm,onnx,onnxscript,onnx_ir,safetensors,tensorrt,PIL,av,scipy"
    )
    np.save(tmp_path / "image.npy", image)
    command = [sys.executable, "-c", DEVICE, engines(backend), tmp_path / "image.npy"]
    done = subprocess.run(
        [*command, f"{blocked},{other}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    count, score, name = done.stdout.split()
    assert (int(count), name) == (100, backend)
    assert float(score) > 0.3
