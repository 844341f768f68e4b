"""From the files of a machine and the answers of its libraries to checks and commands."""

from __future__ import annotations

import json
import os
import re

import pytest

from solo_edge import doctor, environment
from solo_edge.doctor import can_run_engines, diagnose, to_dict
from solo_edge.doctor.packages import package_checks
from solo_edge.doctor.platforms import Platform, install_command
from solo_edge.doctor.probes import Answer
from solo_edge.doctor.system import variable_checks
from solo_edge.environment.files import SystemFiles
from solo_edge.export.build import PRECISIONS

ORIN = Platform("aarch64", l4t=(36, 4, 3), driver=True, cuda=(12, 6), python=(3, 10))
THOR = Platform("aarch64", l4t=(38, 4, 0), driver=True, cuda=(13, 0), python=(3, 12))
DESKTOP = Platform("x86_64", driver=True, gpus=1, cuda=(12, 8), python=(3, 11))


def look(root, answers):
    return {check.id: check for check in diagnose(root, answers=answers)}


@pytest.mark.parametrize(
    ("tree", "kind", "jetpack", "tensorrt"),
    [
        ("orin_nano_jetpack_6.2", "orin", "JetPack 6.2 (Jetson Linux 36.4.3)", "10.3.0"),
        ("agx_orin_jetpack_7.2", "agx", "JetPack 7.2 (Jetson Linux 39.2.0)", "10.16.2.10"),
        ("thor_jetpack_7.1", "thor", "JetPack 7.1 (Jetson Linux 38.4.0)", "10.13.3.9"),
    ],
)
def test_a_jetson_with_everything(machine, answers, tree, kind, jetpack, tensorrt):
    found = look(machine(tree), answers(kind))
    assert found["jetpack"].status == "ok"
    assert found["jetpack"].text == jetpack
    assert (found["tensorrt"].status, found["tensorrt"].text) == ("ok", tensorrt)
    assert found["gpu"].status == found["cuda"].status == "ok"
    assert found["backend-tensorrt"].status == "ok"
    assert found["backend-tensorrt"].value["precisions"] == [*PRECISIONS["tensorrt"]]
    # What TensorRT makes superfluous is not asked for.
    assert found["openvino"].status == found["onnxruntime"].status == "info"
    assert can_run_engines(found.values())


def test_a_slow_power_mode_comes_with_the_command_for_the_fastest(machine, answers):
    found = look(machine("orin_nano_jetpack_6.2"), answers("orin"))
    assert found["power"].status == "warning"
    assert found["power"].text == "15W; MAXN_SUPER is faster"
    assert found["power"].fix == "sudo nvpmodel -m 2"
    assert found["clocks"].text == "GPU at 306 MHz, moves up to 612 (sudo jetson_clocks fixes it)"
    assert found["heat"].status == "info"
    assert found["video"].text.endswith("hardware encoder: none")  # Orin Nano has none


def test_throttling_and_a_weak_supply_are_warnings(machine, answers):
    found = look(machine("agx_orin_jetpack_7.2"), answers("agx"))
    assert found["power"].status == "ok"
    assert found["clocks"].value["fixed"]
    assert found["heat"].status == "warning"
    assert "52 over-current events" in found["heat"].text
    assert "slowed down by heat: gpu" in found["heat"].text
    assert found["video"].text.endswith("hardware encoder: /dev/v4l2-nvenc")


def test_heat_without_an_alert_is_told_too(machine, answers):
    found = look(machine("raspberry_pi_5"), answers("cpu"))
    assert found["heat"].status == "warning"
    assert found["heat"].text == "86 °C (cpu-thermal), fan 100 %"


def test_too_old_a_jetpack(machine, answers):
    root = machine("orin_nano_jetpack_6.2")
    release = root / "etc/nv_tegra_release"
    release.write_text(release.read_text().replace("REVISION: 4.3", "REVISION: 3.0"))
    (root / "var/lib/dpkg/status").unlink()
    old = Answer("ok", {"version": "8.6.2"})
    found = look(root, answers("orin", tensorrt=old))
    assert found["jetpack"].status == found["tensorrt"].status == "broken"
    assert "6.1 is the oldest" in found["jetpack"].text
    assert "SDK Manager" in found["jetpack"].fix
    assert found["tensorrt"].text == "8.6.2; 10.3 is the oldest that works"
    assert found["tensorrt"].fix == found["jetpack"].fix
    assert found["backend-tensorrt"].text == "needs tensorrt"


@pytest.mark.parametrize(
    ("tree", "kind", "version", "status"),
    [
        ("orin_nano_jetpack_6.2", "orin", "10.7.0", "ok"),
        ("orin_nano_jetpack_6.2", "orin", "10.16.1.11", "warning"),
        ("thor_jetpack_7.1", "thor", "11.4.0", "warning"),
        ("agx_orin_jetpack_7.2", "agx", "11.4.1", "ok"),
        ("agx_orin_jetpack_7.2", "agx", "10.3.0", "warning"),
    ],
)
def test_tensorrt_must_fit_the_jetpack(machine, answers, tree, kind, version, status):
    given = answers(kind, tensorrt=Answer("ok", {"version": version}))
    found = look(machine(tree), given)
    assert found["tensorrt"].status == status
    assert found["backend-tensorrt"].status == "ok"


def test_a_desktop_with_a_gpu(machine, answers):
    found = look(machine("x86_nvidia"), answers("desktop"))
    expected = "NVIDIA GeForce RTX 3060 (sm_86, 12.0 GiB), driver 570.86.15, CUDA 12.8"
    assert found["gpu"].text == expected
    assert "jetpack" not in found
    found = look(machine("container"), answers("desktop", tensorrt=Answer("missing")))
    assert found["tensorrt"].fix == 'pip install "tensorrt-cu12>=10.3"'


def test_a_machine_without_a_gpu_needs_none_of_nvidia(machine, answers):
    found = look(machine("x86"), answers("cpu"))
    for name in ("gpu", "cuda", "tensorrt"):
        assert (found[name].status, found[name].fix) == ("info", None)
    assert found["cpu"].text.endswith("in 2 NUMA nodes, " + " ".join(found["cpu"].value["isa"]))
    assert found["memory"].status == "warning"  # half a GiB is left
    assert can_run_engines(found.values())


def test_a_container_with_little_cpu(machine, answers, monkeypatch):
    monkeypatch.setattr(environment, "cpu_count", lambda: 64)
    found = look(machine("container"), answers("cpu"))
    assert found["limits"].status == "warning"
    assert "--threads 1 " in found["limits"].fix
    assert found["limits"].text.startswith("container, 0.5 CPUs, 4.0 GiB of memory")
    # The driver is loaded outside, but nobody let it in.
    assert found["gpu"].status == "broken"
    assert found["gpu"].fix == "start it with docker run --gpus all"


@pytest.mark.parametrize(
    ("driver", "text", "fix"),
    [
        (
            Answer("ok", {"library": False}),
            "libcuda.so.1 is missing",
            "install NVIDIA's driver again",
        ),
        (Answer("ok", {"library": True, "cuda": [12, 8], "devices": []}), "no device", "dmesg"),
        (Answer("broken", {}, "no answer within 20 s"), "no answer within 20 s", "restart"),
        (Answer("broken", {"cuda": [12, 8]}, "cuInit: 999"), "CUDA 12.8: the driver", "restart"),
    ],
)
def test_a_driver_that_does_not_work(machine, answers, driver, text, fix):
    found = look(machine("x86_nvidia"), answers("desktop", driver=driver))
    assert found["gpu"].status == "broken"
    assert text in found["gpu"].text
    assert fix in found["gpu"].fix
    assert found["gpu"].text.startswith("NVIDIA GeForce RTX 3060, driver 570.86.15")
    assert "gpu" in found["backend-tensorrt"].text


def test_a_user_who_may_not_use_the_gpu(machine, answers, monkeypatch):
    root = machine("orin_nano_jetpack_6.2")
    device = root / "dev/nvmap"
    device.parent.mkdir()
    device.touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != device)  # root may do everything
    problem = Answer("broken", {"cuda": [12, 6]}, "RuntimeError: cuInit: unknown error (999)")
    found = look(root, answers("orin", driver=problem))
    assert "no permission to use /dev/nvmap" in found["gpu"].text
    assert found["gpu"].fix == "sudo usermod -aG video,render $USER, and log in again"


def test_a_gpu_without_the_files_of_a_driver(machine, answers):
    found = look(machine("x86"), answers("desktop", cuda=Answer("missing")))  # as in WSL
    assert found["gpu"].status == "ok"
    assert found["cuda"].fix == 'pip install "cuda-bindings>=12.8,<13"'


def test_no_package_is_asked_for_while_the_driver_does_not_work(machine, answers):
    dead = Answer("broken", {}, "no answer within 20 s")
    found = look(machine("x86_nvidia"), answers("desktop", driver=dead, cuda=dead))
    assert (found["cuda"].status, found["cuda"].fix) == ("broken", None)


def test_a_card_without_a_driver(machine, answers):
    root = machine("x86_nvidia")
    (root / "proc/driver/nvidia/version").unlink()
    found = look(root, answers("cpu"))
    assert (found["gpu"].status, found["gpu"].fix) == ("missing", "sudo ubuntu-drivers install")


def test_hidden_gpus_are_named_as_such(machine, answers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    nothing = Answer(
        "broken", {"cuda": [12, 8]}, "cuInit: no CUDA-capable device is detected (100)"
    )
    found = look(machine("x86_nvidia"), answers("desktop", driver=nothing))
    assert found["gpu"].fix == "unset CUDA_VISIBLE_DEVICES"
    assert found["variables"].status == "warning"


@pytest.mark.parametrize(
    ("module", "on", "command"),
    [
        ("cuda", ORIN, 'pip install "cuda-bindings>=12.8,<13"'),
        ("cuda", THOR, 'pip install "cuda-bindings>=13,<14"'),
        ("cuda", DESKTOP, 'pip install "cuda-bindings>=12.8,<13"'),
        ("cuda", Platform("aarch64", l4t=(36, 4, 3)), 'pip install "cuda-bindings>=12.8,<13"'),
        ("tensorrt", ORIN, "sudo apt install python3-libnvinfer"),
        (
            "tensorrt",
            Platform("aarch64", l4t=(35, 4, 1)),
            "install JetPack 6.2 or later with NVIDIA's SDK Manager",
        ),
        (
            "tensorrt",
            Platform("x86_64", driver=True, cuda=(13, 1)),
            'pip install "tensorrt-cu13>=10.3"',
        ),
        ("cv2", ORIN, "sudo apt install python3-opencv"),
        ("cv2", DESKTOP, "pip install opencv-python-headless"),
        ("av", ORIN, "pip install av"),
    ],
)
def test_commands_for_each_platform(module, on, command):
    assert install_command(module, on) == command


@pytest.mark.parametrize(
    "on",
    [
        Platform(
            "aarch64",
            l4t=(36, 4, 3),
            python=(3, 10),
            closed_environment=True,
            system_modules=frozenset(("tensorrt",)),
        ),
        Platform(
            "aarch64", l4t=(39, 2, 0), python=(3, 13), system_modules=frozenset(("tensorrt",))
        ),
    ],
    ids=["closed environment", "another Python"],
)
def test_what_jetpack_installed_is_made_visible_instead_of_installed_again(on):
    command = install_command("tensorrt", on)
    assert command == "/usr/bin/python3 -m venv --system-site-packages .venv"


def test_numpy_2_under_the_systems_opencv(machine, answers):
    problem = "ImportError: numpy.core.multiarray failed to import"
    found = look(
        machine("orin_nano_jetpack_6.2"), answers("orin", opencv=Answer("broken", {}, problem))
    )
    assert found["opencv"].status == "broken"
    assert found["opencv"].fix == 'pip install "numpy<2"'
    assert not can_run_engines(found.values())


def test_broken_packages_are_installed_again(machine, answers):
    bad = Answer("broken", {}, "OSError: libtbb.so: cannot open")
    found = look(machine("x86"), answers("cpu", openvino=bad, opencv=bad))
    assert found["openvino"].fix == "pip install --force-reinstall openvino"
    assert found["opencv"].fix == "pip install --force-reinstall opencv-python-headless"
    assert found["backend-openvino"].text == "needs openvino"


def test_with_nothing_installed_every_check_says_what_to_do(machine, answers):
    given = answers(
        "cpu", openvino=Answer("missing"), opencv=Answer("missing"), video=Answer("missing")
    )
    found = look(machine("x86"), given)
    for name in ("opencv", "video", "openvino", "onnxruntime"):
        assert found[name].status == "missing"
        assert found[name].fix.startswith("pip install")
    assert not can_run_engines(found.values())


def test_training_packages_for_a_jetson(machine, answers, monkeypatch):
    monkeypatch.setattr(
        "solo_edge.doctor.packages._version", lambda name: "2.9" if name == "torch" else None
    )
    files = SystemFiles(machine("orin_nano_jetpack_6.2"))
    checks = {check.id: check for check in package_checks(files, ORIN, answers("orin"))}
    command = checks["training"].fix
    assert command.startswith('pip install "numpy<2" torchvision timm safetensors onnx onnxscript')
    assert command.endswith("https://download.pytorch.org/whl/cpu")


def test_precisions_depend_on_the_cpu_and_the_gpu(machine, answers):
    with_bf16 = Answer("ok", {"version": "2026.4.1", "devices": {"CPU": ["FP32", "BF16"]}})
    found = look(machine("x86"), answers("cpu", openvino=with_bf16))
    assert found["backend-openvino"].value["precisions"] == [*PRECISIONS["openvino"]]
    found = look(machine("x86_nvidia"), answers("cpu"))
    assert "bf16" not in found["backend-openvino"].value["precisions"]
    assert "fp16" not in found["backend-torch"].value["precisions"]


@pytest.mark.parametrize(
    ("variables", "status", "fix"),
    [
        ({}, None, None),
        ({"HOME": "/home/someone"}, None, None),
        ({"OMP_NUM_THREADS": "4"}, "info", None),
        ({"OMP_NUM_THREADS": "1"}, "warning", "unset OMP_NUM_THREADS"),
        ({"OPENBLAS_NUM_THREADS": "1"}, "info", None),  # on purpose, where others want the cores
        ({"OPENBLAS_CORETYPE": "ARMV8"}, "warning", "unset OPENBLAS_CORETYPE"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "info", None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "warning", "unset CUDA_VISIBLE_DEVICES"),
        ({"CUDA_LAUNCH_BLOCKING": "0"}, "info", None),
        (
            {"CUDA_LAUNCH_BLOCKING": "1", "CUDA_CACHE_DISABLE": "1"},
            "warning",
            "unset CUDA_LAUNCH_BLOCKING CUDA_CACHE_DISABLE",
        ),
    ],
)
def test_variables(monkeypatch, variables, status, fix):
    monkeypatch.setattr(environment, "cpu_count", lambda: 4)
    checks = list(variable_checks(variables))
    assert [(check.status, check.fix) for check in checks] == ([(status, fix)] if status else [])


def test_the_schema_is_stable(machine, answers):
    report = to_dict(diagnose(machine("orin_nano_jetpack_6.2"), answers=answers("orin")))
    assert json.loads(json.dumps(report)) == report
    assert report["schema"] == doctor.SCHEMA == 1
    assert report["can_run_engines"] is True
    names = [check["id"] for check in report["checks"]]
    assert len(names) == len(set(names))
    assert {
        *(
            "board",
            "system",
            "software",
            "cpu",
            "memory",
            "disk",
            "jetpack",
            "power",
            "clocks",
            "heat",
            "gpu",
            "cuda",
        ),
        *("cuda-libraries", "tensorrt", "opencv", "video", "evaluation", "openvino", "onnxruntime"),
        *("training", "backend-tensorrt", "backend-torch", "backend-openvino"),
        "backend-onnxruntime",
    } <= set(names)
    for check in report["checks"]:
        assert set(check) == {"id", "status", "text", "value", "fix"}
        assert check["status"] in ("ok", "info", "warning", "missing", "broken")
        assert re.fullmatch(r"[a-z0-9-]+", check["id"])
        assert "\n" not in check["text"]


def test_an_unknown_system_is_diagnosed_too(tmp_path, answers):
    found = look(tmp_path, answers("cpu"))
    assert "memory" not in found
    assert can_run_engines(found.values())
