"""Timings and plans that builds share, also when they run at the same time in other processes."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest

from solo_edge.export import tensorrt_cache
from solo_edge.export.tensorrt_builder import serialize_network
from solo_edge.export.tensorrt_cache import PLANS_KEPT, BuildCache, TimingCacheFile, locked
from solo_edge.export.tensorrt_options import TensorRTOptions

MACHINE = ("10.3.0", "Fake GPU", "8.7")


@pytest.fixture
def log(tmp_path):
    """What the stand-in did: "build" and "measure LAYER"."""

    def read():
        path = tmp_path / "standin.log"
        return path.read_text().splitlines() if path.exists() else []

    return read


@pytest.fixture
def timings(tmp_path):
    return TimingCacheFile(tmp_path / "timing.cache")


@pytest.fixture
def cache(tmp_path):
    made = BuildCache(tmp_path / "cache", *MACHINE)
    assert made.open()
    return made


def layers(timings):
    return json.loads(timings.path.read_bytes())["layers"]


def test_the_second_build_measures_nothing(standin, tiny_onnx, timings, log):
    trt = standin()
    serialize_network(trt, tiny_onnx(), timings=timings)
    assert log() == ["build", "measure first", "measure second"]
    serialize_network(trt, tiny_onnx(), timings=timings)
    assert log()[3:] == ["build"]


@pytest.mark.parametrize("content", [b"junk", b"{}", b"\xff\x00"])
def test_a_damaged_file_is_replaced(standin, tiny_onnx, timings, log, caplog, content):
    timings.path.write_bytes(content)
    serialize_network(standin(), tiny_onnx(), timings=timings)
    assert "timing.cache: damaged, or of another TensorRT or GPU; replaced" in caplog.text
    assert set(layers(timings)) == {"first", "second"}


@pytest.mark.parametrize("other", [{"version": "10.13.3.9"}, {"GPU": "Another GPU"}])
def test_a_foreign_file_is_replaced(standin, tiny_onnx, timings, log, caplog, monkeypatch, other):
    serialize_network(standin(**other), tiny_onnx(), timings=timings)
    monkeypatch.delenv("FAKE_TENSORRT_GPU", raising=False)
    serialize_network(standin(), tiny_onnx(), timings=timings)
    assert "replaced" in caplog.text
    assert log()[3:] == ["build", "measure first", "measure second"]
    assert json.loads(timings.path.read_bytes())["machine"] == ["10.3.0", "Fake GPU"]


def test_what_another_build_added_meanwhile_is_kept(standin, tiny_onnx, timings):
    trt = standin()
    serialize_network(trt, tiny_onnx(), timings=timings)
    own = layers(timings)

    def another_build(config):
        facts = json.loads(timings.path.read_bytes())
        facts["layers"] |= {"third": 3, "first": "theirs"}
        timings.path.write_text(json.dumps(facts))

    serialize_network(trt, tiny_onnx(), timings=timings, configure=another_build)
    assert layers(timings) == {**own, "third": 3}


def test_a_file_that_was_damaged_meanwhile_costs_nothing(standin, tiny_onnx, timings):
    def damage(config):
        timings.path.write_bytes(b"junk")

    serialize_network(standin(), tiny_onnx(), timings=timings, configure=damage)
    assert set(layers(timings)) == {"first", "second"}


def test_a_build_that_fails_leaves_its_measurements(standin, tiny_onnx, timings):
    with pytest.raises(Exception, match="cannot build this graph"):
        serialize_network(standin(FAILURE="Error"), tiny_onnx(), timings=timings)
    assert set(layers(timings)) == {"first", "second"}


def test_a_plan_is_built_once(cache, tiny_onnx):
    options, calls = TensorRTOptions(), []

    def build():
        calls.append(1)
        return b"plan"

    for _ in range(3):
        assert cache.plan(tiny_onnx(), options, build) == b"plan"
    assert len(calls) == 1


def test_what_makes_another_plan(cache, tmp_path, tiny_onnx):
    built = []

    def plan(using=cache, path=None, **values):
        path = path or tiny_onnx()
        return using.plan(path, TensorRTOptions(**values), lambda: built.append(1) or b"plan")

    plan()
    plan(cache_folder="/elsewhere")  # does not change what is built
    assert len(built) == 1
    plan(tf32=True)
    plan(optimization_level=4)
    plan(path=tiny_onnx("other.onnx", batch=2))
    for machine in (("11.4.0", *MACHINE[1:]), (MACHINE[0], "B", "8.7"), (*MACHINE[:2], "8.9")):
        other = BuildCache(tmp_path / "cache", *machine)
        assert other.open()
        plan(other)
    assert len(built) == 7


def test_a_damaged_plan_is_built_again(cache, tmp_path, tiny_onnx, caplog):
    cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"plan")
    (path,) = (tmp_path / "cache").rglob("*.plan")
    path.write_bytes(path.read_bytes()[:-1] + b"m")
    assert cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"new") == b"new"
    assert "damaged; building it again" in caplog.text
    assert cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"third") == b"new"


def test_a_build_that_fails_leaves_no_plan(cache, tmp_path, tiny_onnx):
    def build():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache.plan(tiny_onnx(), TensorRTOptions(), build)
    assert not list((tmp_path / "cache").rglob("*.plan"))
    assert cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"plan") == b"plan"  # not locked


def test_only_the_plans_used_last_are_kept(cache, tmp_path, tiny_onnx):
    for batch in range(1, PLANS_KEPT + 3):
        path = tiny_onnx(f"{batch}.onnx", batch=batch)
        cache.plan(path, TensorRTOptions(), lambda: b"plan")
        for age, plan in enumerate((tmp_path / "cache").rglob("*.plan")):
            os.utime(plan, (plan.stat().st_atime, plan.stat().st_mtime - 10 - age))
    assert len(list((tmp_path / "cache").rglob("*.plan"))) == PLANS_KEPT
    built = []
    cache.plan(path, TensorRTOptions(), lambda: built.append(1) or b"plan")
    assert not built


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_plans_are_not_taken_from_a_folder_that_others_write_to(cache, tmp_path, tiny_onnx, caplog):
    (plans,) = (tmp_path / "cache").rglob("plans")
    assert plans.stat().st_mode & 0o777 == 0o700
    cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"plan")
    plans.chmod(0o770)
    assert cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"mine") == b"mine"
    assert "others can write here; plans are not shared" in caplog.text


def test_no_cache_where_none_can_be(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert not BuildCache(tmp_path / "file", *MACHINE).open()
    assert "no cache (Not a directory)" in caplog.text


def test_names_of_gpus_make_good_folders(tmp_path):
    assert BuildCache(tmp_path, "10.3.0", "NVIDIA Tegra/Orin (nvgpu)", "8.7").open()
    (folder,) = (tmp_path / "tensorrt").iterdir()
    assert folder.name == "10.3.0_NVIDIA_Tegra_Orin_nvgpu_8.7"


def test_a_lock_is_held_by_one_alone(tmp_path, caplog):
    order = []

    def second():
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting for another build" not in caplog.text:
            assert thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


BUILD = """
import sys
from pathlib import Path
from solo_edge.export.tensorrt_builder import build_plan
from solo_edge.export.tensorrt_options import TensorRTOptions

build_plan(Path(sys.argv[1]), Path(sys.argv[2]), TensorRTOptions(optimization_level=int(sys.argv[3])))
print("done")
"""


@pytest.fixture
def start_build(start_process, tiny_onnx, tmp_path):
    """start_build(NAME, level) -> a process that builds NAME.plan; it waits for the file `gate`."""
    settings = {"LOG": tmp_path / "standin.log", "WAIT_FOR": tmp_path / "gate"}
    environment = {f"FAKE_TENSORRT_{name}": str(value) for name, value in settings.items()}
    onnx = tiny_onnx()

    def start(name, level=3):
        return start_process(BUILD, onnx, tmp_path / f"{name}.plan", level, **environment)

    return start


def until(happened, *processes):
    """Wait for it, but not for processes that ended."""
    while not happened():
        for process in processes:
            assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def finish(process):
    output = process.communicate(timeout=120)[0]
    assert output.endswith("done\n"), output
    assert process.returncode == 0


def test_two_processes_build_one_plan_once(start_build, tmp_path, log):
    first = start_build("first")
    until(lambda: log() == ["build"], first)
    second = start_build("second")
    assert "waiting for another build" in second.stdout.readline()
    (tmp_path / "gate").touch()
    finish(first)
    finish(second)
    assert log() == ["build", "measure first", "measure second"]
    assert (tmp_path / "first.plan").read_bytes() == (tmp_path / "second.plan").read_bytes()


def test_two_processes_build_two_plans_at_once_and_share_timings(start_build, tmp_path, log):
    processes = [start_build(f"{level}", level) for level in range(2)]
    until(lambda: log().count("build") == 2, *processes)
    (tmp_path / "gate").touch()
    for process in processes:
        finish(process)
    measured = len(log())
    finish(start_build("third", 5))
    assert log()[measured:] == ["build"]  # nothing was left to measure


def test_a_process_that_dies_leaves_no_lock(start_build, tmp_path, log):
    first = start_build("first")
    until(lambda: log() == ["build"], first)
    first.kill()
    first.wait()
    (tmp_path / "gate").touch()
    finish(start_build("second"))


def test_a_full_disk_does_not_lose_the_build(cache, tiny_onnx, monkeypatch, caplog):
    def full(path):
        raise tensorrt_cache.ResourceError("the disk is full", where=path)

    monkeypatch.setattr(tensorrt_cache, "atomic_file", full)
    assert cache.plan(tiny_onnx(), TensorRTOptions(), lambda: b"plan") == b"plan"
    assert "not kept for other builds" in caplog.text
