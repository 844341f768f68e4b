"""Jetsons, from the files that they have."""

from __future__ import annotations

import pytest

from solo_edge.environment import jetson
from solo_edge.environment.files import SystemFiles
from solo_edge.environment.jetson import GpuClock, PowerMode

ORIN_NANO, AGX_ORIN, THOR = "orin_nano_jetpack_6.2", "agx_orin_jetpack_7.2", "thor_jetpack_7.1"


@pytest.mark.parametrize(
    ("name", "release", "version", "capability"),
    [
        (ORIN_NANO, (36, 4, 3), "6.2", "8.7"),
        (AGX_ORIN, (39, 2, 0), "7.2", "8.7"),
        (THOR, (38, 4, 0), "7.1", "11.0"),  # without the package nvidia-jetpack
        ("raspberry_pi_5", None, None, None),
        ("x86_nvidia", None, None, None),
    ],
)
def test_release(machine, name, release, version, capability):
    files = SystemFiles(machine(name))
    assert jetson.l4t_release(files) == release
    assert jetson.jetpack(files) == version
    assert jetson.board(files)[1] == capability


@pytest.mark.parametrize(
    ("first_line", "release", "version"),
    [
        ("# R36 (release), REVISION: 3.0, GCID: 1", (36, 3, 0), "6.0"),
        ("# R36 (release), REVISION: 4.0, GCID: 1", (36, 4, 0), "6.1"),
        ("# R36 (release), REVISION: 4.7, GCID: 1", (36, 4, 7), "6.2.1"),
        ("# R36 (release), REVISION: 5.2, GCID: 1", (36, 5, 2), "6.2.2"),
        ("# R39 (release), REVISION: 2.1, GCID: 1", (39, 2, 1), "7.2.1"),
        ("# R42 (release), REVISION: 1.0", (42, 1, 0), None),
        ("garbage", None, None),
    ],
)
def test_releases_without_the_package(tmp_path, first_line, release, version):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(first_line + "\n# more\n")
    files = SystemFiles(tmp_path)
    assert jetson.l4t_release(files) == release
    assert jetson.jetpack(files) == version


@pytest.mark.parametrize(
    ("name", "now", "fastest"),
    [
        (ORIN_NANO, PowerMode(0, "15W"), PowerMode(2, "MAXN_SUPER")),
        (AGX_ORIN, PowerMode(0, "MAXN"), PowerMode(0, "MAXN")),
        (THOR, PowerMode(1, "120W"), PowerMode(0, "MAXN")),
    ],
)
def test_power_modes(machine, name, now, fastest):
    assert jetson.power_modes(SystemFiles(machine(name))) == (now, fastest)


def test_the_default_mode_counts_until_one_is_chosen(machine):
    root = machine(ORIN_NANO)
    (root / "var/lib/nvpmodel/status").unlink()
    now, _ = jetson.power_modes(SystemFiles(root))
    assert now == PowerMode(1, "25W")


def test_without_a_mode_without_limit_most_watts_are_fastest(machine):
    root = machine(ORIN_NANO)
    config = root / "etc/nvpmodel.conf"
    config.write_text(config.read_text().replace("MAXN_SUPER", "10W"))
    _, fastest = jetson.power_modes(SystemFiles(root))
    assert fastest == PowerMode(1, "25W")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (ORIN_NANO, GpuClock(306, 306, 612)),
        (AGX_ORIN, GpuClock(1300, 1300, 1300)),
        (THOR, GpuClock(315, 315, 1386)),
        ("raspberry_pi_5", None),
    ],
)
def test_clocks(machine, name, expected):
    assert jetson.gpu_clock(SystemFiles(machine(name))) == expected


def test_heat(machine):
    cool = jetson.thermal(SystemFiles(machine(ORIN_NANO)))
    assert cool.hottest == ("tj-thermal", 43.6)
    assert cool.throttled == ()  # the fan is at work, which is no throttling
    assert cool.overcurrent_events == 0
    assert cool.fan_percent == 30
    hot = jetson.thermal(SystemFiles(machine(AGX_ORIN)))
    assert hot.throttled == ("gpu",)
    assert hot.overcurrent_events == 52
    thor = jetson.thermal(SystemFiles(machine(THOR)))
    assert thor.throttled == ()  # a clock below its maximum is none, either
    assert thor.overcurrent_events is None


def test_a_machine_that_tells_nothing(tmp_path):
    files = SystemFiles(tmp_path)
    assert jetson.power_modes(files) == (None, None)
    assert jetson.thermal(files) == jetson.Thermal(None, (), None, None)
    assert jetson.board(files) == (None, None)
