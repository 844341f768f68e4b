"""`solo-edge stream` with the shipped model, from the words a user types to files and exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

import solo_edge
from solo_edge import cli
from solo_edge.cli.streaming import _exit_code, _state_line, _stats_text, _status_lines
from solo_edge.errors import DataError, SourceError
from solo_edge.video.report import Totals, make_report
from solo_edge.video.result import StreamStatus
from solo_edge.video.states import Failure, SourceState, StateChange

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
SCENE = "test://?size=128x96&fps=20"
# Promised on a machine with nothing else to do: 2 s. Test machines are busy.
PATIENCE_S = 6.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """The shipped model as an engine."""
    path = tmp_path_factory.mktemp("shipped") / "scenes.engine"
    assert cli.main(["build-engine", str(MODEL), "-o", str(path)]) == 0
    return path


@pytest.fixture
def run(engine, capfd):
    """Stream with that engine: (exit code, standard output, standard error)."""

    def run_command(*words):
        capfd.readouterr()
        code = cli.main(["stream", str(engine), *map(str, words)])
        out, err = capfd.readouterr()
        return code, out, err

    return run_command


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_two_sources_with_everything(run, tmp_path):
    video, lines, report = tmp_path / "out.mp4", tmp_path / "out.jsonl", tmp_path / "report.json"
    sources = [f"{SCENE}&frames=6&seed=0", f"{SCENE}&frames=4&seed=1"]
    words = ["--save", video, "--json", lines, "--report", report, "--polygons", "--track"]
    code, out, err = run(*sources, *words, "--classes", "apple,mushroom,star")
    assert (code, err) == (0, "")
    assert [frames_of(tmp_path / f"out-{index}.mp4") for index in (0, 1)] == [6, 4]
    written = read_lines(lines)
    for source, count in zip(sources, (6, 4), strict=True):
        assert [line["frame"] for line in written if line["source"] == source] == list(range(count))
        assert f"{source}: {count} frames" in out
    found = [detection for line in written for detection in line["detections"]]
    assert found
    assert all({"track_id", "polygons"} <= detection.keys() for detection in found)
    saved = json.loads(report.read_text())
    assert (saved["captured"], saved["processed"], saved["dropped"]) == (10, 10, 0)
    assert [source["processed"] for source in saved["sources"]] == [6, 4]
    assert {"network", "track", "draw", "write", "json"} <= saved["stages"].keys()
    for path in (tmp_path / "out-0.mp4", tmp_path / "out-1.mp4", lines, report):
        assert str(path) in out.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "aple"], "did you mean 'apple'"),
        (["--classes", "apple,,star"], "not a list of names"),
        (["--policy", "lastest"], "did you mean 'latest'"),
        (["--fps-limit", "0"], "above 0"),
        (["--stats", "often"], "above 0"),
        (["--max-frames", "0"], "at least 1"),
        (["--polygons"], "add --json"),
        (["--token", "abcdefgh12345678"], "add --serve"),
        (["--serv", "x"], "did you mean '--serve'"),
        (["--save", "out.avi"], "use .mp4 or .mkv"),
        (["--zones", "none.yaml"], "none.yaml"),
    ],
)
def test_wrong_values_are_one_line(words, message, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(f"{SCENE}&frames=2", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_show_without_a_screen_names_the_page(run, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    code, out, err = run(f"{SCENE}&frames=2", "--show")
    assert (code, out) == (6, "")
    assert len(err.splitlines()) == 1
    assert "--serve" in err


def test_stats_are_a_line_for_each_source(run):
    words = ["--stats", "0.2", "--max-frames", "20"]
    code, _, err = run(f"{SCENE}&live=1&seed=0", f"{SCENE}&live=1&seed=1", *words)
    assert code == 0
    for seed in (0, 1):
        lines = [line for line in err.splitlines() if f"seed={seed}: playing" in line]
        assert len(lines) >= 2
        for part in (" FPS, age ", " ms, latency ", "network ", " dropped"):
            assert part in lines[-1]


def test_the_page_is_there_while_it_runs(engine):
    import urllib.request

    with streaming(engine, f"{SCENE}&live=1", "--serve", "127.0.0.1:0") as process:
        url = process.stderr.readline().removeprefix("watch at ").strip()
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert b"<html" in answer.read().lower()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
    assert process.returncode == 130


# Signals


@contextlib.contextmanager
def streaming(engine, *words, ready=None):
    """The command in a process of its own; with `ready`, once that file has ten lines."""
    command = [sys.executable, "-m", "solo_edge", "stream", str(engine), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # What ignores SIGHUP, as tests under nohup do, hands that on, and the command keeps to it.
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        started = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGHUP, hangup)
    with started as process:
        try:
            deadline = time.monotonic() + 120
            while ready and not (ready.exists() and ready.read_bytes().count(b"\n") >= 10):
                assert time.monotonic() < deadline
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, [f"{SCENE}&live=1"]),
        (signal.SIGTERM, [SCENE]),
        (signal.SIGHUP, [f"{SCENE}&live=1&seed=1", f"{SCENE}&seed=2"]),
    ],
)
def test_a_signal_ends_it_with_complete_files(number, words, engine, tmp_path):
    lines, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    words = [f"{word}&frames=100000" for word in words]
    words += ["--save", tmp_path / "out.mp4", "--json", lines, "--report", report]
    with streaming(engine, *words, ready=lines) as process:
        process.send_signal(number)
        sent = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - sent < PATIENCE_S
    assert (process.returncode, errors) == (128 + number, "")
    saved = json.loads(report.read_text())
    assert saved["stopped_by"] == number.name
    assert saved["captured"] == saved["processed"] + saved["dropped"]
    assert len(read_lines(lines)) == saved["processed"] >= 10
    videos = sorted(tmp_path.glob("out*.mp4"))
    assert [frames_of(video) for video in videos] == [
        source["processed"] for source in saved["sources"]
    ]


def test_a_signal_while_a_source_does_not_answer(engine):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/camera"
        with streaming(engine, url, f"{SCENE}&live=1") as process:
            silent.settimeout(120)
            connection, _ = silent.accept()
            with connection:
                time.sleep(0.5)
                process.send_signal(signal.SIGINT)
                sent = time.monotonic()
                process.communicate(timeout=60)
                assert time.monotonic() - sent < PATIENCE_S
    assert process.returncode == 130


def test_a_second_ctrl_c_waits_for_nothing(engine, tmp_path):
    """Even if frames are under way and nothing was to be given up for a minute."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "from solo_edge.cli import main\n"
        "from solo_edge.runtime.engine import Engine\n"
        "from solo_edge.video import pipeline\n"
        "pipeline.DRAIN_S = 60\n"
        "def hang(self, images):\n"
        "    print('hanging', flush=True)\n"
        "    time.sleep(90)\n"
        "Engine.start = hang\n"
        f"sys.exit(main(['stream', {str(engine)!r}, 'test://?size=64x64&live=1']))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "hanging\n"
        process.send_signal(signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130


# What is printed


def status(**changed):
    values = {
        "source": "front door", "state": "playing", "captured": 120, "processed": 100, "dropped": 19,
        "fps": 24.96, "instances": 3, "frame_count": None, "latency_ms": 48.4,
        "stage_ms": {"network": 20.04, "draw": 3.3}, "age_ms": 12.3,
    }  # fmt: skip
    return StreamStatus(**{**values, **changed})


def test_the_line_of_a_source():
    assert _stats_text(status()) == (
        "front door: playing, 25.0 FPS, age 12 ms, latency 48 ms (network 20.0, draw 3.3), "
        "19 of 120 dropped"
    )
    silent = status(
        state="opening", fps=None, age_ms=None, latency_ms=None, captured=0, dropped=0, stage_ms={}
    )
    assert _stats_text(silent) == "front door: opening, 0 of 0 dropped"


def test_the_status_of_several_sources_is_one_line():
    shown = []
    _status_lines(shown.append, None)((status(), status(state="waiting", frame_count=300)))
    assert shown == [
        "frame 100, 25.0 FPS, 19 dropped, 3 found; "
        "frame 100 of 300, 25.0 FPS, 19 dropped, 3 found, waiting"
    ]


def test_a_source_that_is_lost_and_back(capsys):
    tell = _state_line(several=False)

    def change(state, code, at_s, attempt):
        tell(StateChange("front door", state, code, "no answer in time", at_s, attempt))

    change(SourceState.OPENING, None, 0.0, 0)
    change(SourceState.PLAYING, None, 1.0, 0)
    for attempt in range(10):
        change(SourceState.WAITING, Failure.TIMEOUT, 10.0 + attempt, attempt)
        change(SourceState.OPENING, None, 10.5 + attempt, attempt)
    change(SourceState.PLAYING, None, 22.5, 10)
    change(SourceState.PLAYING, None, 23.0, 0)
    change(SourceState.ENDED, None, 30.0, 0)
    assert capsys.readouterr().err.splitlines() == [
        "front door: no answer in time; waiting for it",
        "front door: no answer in time; waiting for it",
        "front door: no answer in time; waiting for it (try 2)",
        "front door: no answer in time; waiting for it (try 4)",
        "front door: no answer in time; waiting for it (try 8)",
        "front door: plays again, after 12.5 s",
    ]


def report_of(*errors, missing=0, stopped_by=None):
    from solo_edge.video.report import Tally

    def source(error):
        report = Tally("front door").report(None, whole=True, error=error)
        return type(report)(**{**report.__dict__, "missing": missing})

    return make_report([source(error) for error in errors], Totals(), stopped_by)


def test_exit_codes():
    assert _exit_code(report_of(None)) == 0
    assert _exit_code(report_of("gone", None)) == 0
    assert _exit_code(report_of("gone", "gone", stopped_by="SIGTERM")) == 143
    assert _exit_code(report_of(None, stopped_by="SIGHUP")) == 129
    assert _exit_code(report_of(None, stopped_by="window")) == 0
    with pytest.raises(SourceError):
        _exit_code(report_of("gone", "gone"))
    with pytest.raises(DataError, match="ends after 0 of 7 frames"):
        _exit_code(report_of(None, missing=7))
