"""How far a build is, and how it is stopped."""

from __future__ import annotations

import signal
import threading

import pytest

from solo_edge.export.tensorrt_builder import serialize_network
from solo_edge.export.tensorrt_progress import TOTAL, BuildProgress, interruptible


def played(*events):
    """What is reported when these methods, with their arguments, are called in turn."""
    seen = []
    progress = BuildProgress(lambda *report: seen.append(report))
    for what, *arguments in events:
        getattr(progress, what)(*arguments)
    return seen


def test_a_phase_is_a_part_of_its_parents_step():
    seen = played(
        ("start", "build", None, 2),
        ("start", "inner", "build", 5),
        *(("step", "inner", i) for i in range(5)),
        ("finish", "inner"),
        ("step", "build", 0),
        ("start", "last", "build", 1),
        ("start", "deep", "last", 2),
        ("step", "deep", 0),
        ("step", "deep", 1),
        ("finish", "deep"),
        ("step", "last", 0),
        ("finish", "last"),
        ("step", "build", 1),
        ("finish", "build"),
    )
    assert seen[:4] == [
        ("build", 0, 1000),
        ("inner", 0, 1000),
        ("inner", 100, 1000),
        ("inner", 200, 1000),
    ]
    assert ("deep", 750, 1000) in seen
    assert seen[-1] == ("build", 1000, 1000)
    done = [report[1] for report in seen]
    assert done == sorted(done)


def test_it_never_falls():
    """Two phases within one step of their parent, one after the other."""
    seen = played(
        ("start", "build", None, 1),
        ("start", "first", "build", 10),
        ("step", "first", 8),
        ("finish", "first"),
        ("start", "second", "build", 10),
        ("step", "second", 0),
        ("step", "second", 9),
    )
    assert [report[1] for report in seen] == [0, 0, 900, 900, 1000]


def test_phases_that_make_no_sense_do_no_harm():
    seen = played(
        ("start", "lost", "parent that never came", 0),
        ("step", "never started", 3),
        ("finish", "never started"),
        ("start", "twice", "lost", 2),
        ("start", "twice", "twice", 2),
        ("finish", "twice"),
        ("step", "twice", 0),
        ("step", "lost", 7),
    )
    assert seen[-1] == ("lost", 1000, 1000)


def test_threads_may_call_at_once():
    seen = []
    progress = BuildProgress(lambda *report: seen.append(report))
    progress.start("build", None, 4)

    def work(name):
        progress.start(name, "build", 200)
        assert all(progress.step(name, i) for i in range(200))
        progress.finish(name)

    threads = [threading.Thread(target=work, args=(f"{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.step("build", 3)
    assert max(report[1] for report in seen) == TOTAL


def test_nobody_has_to_listen():
    progress = BuildProgress()
    progress.start("build", None, 1)
    assert progress.step("build", 0)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_the_listener_raises_stops_the_build_and_comes_out(
    standin, tiny_onnx, error, tmp_path
):
    calls = []

    def listen(stage, done, total):
        calls.append(stage)
        if stage == "Timing layers":
            raise error

    with pytest.raises(type(error)):
        serialize_network(standin(), tiny_onnx(), progress=listen)
    assert calls == ["Building engine", "Timing layers"]  # and then never again
    log = (tmp_path / "standin.log").read_text()
    assert log == "build\nmeasure first\n"


def test_stages_of_the_stand_in(standin, tiny_onnx):
    seen = []
    serialize_network(standin(), tiny_onnx(), progress=lambda *report: seen.append(report))
    assert seen[0] == ("Building engine", 0, 1000)
    assert ("Timing layers", 250, 1000) in seen
    assert seen[-1][0] == "Building engine"


def test_a_signal_waits_for_the_end_of_the_block():
    progress = BuildProgress()
    progress.start("build", None, 9)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible(progress):  # noqa: PT012
        assert progress.step("build", 0)
        signal.raise_signal(signal.SIGINT)
        assert not progress.step("build", 1)
        signal.raise_signal(signal.SIGINT)  # impatience changes nothing
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_is_left_to_whoever_handles_it():
    class EndedError(Exception):
        pass

    def handler(signum, frame):
        raise EndedError

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(EndedError), interruptible(BuildProgress()):
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_signals_do_not_come_to_other_threads(standin, tiny_onnx):
    trt, path, plans = standin(), tiny_onnx(), []
    thread = threading.Thread(target=lambda: plans.append(serialize_network(trt, path)))
    thread.start()
    thread.join()
    assert plans


def test_ctrl_c_stops_nvidias_builder(rtx, tiny_onnx):
    """As if it were pressed in the middle of the build."""
    from solo_edge.export.tensorrt_rtx import build_for_rtx

    stages = []

    def press(stage, done, total):
        stages.append(stage)
        if len(stages) == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_for_rtx(tiny_onnx(), progress=press)
    assert len(stages) == 2
    assert len(build_for_rtx(tiny_onnx())) > 1000  # and it still works


def test_nvidias_builder_comes_to_its_end(rtx, tiny_onnx):
    from solo_edge.export.tensorrt_rtx import build_for_rtx

    seen = []
    build_for_rtx(tiny_onnx(), progress=lambda *report: seen.append(report))
    done = [report[1] for report in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] > 700  # its last steps are not always counted
