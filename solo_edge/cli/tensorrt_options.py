"""TensorRT's options of `solo-edge build-engine`."""

from __future__ import annotations

import argparse
import dataclasses
import time
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from solo_edge.cli.console import note, status_line
from solo_edge.cli.parser import CommandParser, config_values
from solo_edge.errors import UsageError
from solo_edge.export.tensorrt_options import TensorRTOptions, trtexec_command

__all__ = ["add_tensorrt_options", "describe_progress", "tensorrt_build"]

# Of those that engines can have: `TensorRTOptions.require_runnable`.
HELP = {
    "workspace_mib": "scratch memory that a layer may use",
    "optimization_level": "0 (quick build) to 5 (tries everything)",
    "timing_cache": "use timings and plans of earlier builds on this GPU",
    "cache_folder": "where they are; auto: solo-edge in $XDG_CACHE_HOME or ~/.cache",
    "tf32": "multiply fp32 with 10 bits of precision",
    "sparsity": "faster kernels for weights that were pruned 2:4",
    "aux_streams": "most extra CUDA streams inside the engine; -1: TensorRT decides",
    "hardware_compatible": "GPUs that can run the engine beside the one that builds it",
    "refit": "weights can be replaced in the finished plan",
    "dla_core": "experimental: deep learning accelerator of a Jetson; -1: none",
    "plugins": "graph full: our kernels lie in the plan, which needs nothing else; TensorRT >= 10.9",
    "profiling_verbosity": "what the plan says of its layers to profilers",
}
SECONDS_BEFORE_GUESS = 2.0


def _command_line_options() -> type:
    hints = typing.get_type_hints(TensorRTOptions)
    fields = [
        (field.name, hints[field.name], dataclasses.field(default=field.default))
        for field in dataclasses.fields(TensorRTOptions)
        if field.name in HELP
    ]
    return dataclasses.make_dataclass("CommandLineOptions", fields, frozen=True)


def add_tensorrt_options(parser: CommandParser) -> None:
    parser.add_config(_command_line_options(), HELP, "TensorRT (with --backend tensorrt)")


@contextmanager
def tensorrt_build(
    values: argparse.Namespace, onnx_path: str | Path = "model.onnx"
) -> Iterator[dict[str, Any]]:
    """Yield the arguments of `build_engine` for TensorRT; none for another backend.

    Args:
        onnx_path: what the line for trtexec names.

    Raises:
        UsageError: options of TensorRT with another backend, or impossible ones.
    """
    given = config_values(TensorRTOptions, values)
    if values.backend != "tensorrt":
        if given:
            option = f"--{next(iter(given)).replace('_', '-')}"
            what = f"{option} is an option of TensorRT, and the backend is {values.backend}"
            raise UsageError(what, fix="add --backend tensorrt")
        yield {}
        return
    options = TensorRTOptions(**given)
    with ExitStack() as stack:
        begun: list[tuple[Callable[[str], None], float]] = []

        def report(stage: str, done: int, total: int) -> None:
            if not begun:  # exporting comes first, and has lines of its own
                begun.append((stack.enter_context(status_line()), time.monotonic()))
            show, started = begun[0]
            show(describe_progress(stage, done, total, time.monotonic() - started))

        yield {"tensorrt": options, "progress": report}
    if options.plugins:  # trtexec cannot register them
        return
    # Not into the engine: its manifest holds the digest of its own plan.
    line = trtexec_command(options, onnx_path, values.out.with_suffix(".plan"))
    note(f"the same with trtexec: {line}")


def describe_progress(stage: str, done: int, total: int, seconds: float) -> str:
    """One line about a build that has taken `seconds` so far. What is left is a guess."""
    left = ""
    if done > 0 and seconds > SECONDS_BEFORE_GUESS:
        guess = seconds * (total - done) / done
        left = f", about {guess:.0f} s left" if guess < 90 else f", about {guess / 60:.0f} min left"
    return f"TensorRT: {100 * done // total} %{left} ({stage})"
