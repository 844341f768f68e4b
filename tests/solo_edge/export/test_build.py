"""Building engines: choosing the backend, what is refused, and that a wrong engine gets no name."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.export import build
from solo_edge.export.build import AUTO_ORDER, PRECISIONS, build_engine, choose_backend
from solo_edge.export.self_check import make_image
from solo_edge.files import sha256_of
from solo_edge.manifest import read_manifest, verify
from solo_edge.runtime import openvino_runner, torch_runner
from solo_edge.runtime.engine import load_engine

pytestmark = pytest.mark.usefixtures("reuse_exports")
NO_GPU = not torch.cuda.is_available()


def has_bfloat16():
    pytest.importorskip("openvino")
    return openvino_runner.supports_bfloat16()


@pytest.mark.parametrize(
    ("backend", "precision", "graph"),
    [
        ("openvino", "fp32", "network"),
        ("openvino", "fp32", "full"),
        ("openvino", "bf16", "network"),
        ("onnxruntime", "fp32", "network"),
        ("onnxruntime", "fp32", "full"),
        ("torch", "fp32", "network"),
        ("torch", "bf16", "full"),
    ],
)
def test_an_engine_describes_itself_and_runs(
    lively_checkpoint, tmp_path, backend, precision, graph
):
    if backend != "torch":
        pytest.importorskip(backend)
    if backend == "openvino" and precision == "bf16" and not has_bfloat16():
        pytest.skip("this CPU has no bf16")
    lines = []
    thresholds = {"update_threshold": 0.1} if graph == "network" else {}
    report = build_engine(
        lively_checkpoint,
        tmp_path / "scenes.engine",
        backend=backend,
        precision=precision,
        graph=graph,
        report=lines.append,
        **thresholds,
    )
    assert [p.name for p in tmp_path.iterdir()] == ["scenes.engine"]
    manifest = read_manifest(tmp_path / "scenes.engine")
    assert verify(tmp_path / "scenes.engine", manifest).is_file()
    assert (manifest.name, manifest.backend, manifest.precision) == ("scenes", backend, precision)
    assert manifest.graph == graph
    assert manifest.category_ids == (3, 1, 7, 8, 20)
    assert manifest.checkpoint_sha256 == sha256_of(lively_checkpoint)
    lowest = 0.1 if graph == "network" else 0.05
    assert manifest.postprocess.update_threshold == lowest
    assert {"solo-edge", "torch", backend} <= set(manifest.versions)
    assert manifest.machine["cpu"]
    assert str(report) == str(tmp_path / "scenes.engine")
    assert report.seconds > 0
    assert len(lines) == 2
    if graph == "full":
        assert report.agreement.instances > 10
    else:
        assert 0 <= report.agreement.mask_features < 0.25
    with load_engine(report, threads=1) as engine:
        found = engine(make_image((120, 200), seed=2))
    assert len(found) > 10
    assert found.scores.min() >= lowest


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"backend": "openvin"}, "did you mean 'openvino'"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"graph": "whole"}, "unknown graph"),
        ({"score_treshold": 0.2}, "did you mean 'score_threshold'"),
        ({"score_threshold": 2.0}, "score_threshold is 2.0"),
        ({"backend": "onnxruntime", "precision": "bf16"}, "onnxruntime engines can be fp32"),
        ({"backend": "onnxruntime", "precision": "fp16"}, "onnxruntime engines can be fp32"),
        ({"backend": "openvino", "precision": "fp16"}, "openvino engines can be fp32 or bf16"),
        ({"backend": "tensorrt", "precision": "bf16"}, "tensorrt engines can be fp32 or fp16"),
    ],
)
def test_impossible_choices_are_refused_before_any_work(tmp_path, options, expected):
    with pytest.raises(UsageError) as caught:
        build_engine(tmp_path / "not read", tmp_path / "a.engine", **options)
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_precisions_are_known_for_every_backend():
    assert set(PRECISIONS) == set(AUTO_ORDER)


@pytest.mark.skipif(not NO_GPU, reason="this machine has a GPU")
def test_what_this_machine_lacks_is_a_resource_error(lively_checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "a.engine"
    with pytest.raises(ResourceError, match="no CUDA GPU"):
        build_engine(lively_checkpoint, out, backend="torch", precision="fp16")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ResourceError, match="TensorRT is not installed"):
        build_engine(lively_checkpoint, out, backend="tensorrt")
    with pytest.raises(ResourceError, match="no backend works here with precision fp16"):
        build_engine(lively_checkpoint, out, precision="fp16")
    monkeypatch.setattr(openvino_runner, "supports_bfloat16", lambda: False)
    with pytest.raises(ResourceError, match="no bf16 instructions"):
        build_engine(lively_checkpoint, out, backend="openvino", precision="bf16")
    assert list(tmp_path.iterdir()) == []


def test_auto_takes_the_first_that_works_and_says_why(monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(torch_runner, "cuda_works", lambda: True)
    assert choose_backend("auto", "fp16")[0] == "torch"
    monkeypatch.setattr(torch_runner, "cuda_works", lambda: False)
    chosen, reason = choose_backend("auto", "fp32")
    assert chosen == "openvino"
    assert "tensorrt: TensorRT is not installed" in reason
    assert "torch: there is no CUDA GPU" in reason
    monkeypatch.setitem(sys.modules, "openvino", None)
    chosen, reason = choose_backend("auto", "fp32")
    assert chosen == "onnxruntime"
    assert "openvino: this engine needs OpenVINO" in reason
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match="no backend works here"):
        choose_backend("auto", "fp32")


def test_deformable_convolutions_go_to_pytorch():
    assert choose_backend("auto", "fp32", deformable=True)[0] == "torch"


def test_too_many_candidates_for_tensorrt(lively_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "choose_backend", lambda *a, **k: ("tensorrt", "for this test"))
    with pytest.raises(UsageError, match="TensorRT takes 3840"):
        build_engine(lively_checkpoint, tmp_path / "a.engine", graph="full", max_candidates=4000)


def test_a_wrong_engine_is_not_kept_and_the_old_one_stays(
    lively_checkpoint, exported, tmp_path, monkeypatch
):
    """The file that is written has other weights than the model, as after a bug in the exporter."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "a.engine"
    build_engine(lively_checkpoint, out, backend="onnxruntime")
    before = read_manifest(out)

    def broken(model, path, **options):
        proto = onnx.load(exported())
        weights = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
        array = onnx.numpy_helper.to_array(weights).copy()
        array[::2] *= -1
        weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
        path.write_bytes(proto.SerializeToString())

    monkeypatch.setattr("solo_edge.export.onnx.export_onnx", broken)
    with pytest.raises(ArtifactError, match="disagrees with the model") as caught:
        build_engine(lively_checkpoint, out, backend="onnxruntime")
    assert caught.value.where == str(out)
    assert [p.name for p in tmp_path.iterdir()] == ["a.engine"]
    assert read_manifest(out) == before


def test_a_folder_of_the_user_is_refused_before_any_work(lively_checkpoint, tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")

    def refuse(*arguments, **options):
        pytest.fail("nothing may be exported")

    monkeypatch.setattr("solo_edge.export.onnx.export_onnx", refuse)
    with pytest.raises(UsageError, match="not an engine"):
        build_engine(lively_checkpoint, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_no_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="not found"):
        build_engine(tmp_path / "none.safetensors", tmp_path / "a.engine")
    assert list(tmp_path.iterdir()) == []


def test_a_torch_engine_holds_the_same_weights(lively_checkpoint, lively_model, tmp_path):
    report = build_engine(lively_checkpoint, tmp_path / "a.engine", backend="torch")
    from solo_edge.checkpoint import load_checkpoint

    loaded = load_checkpoint(report.path / "model.safetensors").model.state_dict()
    for name, tensor in lively_model.state_dict().items():
        np.testing.assert_array_equal(loaded[name].numpy(), tensor.numpy())
