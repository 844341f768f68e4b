"""Options of TensorRT's builder: what is refused, where caches lie, and trtexec."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from solo_edge.errors import UsageError
from solo_edge.export.tensorrt_options import TensorRTOptions, trtexec_command


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"workspace_mib": 0}, "workspace_mib is 0; it must be at least 1"),
        ({"optimization_level": 6}, "optimization_level is 6; it must be 0 to 5"),
        ({"optimization_level": -1}, "optimization_level is -1"),
        ({"aux_streams": -2}, "aux_streams is -2"),
        ({"dla_core": -2}, "dla_core is -2"),
        ({"cache_folder": ""}, "give a folder, or auto"),
        ({"hardware_compatible": "ampere"}, "did you mean 'ampere_plus'?"),
        ({"profiling_verbosity": "detail"}, "did you mean 'detailed'?"),
    ],
)
def test_what_is_impossible_is_refused(values, expected):
    with pytest.raises(UsageError) as caught:
        TensorRTOptions(**values)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"strip_weights": True}, {"version_compatible": True}, {"dla_core": 1}]
)
def test_plans_that_the_runtime_does_not_run(values):
    with pytest.raises(UsageError, match="for plans, not for engines"):
        TensorRTOptions(**values).require_runnable()


def test_plans_that_the_runtime_runs():
    TensorRTOptions(refit=True, sparsity=True, dla_core=0).require_runnable()


def test_workspace_in_bytes():
    assert TensorRTOptions(workspace_mib=256).workspace_bytes == 256 * 1024 * 1024


def test_caches_lie_where_the_system_wants_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert TensorRTOptions().cache_path == Path("/somewhere/solo-edge")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert TensorRTOptions().cache_path == tmp_path / ".cache/solo-edge"
    assert TensorRTOptions(cache_folder="~/mine").cache_path == tmp_path / "mine"


# Field -> what a value other than the default adds to, or removes (-) from, trtexec's line.
FLAGS = {
    "workspace_mib": (512, "--memPoolSize=workspace:512M"),
    "optimization_level": (5, "--builderOptimizationLevel=5"),
    "timing_cache": (False, "--noBuilderCache"),
    "cache_folder": ("/elsewhere", None),  # ours alone
    "tf32": (True, "---noTF32"),
    "sparsity": (True, "--sparsity=enable"),
    "aux_streams": (2, "--maxAuxStreams=2"),
    "hardware_compatible": ("ampere_plus", "--hardwareCompatibilityLevel=ampere+"),
    "version_compatible": (True, "--versionCompatible"),
    "strip_weights": (True, "--stripWeights"),
    "refit": (True, "--refit"),
    "dla_core": (1, "--useDLACore=1"),
    "profiling_verbosity": ("detailed", "--profilingVerbosity=detailed"),
}


# trtexec has no plugins that are written in Python.
FIELDS = [f.name for f in dataclasses.fields(TensorRTOptions) if f.name != "plugins"]


@pytest.mark.parametrize("field", FIELDS)
def test_every_option_has_its_flag(field):
    value, flag = FLAGS[field]
    plain = shlex.split(trtexec_command(TensorRTOptions(), "a.onnx", "a.plan"))
    other = shlex.split(trtexec_command(TensorRTOptions(**{field: value}), "a.onnx", "a.plan"))
    if flag is None:
        assert other == plain
    elif flag.startswith("---"):
        assert flag[1:] in plain
        assert flag[1:] not in other
    else:
        assert flag in other
        assert flag not in plain


def test_the_whole_line():
    options = TensorRTOptions(hardware_compatible="same_compute_capability", dla_core=0)
    line = trtexec_command(options, "a b.onnx", "a b.plan", "t.cache")
    assert line == (
        "trtexec '--onnx=a b.onnx' '--saveEngine=a b.plan' --skipInference --stronglyTyped"
        " --memPoolSize=workspace:1024M --builderOptimizationLevel=3"
        " --profilingVerbosity=layer_names_only --timingCacheFile=t.cache"
        " --hardwareCompatibilityLevel=sameComputeCapability --useDLACore=0 --allowGPUFallback"
        " --noTF32"
    )


# Build flags that the help of trtexec lists, in 10.3 and in the newest sources.
DOCUMENTED = {
    *("--onnx", "--saveEngine", "--skipInference", "--stronglyTyped", "--memPoolSize", "--refit"),
    *(
        "--builderOptimizationLevel",
        "--profilingVerbosity",
        "--noBuilderCache",
        "--timingCacheFile",
    ),
    *("--maxAuxStreams", "--hardwareCompatibilityLevel", "--useDLACore", "--allowGPUFallback"),
    *("--noTF32", "--sparsity", "--versionCompatible", "--stripWeights"),
}


def test_only_documented_flags():
    values = {name: value for name, (value, _) in FLAGS.items()}
    lines = [
        trtexec_command(TensorRTOptions(**chosen), "a", "b", "c")
        for chosen in ({}, values, values | {"timing_cache": True, "tf32": False})
    ]
    used = {word.partition("=")[0] for line in lines for word in shlex.split(line)[1:]}
    assert used == DOCUMENTED
