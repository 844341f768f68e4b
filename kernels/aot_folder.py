"""Writes a folder of kernels: `kernels.json`, machine code and PTX for one target, and portable PTX.

`kernels.json` holds the plans by name (buffers, launches in order, every argument) and for each kernel its
files, best first. `solo_edge.runtime.device_kernels` runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import solo_edge
from solo_edge.errors import UsageError
from solo_edge.files import atomic_folder, sha256_of, write_json
from solo_edge.kernels.aot import (
    CompiledKernel,
    Specialization,
    assemble,
    assembler_version,
    compile_kernels,
    specialize,
)
from solo_edge.kernels.aot_targets import PORTABLE, Target
from solo_edge.kernels.plan import Launch, Plan, Sizes

__all__ = ["FORMAT", "GRIDS", "KERNELS_FILE", "build_kernels", "write_kernels"]

FORMAT = 2
KERNELS_FILE = "kernels.json"

# How the grid follows from parameters and constants of a kernel, and from the number of images.
GRIDS = {
    "preprocess_kernel": "ceil(width / BLOCK_X), ceil(height / BLOCK_Y), 1",
    "collect_candidates_kernel": "ceil(total / BLOCK), batch, 1",
    "select_candidates_kernel": "1, batch, 1",
    "gather_kernels_kernel": "ceil(candidates / BLOCK_N), batch, 1",
    "dynamic_conv_pack_kernel": "ceil(candidates / BLOCK_N), ceil(pixels / BLOCK_P), batch",
    "reduce_masks_kernel": "ceil(candidates / BLOCK_N), batch, 1",
    "order_candidates_kernel": "1, batch, 1",
    "mask_overlap_kernel": "ceil(SLOTS / BLOCK_J), ceil(SLOTS / BLOCK_I), batch",
    "decay_scores_kernel": "ceil(SLOTS / BLOCK_J), batch, 1",
    "select_instances_kernel": "1, batch, 1",
    "instance_probabilities_kernel": "ceil(instances / BLOCK_N), ceil(pixels / BLOCK_P), batch",
}


def build_kernels(
    out: Path,
    plans: Mapping[str, Plan],
    sizes: Sizes,
    target: Target,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the folder `out` as `write_kernels` fills it. A folder of kernels there is replaced.

    Raises:
        UsageError: `out` is something else than a folder of kernels.
        ResourceError: Triton is not installed, cannot compile a kernel, or `out` cannot be written.
    """
    _refuse_foreign(out)
    with atomic_folder(out) as folder:
        write_kernels(folder, plans, sizes, target, report=report)
    return out


def write_kernels(
    folder: Path,
    plans: Mapping[str, Plan],
    sizes: Sizes,
    target: Target,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Compile every kernel of `plans` and write the files into `folder`, which is there already.

    Args:
        plans: by the names under which they are to be found. One must be "postprocess".
        sizes: what that one was made from, for the record.
        report: is called with one line about each step.

    Raises:
        ResourceError: Triton is not installed, or cannot compile a kernel.
    """
    every = [(plan, launch) for plan in plans.values() for launch in plan.launches]
    wanted = list(dict.fromkeys(specialize(plan, launch) for plan, launch in every))
    report(f"compiling {len(wanted)} kernels for {target.name}")
    native = compile_kernels(wanted, target)
    report(f"compiling {len(wanted)} kernels for every GPU since {PORTABLE.compute_capability}")
    portable = compile_kernels(wanted, PORTABLE)
    names = _unique_names(wanted)
    kernels = {}
    for each in wanted:
        variants = _write_variants(folder, names[each], target, native[each], portable[each])
        kernels[names[each]] = {
            "entry": native[each].entry,
            "constants": dict(each.constants),
            "variants": variants,
        }
    value = {
        "format": FORMAT,
        "target": target.name,
        "dtype": plans["postprocess"].buffers["mask_features"].dtype,
        "sizes": dataclasses.asdict(sizes),
        "versions": {
            "solo-edge": solo_edge.__version__,
            "triton": native[wanted[0]].triton,
            "ptxas": assembler_version(target),
        },
        "kernels": kernels,
        "plans": {name: _describe(plan, names, native) for name, plan in plans.items()},
    }
    write_json(folder / KERNELS_FILE, value)


def _describe(
    plan: Plan,
    names: Mapping[Specialization, str],
    compiled: Mapping[Specialization, CompiledKernel],
) -> dict[str, Any]:
    launches = []
    for launch in plan.launches:
        specialization = specialize(plan, launch)
        launches.append(
            {
                "kernel": names[specialization],
                "grid": launch.grid,
                "grid_formula": GRIDS[launch.kernel],
                "arguments": _arguments(launch, compiled[specialization]),
            }
        )
    return {
        "inputs": plan.inputs,
        "outputs": plan.outputs,
        "buffers": {name: dataclasses.asdict(buffer) for name, buffer in plan.buffers.items()},
        "launches": launches,
    }


def _refuse_foreign(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    fix = "choose another name with -o/--out"
    if out.is_symlink() or not out.is_dir():
        raise UsageError("there is something here that is no folder of kernels", where=out, fix=fix)
    for entry in out.iterdir():
        if entry.name != KERNELS_FILE and entry.suffix not in (".cubin", ".ptx"):
            what = f"this folder holds {entry.name!r}, which is no kernel; it is left as it is"
            raise UsageError(what, where=out, fix=fix)


def _unique_names(wanted: Sequence[Specialization]) -> dict[Specialization, str]:
    """A short name for each: that of its kernel, with a number if the kernel was made more than once."""
    names: dict[Specialization, str] = {}
    for each in wanted:
        name = each.kernel.removesuffix("_kernel")
        earlier = sum(other.kernel == each.kernel for other in names)
        names[each] = f"{name}_{earlier + 1}" if earlier else name
    return names


def _write_variants(
    folder: Path, name: str, target: Target, native: CompiledKernel, portable: CompiledKernel
) -> list[dict[str, Any]]:
    """Write one kernel's files; what `kernels.json` says of them, in the order to try them."""
    code = assemble(native, native.target).cubin
    contents = (
        (f"{name}.{target.name}.cubin", code, target, native),
        (f"{name}.{target.name}.ptx", native.ptx.encode(), target, native),
        (f"{name}.portable.ptx", portable.ptx.encode(), PORTABLE, portable),
    )
    variants = []
    for file, content, made_for, kernel in contents:
        (folder / file).write_bytes(content)
        variants.append(
            {
                "file": file,
                "sha256": sha256_of(folder / file),
                "compute_capability": made_for.compute_capability,
                "newer_too": kernel is portable,
                "ptx_version": kernel.ptx_version,
                "block": (kernel.threads, 1, 1),
                "shared_bytes": kernel.shared_bytes,
            }
        )
    return variants


def _arguments(launch: Launch, kernel: CompiledKernel) -> list[dict[str, Any]]:
    """The arguments in the order of the kernel's parameters."""
    found: list[dict[str, Any]] = []
    for name in kernel.parameters:
        value = launch.arguments[name]
        if isinstance(value, str):
            found.append({"name": name, "kind": "pointer", "buffer": value})
        else:
            kind = "int32" if isinstance(value, int) else "float32"
            found.append({"name": name, "kind": kind, "value": value})
    return found
