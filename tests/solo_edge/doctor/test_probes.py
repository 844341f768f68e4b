"""Libraries that crash, hang or chat: what comes back of them."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from solo_edge.doctor import probes
from solo_edge.doctor.probes import Answer, ask

CUDA_C = Path(__file__).parents[1] / "runtime/standins/cuda.c"


def library(folder, monkeypatch, name, code):
    """A package `name` with this code, found before any other of that name."""
    monkeypatch.syspath_prepend(folder)
    for loaded in [n for n in sys.modules if n.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, loaded)
    (folder / f"{name}.py").write_text(code)


def test_libraries_of_this_machine_answer():
    found = ask(("opencv", "openvino"))
    assert found["opencv"].ok
    assert set(found["opencv"].facts) == {"version", "windows", "gstreamer", "v4l2", "cuda"}
    assert "FP32" in found["openvino"].facts["devices"]["CPU"]


def test_what_is_not_installed_is_missing(monkeypatch):
    monkeypatch.setattr(probes, "is_installed", lambda module: False)
    assert ask(("opencv", "cuda")) == {"opencv": Answer("missing"), "cuda": Answer("missing")}
    monkeypatch.undo()
    assert not probes.is_installed("there_is_no_such.module")


def test_a_package_that_raises_is_broken(monkeypatch, tmp_path):
    library(tmp_path, monkeypatch, "openvino", "raise OSError('libtbb.so:\\n cannot open')")
    found = ask(("openvino",))["openvino"]
    assert found == Answer("broken", {}, "OSError: libtbb.so: cannot open")


def test_a_package_that_crashes_takes_nobody_with_it(monkeypatch, tmp_path):
    library(tmp_path, monkeypatch, "av", "import os\nos.kill(os.getpid(), 11)")
    found = ask(("video", "openvino"))
    assert found["video"] == Answer("broken", {}, "loading it crashed (SIGSEGV)")
    assert found["openvino"].ok


def test_a_package_that_ends_the_process_is_broken(monkeypatch, tmp_path):
    library(tmp_path, monkeypatch, "av", "import os\nos._exit(7)")
    assert ask(("video",))["video"].problem == "loading it failed (exit code 7)"


def test_a_package_that_hangs_is_given_up(monkeypatch, tmp_path):
    library(tmp_path, monkeypatch, "av", "import time\ntime.sleep(600)")
    started = time.monotonic()
    found = ask(("video",), time_limit_s=1.0)["video"]
    assert found == Answer("broken", {}, "no answer within 1 s")
    assert time.monotonic() - started < 60


def test_chatter_does_not_disturb(monkeypatch, tmp_path, capfd):
    code = (
        "import os\nos.write(1, b'out')\nos.write(2, b'err')\n__version__ = '1-x'\n"
        "class Core:\n    available_devices = ()\n"
    )
    library(tmp_path, monkeypatch, "openvino", code)
    assert ask(("openvino",))["openvino"].facts == {"version": "1", "devices": {}}
    assert capfd.readouterr() == ("", "")


def test_packages_are_not_taken_from_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "cv2.py").write_text("raise OSError('not this one')")
    (tmp_path / "json.py").write_text("raise OSError('nor this')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert ask(("opencv",))["opencv"].ok


@pytest.fixture(scope="module")
def driver_folder(tmp_path_factory):
    """The folder of a libcuda.so.1 with one device."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    size = "int cuDeviceTotalMem_v2(unsigned long *s, int d) { *s = 8ul << 30; return 0; }\n"
    source = folder / "cuda.c"
    source.write_text(
        CUDA_C.read_text() + ("" if "cuDeviceTotalMem_v2" in CUDA_C.read_text() else size)
    )
    target = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-w", "-o", target, source]
    subprocess.run(command, check=True)
    return folder


def test_the_driver_tells_its_devices(monkeypatch, driver_folder):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver_folder))
    found = ask(("driver",))["driver"]
    assert found.ok, found.problem
    assert found.facts["cuda"] == [13, 0]
    (device,) = found.facts["devices"]
    assert (device["name"], device["compute_capability"]) == ("Fake GPU", "8.7")
    assert device["memory_bytes"] > 0


def test_a_driver_without_a_device_says_so(monkeypatch, driver_folder):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver_folder))
    monkeypatch.setenv("FAKE_CUDA_NO_DEVICE", "1")
    found = ask(("driver",))["driver"]
    assert found.state == "broken"
    assert found.problem == "RuntimeError: cuInit: no CUDA-capable device is detected (100)"
    assert found.facts["cuda"] == [13, 0]


def test_a_driver_that_hangs_is_given_up(monkeypatch, tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "cuda.c").write_text(
        "#include <unistd.h>\nint cuDriverGetVersion(int *v) { *v = 12080; return 0; }\n"
        "int cuInit(unsigned f) { sleep(600); return 0; }\n"
    )
    command = [compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "cuda.c"]
    subprocess.run(command, check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = ask(("driver",), time_limit_s=2.0)["driver"]
    assert found == Answer("broken", {}, "no answer within 2 s")


def test_cuda_is_opened_as_an_engine_opens_it(monkeypatch, driver_folder):
    pytest.importorskip("cuda.bindings")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver_folder))
    found = ask(("cuda",))["cuda"]
    assert found.facts.get("package") == "cuda-bindings", found.problem
    assert found.facts["device"] == "Fake GPU"


def test_what_the_processes_run_needs_nothing_but_the_standard_library():
    tree = ast.parse(Path(probes.INSIDE).read_text("utf-8"))
    modules = [
        name
        for node in tree.body
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    assert "ctypes" in modules
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names
