"""What the builder asks of TensorRT, and what it says when that fails, on a strict stand-in."""

from __future__ import annotations

import sys

import pytest

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.export.tensorrt_builder import build_plan, serialize_network
from solo_edge.export.tensorrt_options import TensorRTOptions

VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")


def built_config(trt, path, **values):
    """The configuration that the builder was given for these options."""
    seen = []
    serialize_network(trt, path, TensorRTOptions(**values), configure=seen.append)
    return seen[0]


def flags(config):
    return {flag.name for flag in config._flags}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_way_through_every_version(standin, tiny_onnx, version):
    trt = standin(version)
    options = TensorRTOptions(aux_streams=1, sparsity=True, refit=True, strip_weights=True)
    plan = serialize_network(trt, tiny_onnx(), options, progress=lambda *_: None)
    assert tiny_onnx().read_bytes() in plan
    assert list(dict.fromkeys(trt.CALLS)) == [
        "ILogger.__init__",
        "Builder.__init__",
        "Builder.create_network",
        "OnnxParser.__init__",
        "OnnxParser.set_flag",
        "OnnxParser.parse",
        "INetworkDefinition.get_input",
        "Builder.create_builder_config",
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.builder_optimization_level",
        "IBuilderConfig.max_aux_streams",
        "IBuilderConfig.profiling_verbosity",
        "IBuilderConfig.clear_flag",
        "IBuilderConfig.set_flag",
        "IProgressMonitor.__init__",
        "IBuilderConfig.progress_monitor",
        "Builder.build_serialized_network",
    ]


def test_what_is_left_at_its_default(standin, tiny_onnx):
    trt = standin()
    config = built_config(trt, tiny_onnx())
    assert flags(config) == set()  # neither TF32, which is on by itself
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 30
    assert config.builder_optimization_level == 3
    assert config.max_aux_streams == -1
    assert config.profiling_verbosity is trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    assert config.hardware_compatibility_level is trt.HardwareCompatibilityLevel.NONE
    assert config.default_device_type is trt.DeviceType.GPU


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"tf32": True}, {"TF32"}),
        ({"sparsity": True}, {"SPARSE_WEIGHTS"}),
        ({"version_compatible": True}, {"VERSION_COMPATIBLE"}),
        ({"strip_weights": True}, {"STRIP_PLAN"}),
        ({"refit": True}, {"REFIT"}),
        ({"timing_cache": False}, {"DISABLE_TIMING_CACHE"}),
    ],
)
def test_flags(standin, tiny_onnx, version, values, expected):
    assert flags(built_config(standin(version), tiny_onnx(), **values)) == expected


def test_what_is_no_flag(standin, tiny_onnx):
    trt = standin("10.13.3.9")
    config = built_config(
        trt,
        tiny_onnx(),
        workspace_mib=64,
        optimization_level=5,
        aux_streams=0,
        profiling_verbosity="detailed",
        hardware_compatible="same_compute_capability",
    )
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 5
    assert config.max_aux_streams == 0
    assert config.profiling_verbosity is trt.ProfilingVerbosity.DETAILED
    level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    assert config.hardware_compatibility_level is level


def test_a_level_that_this_version_lacks(standin, tiny_onnx):
    with pytest.raises(UsageError, match=r"TensorRT 10\.3\.0 cannot build for all GPUs of one"):
        built_config(standin(), tiny_onnx(), hardware_compatible="same_compute_capability")
    trt = standin()
    config = built_config(trt, tiny_onnx(), hardware_compatible="ampere_plus")
    level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.hardware_compatibility_level is level


def test_a_deep_learning_accelerator_with_the_gpu_behind_it(standin, tiny_onnx, caplog):
    trt = standin(DLA_CORES="2")
    with caplog.at_level("INFO"):
        config = built_config(trt, tiny_onnx(), dla_core=1)
    assert config.default_device_type is trt.DeviceType.DLA
    assert config.DLA_core == 1
    assert flags(config) == {"GPU_FALLBACK"}
    assert "DLA core 1 takes 1 of 2 layers, the GPU the others" in caplog.text


@pytest.mark.parametrize(("cores", "core"), [("0", 0), ("2", 2)])
def test_an_accelerator_that_is_not_there(standin, tiny_onnx, cores, core):
    with pytest.raises(UsageError) as caught:
        built_config(standin(DLA_CORES=cores), tiny_onnx(), dla_core=core)
    assert f"finds {cores} deep learning accelerators (DLA) here" in str(caught.value)
    assert "10.3 to 10.7" in str(caught.value)


def test_an_accelerator_that_can_do_nothing(standin, tiny_onnx, monkeypatch):
    trt = standin(DLA_CORES="1")
    monkeypatch.setattr(trt.IBuilderConfig, "can_run_on_DLA", lambda config, layer: False)
    with pytest.raises(UsageError, match="no layer of this graph can run on a deep learning"):
        built_config(trt, tiny_onnx(), dla_core=0)


@pytest.mark.parametrize(
    ("failure", "kind", "expected"),
    [
        (
            "Error Code 2: OutOfMemory (Requested size was 4294967296 bytes.)",
            ResourceError,
            "close other programs on the GPU, or lower workspace_mib",
        ),
        (
            "Error Code 10: Internal Error (Could not find any implementation for node first.)",
            ArtifactError,
            "node first.)); raise workspace_mib",
        ),
        (
            "Error Code 4: (K exceeds the maximum value allowed (3840).",
            ArtifactError,
            "lower max_c",
        ),
        ("Unable to load library: libnvinfer_lean.so.10", ArtifactError, "install TensorRT's lean"),
        ("Error Code 1: Myelin", ArtifactError, "(Error Code 1: Myelin); see the log with --debug"),
    ],
)
def test_a_build_that_fails_says_why_and_what_helps(standin, tiny_onnx, failure, kind, expected):
    path = tiny_onnx()
    with pytest.raises(kind) as caught:
        serialize_network(standin(FAILURE=failure), path)
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"{path}: TensorRT 10.3.0 cannot build this graph (")


def test_a_plugin_that_is_missing_is_named_with_its_node(standin, tiny_onnx):
    with pytest.raises(ArtifactError) as caught:
        serialize_network(standin(), tiny_onnx(domain="acme"))
    assert 'node second (Relu): creator && "Plugin not found' in str(caught.value)
    assert "TensorRT has no such operator, nor a plugin for it" in str(caught.value)


def test_a_batch_that_is_left_open_is_refused(standin, tiny_onnx):
    with pytest.raises(ArtifactError, match=r"input 'image' has the open shape \[-1, 3, 8, 8\]"):
        serialize_network(standin(), tiny_onnx(batch="n"))
    assert serialize_network(standin(), tiny_onnx(batch=4))


def test_a_file_without_a_graph(standin, tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="the graph has no output"):
        serialize_network(standin(), tmp_path / "empty.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ArtifactError, match="the file is cut off or no ONNX file; export it again"):
        serialize_network(standin(), tmp_path / "text.onnx")


def test_no_gpu(standin, tiny_onnx):
    with pytest.raises(ResourceError) as caught:
        serialize_network(standin(NO_GPU="1"), tiny_onnx())
    assert "CUDA initialization failure with error: 35" in str(caught.value)
    assert "check NVIDIA's driver and the GPU" in str(caught.value)


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ResourceError, match="JetPack"):
        build_plan(tmp_path / "a.onnx", tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []
