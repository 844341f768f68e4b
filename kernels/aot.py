"""Kernels compiled ahead of time, for devices that have neither Triton nor torch. Needs no GPU.

This module imports no Triton: compiling happens in another process (`aot_worker`), one for each target.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import solo_edge
from solo_edge.errors import ResourceError, UsageError
from solo_edge.kernels.aot_targets import Target
from solo_edge.kernels.plan import Launch, Plan

__all__ = [
    "Assembled",
    "CompiledKernel",
    "Specialization",
    "assemble",
    "assembler_version",
    "compile_kernels",
    "specialize",
    "strip_hidden_parameters",
    "triton_tool",
]

TYPES = {
    "float32": "*fp32",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "int64": "*i64",
    "int32": "*i32",
    "uint32": "*u32",
    "uint8": "*u8",
}

# Before the standard library only if it has to be: the folder may be site-packages.
START_WORKER = """
import sys
package = sys.argv.pop(1)
if package not in sys.path:
    sys.path.insert(0, package)
from solo_edge.kernels.aot_worker import main
main(*sys.argv[1:])
"""
FIX = "use Triton 3.8.0, for which this is written"


@dataclass(frozen=True)
class Specialization:
    """A kernel with all that its machine code depends on."""

    kernel: str
    types: tuple[tuple[str, str], ...]  # parameter, Triton's type
    divisible: tuple[str, ...]  # parameters that are divisible by 16, addresses included
    constants: tuple[tuple[str, int | str | bool], ...]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class CompiledKernel:
    """PTX whose parameters are exactly `parameters`, and how it is launched."""

    entry: str
    ptx: str
    parameters: tuple[str, ...]
    threads: int
    shared_bytes: int  # dynamic
    triton: str

    @property
    def target(self) -> str:
        """What the PTX was made for: "sm_87", "sm_90a"."""
        return _search(r"^\.target (\w+)", self.ptx)

    @property
    def ptx_version(self) -> str:
        return _search(r"^\.version ([\d.]+)", self.ptx)


@dataclass(frozen=True)
class Assembled:
    """Machine code, and what its assembler said of one thread's memory."""

    cubin: bytes
    registers: int
    stack_bytes: int
    spill_bytes: int  # stores and loads


def specialize(plan: Plan, launch: Launch) -> Specialization:
    """What `launch` compiles to. Buffers count as 16-byte aligned, and integers as what they are.

    Raises:
        UsageError: the sizes are so large that an integer does not fit into 32 bits.
    """
    types, divisible = [], []
    for name, value in launch.arguments.items():
        if isinstance(value, int) and not 0 <= value < 2**31:
            what = f"{name} of {launch.kernel} is {value}, which does not fit into 32 bits"
            raise UsageError(what, fix="use smaller sizes")
        if isinstance(value, str):
            types.append((name, TYPES[plan.buffers[value].dtype]))
        else:
            types.append((name, "i32" if isinstance(value, int) else "fp32"))
        if isinstance(value, str) or (isinstance(value, int) and value % 16 == 0):
            divisible.append(name)
    return Specialization(
        launch.kernel,
        tuple(types),
        tuple(divisible),
        tuple(launch.constants.items()),
        launch.num_warps,
        launch.num_stages,
    )


def compile_kernels(
    wanted: Sequence[Specialization], target: Target
) -> dict[Specialization, CompiledKernel]:
    """Compile for `target` in another process.

    Raises:
        ResourceError: Triton is not installed, or cannot compile a kernel.
    """
    triton_tool("ptxas")  # or say that there is no Triton
    wanted = list(dict.fromkeys(wanted))
    request = {
        "arch": target.arch,
        "ptx_version": target.ptx,
        "kernels": [dataclasses.asdict(each) for each in wanted],
    }
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        paths = Path(folder, "request.json"), Path(folder, "results.jsonl")
        paths[0].write_text(json.dumps(request), "utf-8")
        package = Path(solo_edge.__file__).resolve().parents[1]
        command = [sys.executable, "-c", START_WORKER, *map(str, (package, *paths))]
        done = subprocess.run(
            command,
            cwd=folder,
            env=_environment(Path(folder)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        text = paths[1].read_text("utf-8") if paths[1].exists() else ""
    results = [json.loads(line) for line in text.splitlines()]
    made = [result for result in results if "entry" in result]
    if len(made) < len(wanted) or done.returncode != 0:
        raise _compile_error(target, results, done.returncode, done.stderr)
    return dict(zip(wanted, map(_stripped, made), strict=True))


def strip_hidden_parameters(ptx: str, entry: str, visible: int) -> str:
    """PTX without the parameters that Triton adds behind the kernel's own, for scratch memory.

    Raises:
        ValueError: there are fewer than `visible` parameters, or the kernel uses one of the others.
    """
    found = re.search(rf"(\.entry {re.escape(entry)}\()([^)]*)(\))", ptx)
    parameters = [each.strip() for each in found[2].split(",")] if found else []
    if found is None or len(parameters) < visible:
        raise ValueError(f"{entry} has {len(parameters)} parameters, {visible} are expected")
    head, body = ptx[: found.start(2)], ptx[found.end(2) :]
    for parameter in parameters[visible:]:
        name = parameter.split()[-1]
        if re.search(rf"\b{re.escape(name)}\b", body):
            raise ValueError(f"{entry} uses the hidden parameter {name}")
    return f"{head}\n\t" + ",\n\t".join(parameters[:visible]) + f"\n{body}"


def assemble(kernel: CompiledKernel, target: str) -> Assembled:
    """Machine code for `target` ("sm_87") by the assembler that comes with Triton.

    Raises:
        ResourceError: it refuses the PTX.
    """
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        source, cubin = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(kernel.ptx, "utf-8")
        # The options that Triton itself gives; the second one avoids an error of ptxas 13.
        options = ["-v", "--regAllocOptLevel=2", f"--gpu-name={target}"]
        command = [str(_ptxas(target)), *options, str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).splitlines() or ["no message"]
            raise ResourceError(f"ptxas refuses {kernel.entry} for {target} ({lines[0]})")
        code = cubin.read_bytes()
    sizes = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", done.stderr)
    stack = sum(int(count) for count, what in sizes if what == "stack frame")
    spilled = sum(int(count) for count, what in sizes if what != "stack frame")
    registers = int(_search(r"Used (\d+) registers", done.stderr))
    return Assembled(code, registers, stack, spilled)


def assembler_version(target: Target) -> str:
    """The release of the assembler for `target`."""
    command = [str(_ptxas(target.name)), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return _search(r"V(\d+\.\d+\.\d+)", done.stdout)


def triton_tool(name: str) -> Path:
    """A program that comes with Triton: "ptxas", "cuobjdump".

    Raises:
        ResourceError: Triton is not installed, or has no such program.
    """
    found = importlib.util.find_spec("triton")
    if found is None or not found.submodule_search_locations:
        what = "compiling kernels needs Triton, which is not installed"
        raise ResourceError(what, fix="pip install triton (on Linux)")
    tool = Path(found.submodule_search_locations[0], "backends", "nvidia", "bin", name)
    if not tool.is_file():
        raise ResourceError(f"this Triton comes without {name}", fix="pip install triton==3.8.0")
    return tool


def _ptxas(target: str) -> Path:
    arch = int(re.sub(r"\D", "", target))
    return triton_tool("ptxas-blackwell" if arch >= 100 else "ptxas")


def _environment(folder: Path) -> dict[str, str]:
    """The compiler's environment: nothing of Triton's but what makes its output the same everywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    return {
        **kept,
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "TRITON_DEFAULT_FP_FUSION": "1",
        "TRITON_DISABLE_LINE_INFO": "1",  # else the paths of this machine are in every kernel
    }


def _stripped(made: Mapping[str, Any]) -> CompiledKernel:
    entry, parameters = made["entry"], tuple(made["parameters"])
    if made["scratch_bytes"]:
        what = f"{entry} wants {made['scratch_bytes']} bytes of scratch memory from its launcher"
        raise ResourceError(what, fix=FIX)
    try:
        ptx = strip_hidden_parameters(made["ptx"], entry, len(parameters))
    except ValueError as error:
        raise ResourceError(str(error), fix=FIX) from error
    threads = 32 * made["num_warps"]
    if f".reqntid {threads}" not in ptx:
        raise ResourceError(f"{entry} is not for blocks of {threads} threads", fix=FIX)
    return CompiledKernel(entry, ptx, parameters, threads, made["shared_bytes"], made["triton"])


def _compile_error(
    target: Target, results: Sequence[Mapping[str, Any]], status: int, log: str
) -> ResourceError:
    started = [result["started"] for result in results if "started" in result]
    errors = [result["error"] for result in results if "error" in result]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if "ERROR" in line] or lines[-1:]
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
    reason = errors[0] if errors else ", ".join([how, *said[:1]])
    what = f"Triton cannot compile {started[-1] if started else 'anything'} for {target.name}"
    return ResourceError(f"{what} ({reason[:300]})", fix="use Triton 3.8.0 or another tile")


def _search(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""
