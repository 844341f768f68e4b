"""The command `solo-edge`. Each command parses its arguments and calls one function of the package.

Exit codes are those of `solo_edge.errors`; 130 is Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import solo_edge
from solo_edge.cli import (
    data,
    engines,
    importing,
    kernels,
    machine,
    measuring,
    quantizing,
    running,
    sensitivity,
    streaming,
    training,
)
from solo_edge.cli.parser import Command
from solo_edge.errors import ResourceError, SoloEdgeError, UsageError, did_you_mean

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        data.CHECK_DATA,
        data.SPLIT,
        data.SUGGEST,
        training.TRAIN,
        measuring.EVALUATE,
        quantizing.CALIBRATE,
        sensitivity.SENSITIVITY,
        engines.BUILD_ENGINE,
        running.PREDICT,
        streaming.STREAM,
        measuring.BENCHMARK,
        training.MAKE_DATASET,
        importing.IMPORT_CHECKPOINT,
        engines.INSPECT,
        kernels.KERNELS,
        machine.DOCTOR,
    )
}


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C so that files and cameras are closed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error becomes one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_interrupts():
            code = _run(arguments)
            sys.stdout.flush()
            return code
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        # The reader (head, less) went away: nothing is wrong. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as problem:
        if "--debug" in arguments:
            traceback.print_exc()
        error = explain(problem)
        print(f"solo-edge: error: {error}", file=sys.stderr)
        return error.exit_code


def explain(problem: Exception) -> SoloEdgeError:
    """The error to show for any exception that came out of a command."""
    if isinstance(problem, SoloEdgeError):
        return problem
    if isinstance(problem, ModuleNotFoundError) and problem.name:
        from solo_edge.environment import INSTALL

        package = problem.name.partition(".")[0]
        if package in INSTALL:
            what = f"this needs the package {package}, which is not installed"
            return ResourceError(what, fix=INSTALL[package])
    # torch.OutOfMemoryError is a RuntimeError; naming it would mean importing torch.
    if isinstance(problem, MemoryError) or type(problem).__name__ == "OutOfMemoryError":
        return ResourceError("out of memory", fix="use fewer or smaller images, or a smaller model")
    if isinstance(problem, OSError) and problem.filename is not None:
        what, where = problem.strerror or str(problem), os.fsdecode(problem.filename)
        if problem.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG):
            return UsageError(what, where=where, fix="check the path")
        return ResourceError(what, where=where, fix="check permissions and free space")
    what = f"unexpected {type(problem).__name__} ({problem})"
    return SoloEdgeError(what, fix="run again with --debug for the traceback")


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else UsageError.exit_code
    name = arguments[0]
    if name == "--version":
        print(f"solo-edge {solo_edge.__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        known = ["--help", "--version"] if kind == "option" else list(COMMANDS)
        raise UsageError(f"unknown {kind} {name!r}", fix=did_you_mean(name, known))
    command = COMMANDS[name]
    return command.run(command.parser().parse(arguments[1:])) or 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS.values()]
    return "\n".join(
        [
            "usage: solo-edge COMMAND [OPTIONS]",
            "",
            "SOLOv2 instance segmentation from your own images to real-time video on the edge.",
            "",
            "commands:",
            *lines,
            "",
            "options:",
            f"  {'--help':<{width}}  this text; solo-edge COMMAND --help explains a command",
            f"  {'--version':<{width}}  the version",
            "",
            "exit codes:",
            "  0 done, 1 unexpected, 2 usage, 3 images or annotations, 4 checkpoint or engine,",
            "  5 camera or stream, 6 memory, disk, permission or package, 7 accuracy,",
            "  130 interrupted, 143 terminated",
            "",
            "example:",
            "  solo-edge make-dataset scenes --images 200 --seed 1",
            "  solo-edge train --data scenes --model solov2-nano-256 --out runs/scenes --epochs 20",
            "  solo-edge build-engine runs/scenes -o scenes.engine",
            "  solo-edge stream scenes.engine 0 --save camera.mp4",
        ]
    )


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def terminate(signum: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # signals cannot be set there
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
