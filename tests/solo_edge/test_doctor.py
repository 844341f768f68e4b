"""The diagnosis tells ok, missing and broken apart, and what helps."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from solo_edge import doctor, environment
from solo_edge.doctor import Check, can_run_engines, diagnose

BACKENDS = [{"openvino"}, {"onnxruntime"}, {"torch", "safetensors"}, {"tensorrt", "pycuda"}]


def test_this_machine_can_run_engines():
    checks = {check.topic: check for check in diagnose()}
    assert can_run_engines(list(checks.values()))
    assert checks["opencv"].status == "ok"
    assert "GStreamer" in checks["opencv"].detail
    assert "FP32" in checks["openvino"].detail
    assert "core" in checks["machine"].detail
    assert environment.cpu_model() in checks["machine"].detail


def test_missing_packages_come_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    checks = [check for check in diagnose() if check.status != "info"]
    assert {check.status for check in checks} == {"missing"}
    assert len(checks) == len(doctor.PROBES)
    assert all(check.fix and "pip install" in check.fix for check in checks)
    assert not can_run_engines(checks)


def test_a_package_that_cannot_be_loaded_is_broken(monkeypatch, tmp_path):
    (tmp_path / "openvino.py").write_text("raise OSError('libtbb.so:\\n cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    (check,) = [check for check in diagnose() if check.topic == "openvino"]
    assert check.status == "broken"
    assert check.detail == "OSError: libtbb.so: cannot open"
    assert check.fix == "pip install --force-reinstall openvino"


@pytest.mark.parametrize("backend", BACKENDS, ids="+".join)
def test_one_backend_and_opencv_are_enough(backend):
    def checks(topics):
        return [Check(topic, "ok", "") for topic in topics]

    assert can_run_engines(checks({"opencv", *backend}))
    assert not can_run_engines(checks(backend))
    assert not can_run_engines(checks({"opencv", *sorted(backend)[1:]}))


def test_native_chatter_is_kept_off_standard_error(capfd):
    import os

    with doctor._quiet_native_output():
        os.write(2, b"chatter")
    os.write(2, b"message")
    assert capfd.readouterr().err == "message"


def test_every_probe_has_an_install_line():
    assert {module for _, module, _ in doctor.PROBES} == set(environment.INSTALL)
