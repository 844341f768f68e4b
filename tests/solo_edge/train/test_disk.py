"""A full disk or a killed process leaves the files that were there before."""

from __future__ import annotations

import dataclasses
import resource
import shutil
import subprocess
import sys
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
