"""Questions that only loading a native library can answer, each in a process of its own.

A library that crashes or a driver that hangs takes its process with it and nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from solo_edge.doctor.privacy import scrub

__all__ = ["MODULES", "TIME_LIMIT_S", "Answer", "ask", "is_installed"]

# A cold start of CUDA takes seconds on a Jetson, and so does loading from a slow card.
TIME_LIMIT_S = 20.0
GRACE_S = 0.5  # to hand over its answer, or to die; a process that waits inside a driver does not

# Question -> the modules of which one must be there to ask it; none for the driver's own library.
MODULES: dict[str, tuple[str, ...]] = {
    "opencv": ("cv2",),
    "video": ("av",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
    "tensorrt": ("tensorrt",),
    "cuda": ("cuda.bindings", "pycuda"),
    "driver": (),
}

# The other process looks for packages exactly where this one does. (With -m it would look into the
# current folder, too, where anything may lie.) It runs the file alone: importing this package would
# double the time that most answers take.
START = """
import sys
sys.path[:] = sys.argv[3:]
import runpy
runpy.run_path(sys.argv[2], run_name="__main__")
"""
INSIDE = str(Path(__file__).with_name("inside.py"))


@dataclass(frozen=True)
class Answer:
    """What came back."""

    state: Literal["ok", "missing", "broken"]
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""  # why it is broken

    @property
    def ok(self) -> bool:
        return self.state == "ok"


def is_installed(module: str) -> bool:
    """Whether the module can be found; it is not imported (its parents are)."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def ask(
    questions: Iterable[str] = tuple(MODULES), time_limit_s: float = TIME_LIMIT_S
) -> dict[str, Answer]:
    """Ask all questions at the same time.

    Args:
        questions: keys of `MODULES`.
        time_limit_s: for each; what takes longer counts as broken.
    """
    answers: dict[str, Answer] = {}
    running: dict[str, subprocess.Popen[str]] = {}
    deadline = time.monotonic() + time_limit_s
    for question in questions:
        modules = MODULES[question]
        if modules and not any(map(is_installed, modules)):
            answers[question] = Answer("missing")
            continue
        running[question] = subprocess.Popen(
            [sys.executable, "-c", START, question, INSIDE, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries chat there
            text=True,
            errors="replace",
        )
    for question, process in running.items():
        answers[question] = _collect(process, deadline, time_limit_s)
    return answers


def _collect(process: subprocess.Popen[str], deadline: float, time_limit_s: float) -> Answer:
    try:
        out, _ = process.communicate(timeout=max(GRACE_S, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE_S)
        return Answer("broken", problem=f"no answer within {time_limit_s:g} s")
    if process.returncode < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-process.returncode).name
            return Answer("broken", problem=f"loading it crashed ({name})")
    try:
        answer = json.loads(out.splitlines()[-1])
        problem, facts = answer["problem"], answer["facts"]
    except (IndexError, KeyError, TypeError, ValueError):
        return Answer("broken", problem=f"loading it failed (exit code {process.returncode})")
    return Answer("broken" if problem else "ok", facts, scrub(problem))
