"""Reading NVIDIA's and the kernel's files."""

from __future__ import annotations

import pytest

from solo_edge.environment import nvidia
from solo_edge.environment.files import SystemFiles
from solo_edge.environment.limits import ContainerLimits, Memory, container_limits, memory
from solo_edge.environment.processor import numa_nodes


def write(root, path, content):
    place = root / path.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content)


def test_files_that_cannot_be_read_are_none(tmp_path):
    files = SystemFiles(tmp_path)
    write(tmp_path, "/a/word", "hello\n")
    write(tmp_path, "/a/number", "-12\n")
    write(tmp_path, "/a/empty", "\0\n")
    assert files.text("/a/word") == "hello"
    assert files.number("/a/number") == -12
    assert files.number("/a/word") is None
    assert files.text("/a/empty") is None
    assert files.text("/a") is None  # a folder
    assert files.text("/absent/file") is None
    assert files.text("/a/word/below") is None
    assert files.found("/absent", "(.)") is None
    assert files.matching("/absent/*") == []
    assert not files.exists("/absent")


def test_matching_counts_like_people(tmp_path):
    for number in (10, 9, 2):
        write(tmp_path, f"/sys/zone{number}/type", "x")
    names = [path.name for path in SystemFiles(tmp_path).matching("/sys/zone*")]
    assert names == ["zone2", "zone9", "zone10"]


@pytest.mark.parametrize(
    ("name", "driver", "version", "models", "cards"),
    [
        ("orin_nano_jetpack_6.2", True, "540.4.0", [], 0),
        ("agx_orin_jetpack_7.2", False, None, [], 0),
        ("thor_jetpack_7.1", True, None, [], 0),  # it says "TempVersion"
        ("x86_nvidia", True, "570.86.15", ["NVIDIA GeForce RTX 3060"], 1),
        ("container", True, "575.57.08", [], 0),
        ("x86", False, None, [], 0),
    ],
)
def test_driver(machine, name, driver, version, models, cards):
    files = SystemFiles(machine(name))
    assert nvidia.has_driver(files) is driver
    assert nvidia.driver_version(files) == version
    assert nvidia.gpu_models(files) == models
    assert nvidia.pci_gpus(files) == cards  # their sound chips do not count


def test_libraries(machine):
    files = SystemFiles(machine("orin_nano_jetpack_6.2"))
    assert nvidia.cuda_toolkits(files) == ["12.6.11"]
    assert nvidia.library_versions(files, "libnvinfer") == ["10.3.0"]
    assert nvidia.library_versions(files, "libcudart") == ["12.6.68"]
    assert nvidia.library_versions(files, "libcudnn") == []


def test_versions_are_sorted_by_number(tmp_path):
    for version in ("9.10", "10.3.0", "10.16.2", "10"):
        write(tmp_path, f"/usr/lib/x86_64-linux-gnu/libnvinfer.so.{version}", "")
    found = nvidia.library_versions(SystemFiles(tmp_path), "libnvinfer")
    assert found == ["9.10", "10.3.0", "10.16.2"]


def test_memory(machine, tmp_path):
    found = memory(SystemFiles(machine("orin_nano_jetpack_6.2")))
    kib = 1024
    assert found == Memory(7802672 * kib, 5343140 * kib, 3901328 * kib, (3901328 - 3377040) * kib)
    assert memory(SystemFiles(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("container", ContainerLimits(container=True, cpus=0.5, memory=4 << 30)),
        ("container_cgroup_1", ContainerLimits(container=True, cpus=1.5, memory=None)),
        ("x86_nvidia", ContainerLimits(container=False, cpus=None, memory=None)),
    ],
)
def test_limits(machine, name, expected):
    assert container_limits(SystemFiles(machine(name))) == expected


def test_the_tightest_limit_of_all_groups_above_counts(tmp_path):
    write(tmp_path, "/proc/self/cgroup", "0::/user.slice/user-1.slice/run.scope\n")
    tree = "/sys/fs/cgroup/user.slice"
    write(tmp_path, f"{tree}/cpu.max", "150000 100000")
    write(tmp_path, f"{tree}/user-1.slice/cpu.max", "max 100000")
    write(tmp_path, f"{tree}/user-1.slice/run.scope/cpu.max", "400000 100000")
    write(tmp_path, f"{tree}/user-1.slice/memory.max", "max")
    expected = ContainerLimits(container=False, cpus=1.5, memory=None)
    assert container_limits(SystemFiles(tmp_path)) == expected


def test_numa(machine, tmp_path):
    assert numa_nodes(SystemFiles(machine("x86"))) == 2
    assert numa_nodes(SystemFiles(tmp_path)) == 1
