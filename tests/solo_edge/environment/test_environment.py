"""What is written beside every number."""

from __future__ import annotations

import json

import numpy as np
import pytest

from solo_edge import environment


def test_environment_is_plain_values():
    facts = environment.describe()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert facts["versions"]["numpy"] == np.__version__
    assert set(facts["isa"]) <= set(environment.ISA_FLAGS)


def test_commit_is_none_outside_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(environment.solo_edge, "__file__", str(tmp_path / "solo_edge/__init__.py"))
    assert environment._commit() is None


def test_a_machine_without_system_files_is_described_too(tmp_path):
    facts = environment.describe(tmp_path)
    assert facts["isa"] == []
    assert facts["cpu"]
    assert facts["jetson"] is facts["cpu_quota"] is facts["device"] is None


def test_a_jetson_is_described_with_what_decides_its_speed(machine):
    facts = environment.describe(machine("agx_orin_jetpack_7.2"))
    assert facts["cpu"] == "Cortex-A78AE"
    assert facts["device"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts["jetson"] == {
        "l4t": "39.2.0",
        "jetpack": "7.2",
        "power_mode": "MAXN",
        "gpu_mhz": [1300, 1300],
        "clocks_fixed": True,
        "hottest_celsius": 51.218,
        "throttled": ["gpu"],
        "overcurrent_events": 52,
    }


@pytest.mark.parametrize(
    ("name", "model", "flags"),
    [
        ("orin_nano_jetpack_6.2", "Cortex-A78AE", {"asimd", "asimddp", "asimdhp"}),
        ("thor_jetpack_7.1", "Neoverse-V3AE", {"sve", "sve2", "i8mm", "bf16", "asimddp"}),
        ("x86_nvidia", "AMD Ryzen 7 5800X 8-Core Processor", {"avx2"}),
        ("x86", "Intel(R) Xeon(R) Platinum 8488C", {"amx_int8", "avx512_vnni", "avx512_bf16"}),
        ("raspberry_pi_5", "Cortex-A76", {"asimddp"}),
    ],
)
def test_cpu(machine, name, model, flags):
    facts = environment.describe(machine(name))
    assert facts["cpu"] == model
    assert flags <= set(facts["isa"])


def test_an_unknown_arm_core_is_told_by_its_number(tmp_path):
    (tmp_path / "proc").mkdir()
    lines = "CPU part\t: 0xd42\nCPU part\t: 0xfff\nCPU part\t: 0xd42\n"
    (tmp_path / "proc/cpuinfo").write_text(lines)
    assert environment.describe(tmp_path)["cpu"] == "Cortex-A78AE and ARM core 0xfff"
