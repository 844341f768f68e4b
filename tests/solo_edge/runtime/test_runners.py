"""What every runner promises, and what each backend adds."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.manifest import TensorSpec
from solo_edge.runtime import openvino_runner
from solo_edge.runtime.base import check_tensors
from solo_edge.runtime.onnx_runner import OnnxRunner
from solo_edge.runtime.openvino_runner import OpenVINORunner

BACKENDS = ["onnxruntime", "openvino", "torch"]


def open_runner(backend, exported, model, **options):
    pytest.importorskip(backend)
    if backend == "torch":
        from solo_edge.runtime.torch_runner import TorchRunner

        return TorchRunner(model, **options)
    kind = {"onnxruntime": OnnxRunner, "openvino": OpenVINORunner}[backend]
    return kind(exported(), **options)


@pytest.fixture
def image(lively_model):
    rng = np.random.default_rng(0)
    shape = (1, 3, *lively_model.config.input_size)
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_runner_says_what_it_takes_and_gives(backend, exported, lively_model, image):
    with open_runner(backend, exported, lively_model) as runner:
        assert [spec.name for spec in runner.inputs] == ["image"]
        names = ["category_scores", "mask_kernels", "mask_features"]
        assert [spec.name for spec in runner.outputs] == names
        outputs = runner.infer({"image": image})
        assert list(outputs) == names
        for spec in runner.outputs:
            assert outputs[spec.name].shape == spec.shape
            assert outputs[spec.name].dtype == spec.dtype
        first = outputs["mask_features"].copy()
        runner.infer({"image": np.zeros_like(image)})
        again = runner.infer({"image": image})["mask_features"]
        np.testing.assert_array_equal(again, first)
    runner.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_memory_layout_is_taken(backend, exported, lively_model, image):
    transposed = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    with open_runner(backend, exported, lively_model) as runner:
        expected = runner.infer({"image": image})["mask_kernels"].copy()
        found = runner.infer({"image": transposed})["mask_kernels"]
        np.testing.assert_array_equal(found, expected)


def test_wrong_inputs_are_refused(exported, lively_model, image):
    with OnnxRunner(exported()) as runner:
        for inputs, expected in [
            ({}, "inputs must be"),
            ({"picture": image}, "inputs must be"),
            ({"image": image, "extra": image}, "inputs must be"),
            ({"image": image[0]}, "image must be float32"),
            ({"image": image[:, :, :-1]}, "image must be float32"),
            ({"image": image.astype(np.float64)}, "got float64"),
            ({"image": (image * 10).astype(np.uint8)}, "got uint8"),
        ]:
            with pytest.raises(ValueError, match=expected):
                runner.infer(inputs)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_unreadable_file_is_one_line(backend, tmp_path):
    pytest.importorskip(backend)
    kind = {"onnxruntime": OnnxRunner, "openvino": OpenVINORunner}[backend]
    for content in (b"", b"no model", b"\x08\x0a" * 1000):
        (tmp_path / "model.onnx").write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot load this file") as caught:
            kind(tmp_path / "model.onnx")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_missing_package_is_named(backend, exported, monkeypatch):
    path = exported()
    monkeypatch.setitem(sys.modules, backend, None)
    kind = {"onnxruntime": OnnxRunner, "openvino": OpenVINORunner}[backend]
    with pytest.raises(ResourceError, match=f"pip install {backend}"):
        kind(path)


def hint(runner):
    compiled = runner._requests[0].get_compiled_model()
    return compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()


def test_openvino_never_chooses_the_precision_itself(exported, caplog):
    pytest.importorskip("openvino")
    with OpenVINORunner(exported()) as runner:
        assert hint(runner) == "f32"
        assert runner.fallback is None
    if openvino_runner.supports_bfloat16():
        with OpenVINORunner(exported(), precision="bf16") as runner:
            assert hint(runner) == "bf16"
            assert runner.fallback is None
    assert not caplog.records


def test_bf16_falls_back_to_fp32_with_a_warning(exported, monkeypatch, caplog):
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino_runner, "supports_bfloat16", lambda: False)
    with (
        caplog.at_level(logging.WARNING),
        OpenVINORunner(exported(), precision="bf16") as runner,
    ):
        assert hint(runner) == "f32"
        assert runner.fallback == "fp32"
    (record,) = caplog.records
    assert "no bf16 instructions" in record.getMessage()


def test_threads_are_obeyed(exported):
    pytest.importorskip("openvino")
    with OpenVINORunner(exported(), threads=1) as runner:
        compiled = runner._requests[0].get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    with OnnxRunner(exported(), threads=1) as runner:
        assert runner._session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("policy", "spinning"), [("PASSIVE", "0"), ("passive", "0"), ("ACTIVE", None)]
)
def test_onnxruntime_spins_only_where_openmp_would(exported, monkeypatch, policy, spinning):
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    with OnnxRunner(exported()) as runner:
        options = runner._session.get_session_options()
        key = "session.intra_op.allow_spinning"
        if spinning is None:
            with pytest.raises(RuntimeError):
                options.get_session_config_entry(key)
        else:
            assert options.get_session_config_entry(key) == spinning


def test_pytorch_in_half_precision_needs_a_gpu(lively_model, monkeypatch):
    from solo_edge.runtime import torch_runner

    monkeypatch.setattr(torch_runner, "cuda_works", lambda: False)
    with pytest.raises(ResourceError, match="needs a CUDA GPU"):
        torch_runner.TorchRunner(lively_model, precision="fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("graph", ["network", "full"])
def test_pytorch_on_a_gpu_agrees_with_the_cpu(lively_model, graph, precision):
    from pathlib import Path

    from solo_edge.config import PostprocessConfig
    from solo_edge.export.self_check import check_runner
    from solo_edge.runtime.torch_runner import TorchRunner, cuda_works

    if not cuda_works():
        pytest.skip("there is no CUDA GPU")
    config = PostprocessConfig()
    with TorchRunner(lively_model, graph=graph, precision=precision, config=config) as runner:
        assert runner.device.type == "cuda"
        check_runner(runner, lively_model, precision, config, Path("engine"))


SPEC = TensorSpec("image", "float32", (1, 3, 8, 8))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "should be float32 [1, 3, 8, 8] but is absent"),
        ([TensorSpec("image", "int64", (1, 3, 8, 8))], "but is int64"),
        ([TensorSpec("image", "float32", (1, 3, 8, -1))], "but is float32 [1, 3, 8, -1]"),
        ([SPEC, TensorSpec("more", "int64", (1,))], "'more' should be absent"),
    ],
)
def test_a_file_with_other_tensors_than_promised_is_refused(found, expected, tmp_path):
    check_tensors("input", [SPEC], [SPEC], tmp_path)
    with pytest.raises(ArtifactError) as caught:
        check_tensors("input", [SPEC], found, tmp_path)
    assert expected in str(caught.value)
