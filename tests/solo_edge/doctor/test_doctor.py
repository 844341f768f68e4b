"""The diagnosis of the machine that runs the tests, and how the command shows it."""

from __future__ import annotations

import json
import time

import pytest

from solo_edge import cli, environment
from solo_edge.doctor import Check, can_run_engines, diagnose


def test_this_machine_can_run_engines():
    started = time.monotonic()
    checks = {check.id: check for check in diagnose()}
    assert time.monotonic() - started < 60  # it hangs on nothing
    assert can_run_engines(checks.values())
    assert checks["opencv"].status == "ok"
    assert "V4L2" in checks["opencv"].text
    assert "FP32" in checks["openvino"].text
    assert environment.cpu_model() in checks["cpu"].text
    assert {check.status for check in checks.values()} <= {
        "ok",
        "info",
        "warning",
        "missing",
        "broken",
    }


@pytest.mark.parametrize("backend", ["tensorrt", "torch", "openvino", "onnxruntime"])
def test_one_backend_and_opencv_are_enough(backend):
    opencv, engine = Check("opencv", "ok", ""), Check(f"backend-{backend}", "ok", "")
    assert can_run_engines([opencv, engine])
    assert can_run_engines([Check("opencv", "warning", ""), engine])
    assert not can_run_engines([engine])
    assert not can_run_engines([opencv])
    assert not can_run_engines([opencv, Check(f"backend-{backend}", "info", "")])


def test_the_command_shows_one_screen(machine, answers, monkeypatch, capsys):
    for name in ("OMP_NUM_THREADS", "TRITON_INTERPRET", "OPENBLAS_CORETYPE"):
        monkeypatch.delenv(name, raising=False)  # of whoever runs the tests
    found = diagnose(machine("orin_nano_jetpack_6.2"), answers=answers("orin"))
    monkeypatch.setattr("solo_edge.doctor.diagnose", lambda: found)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    (power,) = [index for index, line in enumerate(lines) if line.startswith("power")]
    assert lines[power].split(maxsplit=2) == ["power", "warning", "15W; MAXN_SUPER is faster"]
    assert lines[power + 1].strip() == "-> sudo nvpmodel -m 2"


def test_json_is_for_programs_and_says_no_more(machine, answers, monkeypatch, capsys):
    found = diagnose(machine("thor_jetpack_7.1"), answers=answers("thor"))
    monkeypatch.setattr("solo_edge.doctor.diagnose", lambda: found)
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_run_engines"]
    assert [check["id"] for check in report["checks"]] == [check.id for check in found]


def test_without_an_engine_the_exit_code_is_6(monkeypatch, capsys):
    monkeypatch.setattr(
        "solo_edge.doctor.diagnose", lambda: [Check("opencv", "missing", "no", {}, "do")]
    )
    assert cli.main(["doctor"]) == 6
    out, err = capsys.readouterr()
    assert out.splitlines()[1].strip() == "-> do"
    assert "no engine can run here" in err
