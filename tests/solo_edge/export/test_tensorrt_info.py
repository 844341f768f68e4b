"""Layers and their times, on stand-ins for TensorRT and the GPU."""

from __future__ import annotations

import json

import pytest

INFO = """
import sys
from pathlib import Path
from solo_edge.errors import SoloEdgeError
from solo_edge.export.tensorrt_builder import build_plan
from solo_edge.export.tensorrt_info import write_layers, write_profile
from solo_edge.export.tensorrt_options import TensorRTOptions

onnx_path, folder, verbosity, runs = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
try:
    plan = folder / "engine.plan"
    if not plan.exists():
        build_plan(onnx_path, plan, TensorRTOptions(profiling_verbosity=verbosity))
    assert write_layers(plan, folder / "layers.json")["layers"] is not None
    assert write_profile(plan, folder / "profile.json", runs=runs)["runs"] == runs
except SoloEdgeError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def info(start_process, tiny_onnx, tmp_path):
    """info(verbosity, runs, ...) -> what is printed, and the two files as far as they were written."""

    def run(verbosity="detailed", runs=5, **environment):
        process = start_process(INFO, tiny_onnx(), tmp_path, verbosity, runs, **environment)
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        paths = [tmp_path / "layers.json", tmp_path / "profile.json"]
        return output, [json.loads(path.read_text()) for path in paths if path.exists()]

    return run


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0.106"])
def test_layers_and_their_times(info, version):
    output, (layers, profile) = info(FAKE_TENSORRT_VERSION=version)
    assert output == ""
    assert [layer["Name"] for layer in layers["layers"]] == ["first", "second"]
    assert layers["tensors"] == ["image", "out"]  # under whatever name this version has for them
    assert layers["tensorrt"] == profile["tensorrt"] == version
    assert profile["gpu"] == "Fake GPU"
    assert profile["sum_of_medians_ms"] == 1.5
    assert [layer["name"] for layer in profile["layers"]] == ["first", "second"]
    assert [layer["median_ms"] for layer in profile["layers"]] == [0.5, 1.0]
    assert sum(layer["share"] for layer in profile["layers"]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("verbosity", "expected"), [("layer_names_only", ["first", "second"]), ("none", [])]
)
def test_layers_as_far_as_the_plan_tells(info, verbosity, expected):
    _, (layers, _) = info(verbosity)
    assert layers["layers"] == expected


def test_warm_up_runs_are_not_counted(start_process, tiny_onnx, tmp_path):
    code = (
        INFO.replace("runs=runs)", "runs=runs, warm_up=3)")
        + "\nimport tensorrt\nprint(tensorrt.CALLS)"
    )
    process = start_process(code, tiny_onnx(), tmp_path, "detailed", 2)
    calls = process.communicate(timeout=120)[0]
    assert calls.count("IExecutionContext.execute_async_v3") == 5
    assert calls.count("IProfiler.report_layer_time") == 0  # ours takes them, not the base class
    before = calls.partition("IExecutionContext.profiler")[0]
    assert before.count("IExecutionContext.execute_async_v3") == 3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"FAKE_CUDA_NO_DEVICE": "1"}, "ResourceError there is no usable CUDA device"),
        ({"FAKE_TENSORRT_NO_MEMORY": "1"}, "TensorRT cannot set the engine up"),
        ({"FAKE_TENSORRT_VERSION": "8.6.1"}, "TensorRT 8.6.1 is too old"),
    ],
)
def test_what_is_missing_is_said(info, environment, expected):
    assert expected in info(**environment)[0]


def test_a_plan_that_tensorrt_refuses(info, tmp_path):
    (tmp_path / "engine.plan").write_bytes(b"no plan")
    output, files = info()
    assert "ArtifactError" in output
    assert "TensorRT 10.3.0 refuses this plan (magic tag does not match)" in output
    assert files == []


def test_no_run_measures_nothing(info):
    output, files = info(runs=0)
    assert "UsageError" in output
    assert "runs is 0; measure at least 1" in output
    assert len(files) == 1
