"""TensorRT's options of `solo-edge build-engine`."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from solo_edge.cli import COMMANDS, main
from solo_edge.cli.tensorrt_options import HELP, describe_progress, tensorrt_build
from solo_edge.errors import UsageError
from solo_edge.export.tensorrt_options import TensorRTOptions

ROOT = Path(__file__).resolve().parents[2]
STANDINS = ROOT / "tests/solo_edge/runtime/standins"


def parsed(*arguments):
    command = COMMANDS["build-engine"]
    return command.parser().parse(["a.safetensors", "-o", "a.engine", *arguments])


def test_every_option_that_engines_can_have():
    names = {field.name for field in dataclasses.fields(TensorRTOptions)}
    assert names - set(HELP) == {"strip_weights", "version_compatible"}
    assert set(HELP) < names


def test_options_and_the_line_for_trtexec(capsys):
    values = parsed("--backend", "tensorrt", "--tf32", "--workspace-mib", "64", "--no-timing-cache")
    with tensorrt_build(values) as arguments:
        assert capsys.readouterr().err == ""
    expected = TensorRTOptions(tf32=True, workspace_mib=64, timing_cache=False)
    assert arguments["tensorrt"] == expected
    line = capsys.readouterr().err
    assert line.startswith("the same with trtexec: trtexec --onnx=model.onnx --saveEngine=a.plan ")
    assert "--memPoolSize=workspace:64M" in line


def test_no_line_after_an_error(capsys):
    values = parsed("--backend", "tensorrt")
    with pytest.raises(ZeroDivisionError), tensorrt_build(values):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_another_backend_has_none_of_it():
    with tensorrt_build(parsed("--backend", "openvino")) as arguments:
        assert arguments == {}


@pytest.mark.parametrize("backend", ["auto", "openvino", "torch"])
def test_options_with_another_backend_are_refused(backend):
    values = parsed("--backend", backend, "--aux-streams", "1")
    with pytest.raises(UsageError) as caught, tensorrt_build(values):
        pass
    assert str(caught.value) == (
        f"--aux-streams is an option of TensorRT, and the backend is {backend}; add --backend tensorrt"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--backend", "openvino", "--tf32"], "--tf32 is an option of TensorRT"),
        (["--backend", "tensorrt", "--optimization-level", "9"], "it must be 0 to 5"),
        (
            ["--backend", "tensorrt", "--hardware-compatible", "ampere"],
            "did you mean 'ampere_plus'",
        ),
        (["--backend", "tensorrt", "--dla-core", "1"], "engines run on DLA core 0"),
        (["--workspace", "1"], "did you mean '--workspace-mib'"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, expected):
    out = str(tmp_path / "a.engine")
    assert main(["build-engine", "a.safetensors", "-o", out, *arguments]) == UsageError.exit_code
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_without_tensorrt_one_line_says_so_before_pytorch_is_loaded(tmp_path):
    code = (
        "import sys; sys.modules['tensorrt'] = sys.modules['torch'] = None\n"
        "from solo_edge.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    arguments = ["build-engine", "a.safetensors", "-o", "a.engine", "--backend", "tensorrt"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 6
    assert done.stdout == ""
    assert done.stderr.startswith("solo-edge: error: TensorRT is not installed")
    assert "on a Jetson it comes with JetPack" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("done", "seconds", "expected"),
    [
        (0, 30.0, "TensorRT: 0 % (stage)"),
        (500, 1.0, "TensorRT: 50 % (stage)"),
        (500, 60.0, "TensorRT: 50 %, about 60 s left (stage)"),
        (250, 60.0, "TensorRT: 25 %, about 3 min left (stage)"),
        (1000, 60.0, "TensorRT: 100 %, about 0 s left (stage)"),
    ],
)
def test_progress_in_words(done, seconds, expected):
    assert describe_progress("stage", done, 1000, seconds) == expected


BUILD = """
import shutil, sys
sys.modules["cuda.bindings"] = None
import solo_edge.cli.console
import solo_edge.export.onnx
import solo_edge.export.self_check
from solo_edge.cli import main

solo_edge.cli.console.SECONDS_BETWEEN_LINES = 0.0
onnx_path = sys.argv[1]
solo_edge.export.onnx.export_onnx = lambda model, path, **options: shutil.copy(onnx_path, path)
# The stand-in for the GPU runs no kernels; test_tensorrt_frames has one that does.
solo_edge.export.self_check.check_frames = lambda engine, where: None
sys.exit(main(sys.argv[2:]))
"""


def test_the_options_reach_the_plan(lively_checkpoint, exported, tmp_path):
    """The whole command, with stand-ins for TensorRT and the GPU."""
    out = tmp_path / "scenes.engine"
    arguments = ["build-engine", lively_checkpoint, "-o", out, "--backend", "tensorrt"]
    arguments += ["--sparsity", "--refit", "--cache-folder", tmp_path / "cache"]
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *map(str, [exported(), *arguments])],
        env={**os.environ, "PYTHONPATH": f"{STANDINS}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    header = (out / "engine.plan").read_bytes().partition(b"\n")[0]
    facts = json.loads(header[header.index(b"{") :])
    assert facts["flags"] == ["REFIT", "SPARSE_WEIGHTS"]
    assert "TensorRT: 50 %" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("the same with trtexec: ")
    assert len(list((tmp_path / "cache").rglob("*.plan"))) == 1
