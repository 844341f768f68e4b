"""`solo-edge kernels`, from the words a user types to the folder and the exit code."""

from __future__ import annotations

import importlib.util
import json

import pytest

from solo_edge import cli

SMALL = ["--classes", 3, "--channels", 64, "--height", 9, "--width", 13, "--k", 16]
SMALL += ["--instances", 5, "--grid-sizes", 8, 6]

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.fixture
def run(capfd):
    """Run `solo-edge kernels` in this process: (exit code, standard output, standard error)."""

    def run_command(*words):
        capfd.readouterr()
        code = cli.main(["kernels", *map(str, words)])
        return code, *capfd.readouterr()

    return run_command


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["build", "--target", "oring", "-o", "x"], "unknown target 'oring'; did you mean 'orin'?"),
        (["build", "--target", "sm_111", "-o", "x"], "unknown target 'sm_111'; did you mean 'sm_1"),
        (["biuld", "--target", "orin"], "unknown action 'biuld'; did you mean 'build'?"),
        (["build", "-o", "x"], "kernels build needs --target"),
        (["build", "--target", "orin"], "kernels build needs -o/--out; for example: solo-edge"),
        (["build", "--target", "orin", "-o", "x", "--dtype", "fp8"], "unknown type 'fp8'"),
        (["build", "--target", "orin", "-o", "x", "--k", "5000"], "--k is 5000; at most 4096"),
        (["build", "--target", "orin", "-o", "x", "--batch", "0"], "--batch: '0' is not a whole"),
        (["build", "--target", "thor", "-o", "x", "--ptx", "8.8"], "9.0 is the lowest version"),
        (["check", "--target", "orin", "--ptx", "new"], "'new' is no PTX version such as 8.0"),
        (["check", "--taget", "orin"], "unknown option --taget; did you mean '--target'?"),
    ],
)
def test_mistakes_are_one_line(run, words, expected):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert expected in err


def test_without_triton_it_says_how_to_get_it(run, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, out, err = run("build", "--target", "orin", "-o", tmp_path / "x")
    assert (code, out) == (6, "")
    assert "needs Triton, which is not installed; pip install triton" in err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


@needs_triton
def test_build_writes_a_folder(run, tmp_path):
    out = tmp_path / "orin.kernels"
    words = ["--target", "orin", "-o", out, "--dtype", "fp16", "--ptx", "8.2", "--decay", "linear"]
    code, printed, err = run("build", *words, *SMALL)
    assert (code, printed) == (0, f"{out}\n"), err
    values = json.loads((out / "kernels.json").read_text())
    assert (values["target"], values["dtype"]) == ("sm_87", "float16")
    assert values["sizes"]["cells"] == 100
    kernel = values["kernels"]["decay_scores"]
    assert kernel["constants"]["GAUSSIAN"] is False
    assert [each["ptx_version"] for each in kernel["variants"]] == ["8.2", "8.2", "7.8"]


@needs_triton
def test_check_shows_a_table_and_fails_on_a_broken_limit(run, monkeypatch):
    from solo_edge.kernels import aot_report

    # Enough of the kernels to fill a table.
    every = aot_report.gate_plans
    monkeypatch.setattr(aot_report, "gate_plans", lambda sizes: every(sizes)[2:3])
    tight = {"mask_overlap_kernel": aot_report.Limit(shared_bytes=16, needs=("matrix",))}
    monkeypatch.setattr(aot_report, "LIMITS", tight)
    code, out, err = run("check", "--target", "orin", *SMALL)
    assert code == 4
    lines = [line.split() for line in out.splitlines()]
    assert ["order_candidates_kernel", "sm_87", "sm_87"] in [line[:3] for line in lines]
    assert [line[-1] for line in lines if line[:1] == ["order_candidates_kernel"]] == ["ok", "ok"]
    assert "no matrix" in out
    assert "kernels break their limits (mask_overlap_kernel over 0 KB of shared memory)" in err
