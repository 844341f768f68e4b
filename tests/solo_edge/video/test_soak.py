"""Left running: memory, threads and descriptors of a stream do not grow.

SOLO_EDGE_SOAK_S is how long (default: ten minutes).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import solo_edge
from solo_edge.cli import main

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
SOAK_S = float(os.environ.get("SOLO_EDGE_SOAK_S", "600"))
WARM_UP = 0.25  # of that time: caches fill, allocators settle
EVERY_S = 0.25
ALLOWED_MB_PER_HOUR = 5.0
PLANTED_MB_PER_HOUR = 360.0

# Memory that is given back is given back to the system, so that what is seen is what is in use.
STRICT_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

# What is planted: a list that grows with the time that has passed, 0.1 MB each second.
SCRIPT = """
import sys, threading, time
def leak(kept=[]):
    start = time.monotonic()
    while True:
        time.sleep(0.2)
        due = float(sys.argv[1]) * (time.monotonic() - start) / 3600e-6
        while sum(map(len, kept)) < due:
            kept.append(b"\\xff" * 20_000)
threading.Thread(target=leak, daemon=True).start()
from solo_edge.cli import main
sys.exit(main(sys.argv[2:]))
"""


@dataclass(frozen=True)
class Slope:
    """A straight line through samples over time, by least squares."""

    mb_per_hour: float
    noise: float  # two standard errors

    def __str__(self) -> str:
        return f"{self.mb_per_hour:+.2f} MB/h, give or take {self.noise:.2f}"


def slope_of(times_s, megabytes, blocks=24) -> Slope:
    """Samples beside each other are alike, so that their own scatter would promise too much: the means of
    blocks, which are much longer than a frame takes, count as the observations."""
    times, values = (
        np.array([block.mean() for block in np.array_split(np.asarray(series, float), blocks)])
        for series in (times_s, megabytes)
    )
    times = times - times.mean()
    slope = times @ values / (times @ times)
    rest = values - values.mean() - slope * times
    error = np.sqrt(rest @ rest / (blocks - 2) / (times @ times))
    return Slope(3600 * slope, 3600 * 2 * error)


@dataclass(frozen=True)
class Sample:
    at_s: float
    megabytes: float  # resident, without mapped files, which come and go with the system's memory
    threads: int
    descriptors: int


def look_at(pid: int) -> Sample:
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    megabytes = int(fields["RssAnon"].split()[0]) / 1024
    return Sample(time.monotonic(), megabytes, int(fields["Threads"]), descriptors)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The shipped model as an engine."""
    path = tmp_path_factory.mktemp("shipped") / "scenes.engine"
    assert main(["build-engine", str(MODEL), "-o", str(path)]) == 0
    return path


def soak(engine: Path, folder: Path, seconds: float, leak_mb_per_hour: float = 0.0) -> list[Sample]:
    """Run a stream with everything for so long and return what was seen after the warm-up."""
    words = ["test://?live=1&fps=30&size=320x240&frames=10000000", "--track", "--polygons"]
    words += ["--save", folder / "out.mp4", "--json", folder / "out.jsonl"]
    words += ["--serve", "127.0.0.1:0", "--stats", "60", "--threads", "1"]
    command = [sys.executable, "-c", SCRIPT, leak_mb_per_hour, "stream", engine, *words]
    samples = []
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            list(map(str, command)), stdout=log, stderr=log, env={**os.environ, **STRICT_MALLOC}
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while not ((folder / "out.jsonl").exists() and (folder / "out.jsonl").stat().st_size):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            begin = time.monotonic()
            while time.monotonic() - begin < seconds:
                assert process.poll() is None, (folder / "log").read_text()
                if time.monotonic() - begin > WARM_UP * seconds:
                    samples.append(look_at(process.pid))
                time.sleep(EVERY_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        process.wait(20)
    return samples


def memory_slope(samples) -> Slope:
    return slope_of([sample.at_s for sample in samples], [sample.megabytes for sample in samples])


def test_the_slope_of_a_line_and_of_noise():
    times = np.arange(0, 480, 0.25)
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        noise = rng.normal(0, 1, len(times))
        for i in range(1, len(noise)):  # one second later much of it is still there
            noise[i] += 0.8 * noise[i - 1]
        slope = slope_of(times, 300 + noise)
        inside.append(abs(slope.mb_per_hour) < slope.noise)
    assert 0.9 < np.mean(inside) < 0.99


@pytest.mark.slow
def test_memory_does_not_grow(engine, tmp_path):
    samples = soak(engine, tmp_path, SOAK_S)
    slope = memory_slope(samples)
    print(f"\nresident memory: {samples[-1].megabytes:.0f} MB, {slope}")
    assert slope.mb_per_hour - slope.noise < ALLOWED_MB_PER_HOUR, slope
    for name in ("threads", "descriptors"):
        counts = [getattr(sample, name) for sample in samples]
        assert max(counts[-20:]) <= max(counts[:20]), name


@pytest.mark.slow
def test_a_planted_leak_is_found(engine, tmp_path):
    slope = memory_slope(soak(engine, tmp_path, max(SOAK_S / 5, 60), PLANTED_MB_PER_HOUR))
    print(f"\nwith a leak of {PLANTED_MB_PER_HOUR} MB/h: {slope}")
    assert slope.mb_per_hour - slope.noise > ALLOWED_MB_PER_HOUR, slope
