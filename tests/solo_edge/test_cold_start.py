"""Facts about a fresh process, and errors that cross its border."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from solo_edge import cold_start
from solo_edge.errors import ResourceError, UsageError


def test_cold_start_passes_errors_of_the_other_process_on(tmp_path):
    missing = tmp_path / "no.engine"
    with pytest.raises(UsageError) as caught:
        cold_start.measure(missing, tmp_path / "no.png", {"threads": 1})
    assert "no.engine" in str(caught.value)


def test_peak_memory_is_of_this_process_alone():
    """A small child of a process that holds much must not report its parent's size."""
    ballast = np.ones(400 << 20, np.uint8)
    code = "from solo_edge.cold_start import _peak_rss_bytes as f; print(f())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 << 20 < int(done.stdout) < 300 << 20
    assert ballast[0] == 1


def test_the_clock_is_shared_between_processes():
    """`cold_start.measure` subtracts a start taken here from a time taken in the child."""
    before = time.perf_counter()
    code = "import time; print(time.perf_counter())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert before < float(done.stdout) < time.perf_counter()


def test_a_process_that_dies_is_reported_with_its_last_words(tmp_path, monkeypatch):
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho one >&2\necho last words >&2\nexit 3\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(ResourceError, match="last words"):
        cold_start.measure(tmp_path / "a.engine", tmp_path / "a.png", {})


def test_a_process_that_is_killed_is_reported(tmp_path, monkeypatch):
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    with pytest.raises(ResourceError, match="exit status -9"):
        cold_start.measure(tmp_path / "a.engine", tmp_path / "a.png", {})
