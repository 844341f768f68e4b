"""How far TensorRT is with a build, and how a build is stopped."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

__all__ = ["TOTAL", "BuildProgress", "Progress", "interruptible", "make_monitor"]

log = logging.getLogger(__name__)

TOTAL = 1000  # `done` is counted in thousandths of the whole build
Progress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass
class _Phase:
    steps: int
    done: int = 0
    children: list[str] = field(default_factory=list)  # phases inside it that run now


class BuildProgress:
    """What TensorRT's nested phases come to as one number, which never falls.

    A phase inside another is a part of one step of that. Steps take unequal times, so the number is
    rough, and so is any remaining time that is made of it.

    TensorRT calls from several threads.

    Args:
        progress: is called with the innermost phase and how far the whole build is, whenever that
            changed. What it raises stops the build.
    """

    def __init__(self, progress: Progress | None = None):
        self._progress = progress
        self._phases: dict[str, _Phase] = {}
        self._roots: list[str] = []
        self._reported = ("", 0)
        self._lock = threading.Lock()
        self._stopping = False
        self._failure: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside `parent` if that is known."""
        with self._lock:
            around = self._phases.get(parent or "")
            (self._roots if around is None else around.children).append(name)
            self._phases[name] = _Phase(max(steps, 1))
        self._report(name)

    def step(self, name: str, step: int) -> bool:
        """Step `step` (from 0) of a phase is done; whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
        self._report(name)
        return not self._stopping

    def finish(self, name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(name, None)
            for siblings in (self._roots, *(phase.children for phase in self._phases.values())):
                if name in siblings:
                    siblings.remove(name)

    def stop(self) -> None:
        """Have the build end at its next step."""
        self._stopping = True

    def raise_failure(self) -> None:
        """Raise what the caller's function raised during the build, if it did."""
        if self._failure is not None:
            raise self._failure

    def _fraction(self, names: list[str]) -> float:
        """How much of phases that run side by side is done, 0 to 1."""
        found = 0.0
        for name in names:
            if phase := self._phases.get(name):
                inner = self._fraction(phase.children)
                found = max(found, min((phase.done + inner) / phase.steps, 1.0))
        return found

    def _report(self, stage: str) -> None:
        with self._lock:
            done = max(self._reported[1], int(TOTAL * self._fraction(self._roots)))
            if self._progress is None or self._stopping or self._reported == (stage, done):
                return
            self._reported = (stage, done)
        try:
            self._progress(stage, done, TOTAL)
        except BaseException as failure:
            # It must not leave a callback: TensorRT's bindings would print and forget it.
            self._failure = failure
            self.stop()


def make_monitor(trt: Any, progress: BuildProgress) -> Any:
    """A `trt.IProgressMonitor` for `config.progress_monitor`; it must live until the build is over."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


@contextmanager
def interruptible(progress: BuildProgress) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop the build at its next step, and take effect behind the block.

    Left alone, they would raise inside one of TensorRT's callbacks, where the exception is lost.
    """
    if threading.current_thread() is not threading.main_thread():  # signals do not come here
        yield
        return
    arrived: list[tuple[int, FrameType | None]] = []

    def remember(signum: int, frame: FrameType | None) -> None:
        if not arrived:
            log.warning("stopping TensorRT at its next step")
        arrived.append((signum, frame))
        progress.stop()

    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
    for signum in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(signum)
        if callable(handler):  # else it is ignored, or ends the process without us
            handlers[signum] = handler
            signal.signal(signum, remember)
    try:
        yield
    finally:
        for number, previous in handlers.items():
            signal.signal(number, previous)
        for number, frame in arrived[:1]:
            handlers[number](number, frame)
