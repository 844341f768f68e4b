"""A full disk or a killed process leaves the files that were there before."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from solo_edge.errors import ResourceError
from solo_edge.run_folder import RunFolder
from solo_edge.train.step import OptimizerStep

KILLER = Path(__file__).with_name("kill_saving.py")


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


@pytest.mark.parametrize("limit", [0, 1000, 300_000])
def test_full_disk_keeps_the_old_files(start, config, tmp_path, monkeypatch, limit):
    """No file may grow beyond `limit` bytes: the system refuses as it does where no room is left."""
    one = dataclasses.replace(config, epochs=1)
    start(tmp_path / "run", one)
    before = contents(tmp_path / "run")
    assert len(before["resume.safetensors"]) > 300_000
    original, (soft, hard) = OptimizerStep.take, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return original(*arguments)

    monkeypatch.setattr(OptimizerStep, "take", fill_the_disk)
    saves = dataclasses.replace(config, save_every="1")
    try:
        with pytest.raises(ResourceError, match="disk is full") as raised:
            start(tmp_path / "run", saves, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.exit_code == 6
    after = contents(tmp_path / "run")
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] == ["run.json"]  # its options
    monkeypatch.undo()
    start(tmp_path / "run", saves, resume=True)
    assert RunFolder(tmp_path / "run").read_state().epoch == 2


def test_a_run_without_room_does_not_begin(start, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(ResourceError, match=r"the disk has 1 MB free, and the run needs \d+ MB"):
        start(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_while_it_saves(tmp_path, kills):
    command = [sys.executable, KILLER, tmp_path / "run", str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == [str(kills), "kills,"]


@pytest.mark.slow
def test_killed_again_and_again_and_resumed(data, tmp_path, differences):
    """The whole command, killed five times at random moments: the same weights as if it never was."""
    small = [
        "--set",
        "input_size=(64, 64)",
        "--set",
        "fpn_channels=16",
        "--set",
        "head_channels=16",
    ]
    small += ["--set", "kernel_length=16", "--set", "mask_channels=16"]
    budget = ["--epochs", "12", "--batch-size", "2", "--validate-every", "4", "--save-every", "3"]

    def begin(out, *words):
        options = ["--data", data, "--out", out, *words, "--device", "cpu", "--workers", "1"]
        command = [sys.executable, "-m", "solo_edge", "train", *map(str, options)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    new = ["--model", "solov2-nano-256", "--no-amp", *small, *budget]
    assert begin(tmp_path / "whole", *new).wait() == 0
    rng, cut = random.Random(1), tmp_path / "cut"
    process = begin(cut, *new)
    kills = 0
    while kills < 5:
        # Where it stands is seen from outside by its files: kill it some time after it has saved anew.
        seen = modified(cut / "resume.safetensors")
        while process.poll() is None and modified(cut / "resume.safetensors") == seen:
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.0))
        if process.poll() is not None:
            break
        process.kill()
        assert process.wait() == -signal.SIGKILL
        kills += 1
        process = begin(cut, "--resume")
    assert process.wait() == 0
    assert kills >= 2, "it was killed too seldom to prove anything"
    assert differences(tmp_path / "whole", cut) == []


def modified(path):
    return path.stat().st_mtime_ns if path.exists() else 0
