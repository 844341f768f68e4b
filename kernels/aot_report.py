"""What every kernel costs on a GPU that is not there: registers, memory, spills, instructions, and limits."""

from __future__ import annotations

import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from solo_edge.errors import ResourceError
from solo_edge.kernels.aot import (
    Assembled,
    CompiledKernel,
    Specialization,
    assemble,
    compile_kernels,
    specialize,
    triton_tool,
)
from solo_edge.kernels.aot_targets import PORTABLE, Target
from solo_edge.kernels.overlay import OverlaySizes, overlay_plan
from solo_edge.kernels.plan import (
    Plan,
    Sizes,
    Thresholds,
    dynamic_conv_plan,
    matrix_nms_plan,
    pack_masks_plan,
    postprocess_plan,
)
from solo_edge.kernels.preprocess import FrameSizes, preprocess_plan
from solo_edge.kernels.render import RenderSizes, render_plan
from solo_edge.kernels.tiles import Tiles
from solo_edge.kernels.unzeroed import without_zeroed_memory

__all__ = [
    "HEADER",
    "LIMITS",
    "Limit",
    "Row",
    "cells",
    "compile_report",
    "count_instructions",
    "gate_plans",
]

# What is looked for in the machine code: a name, and the instructions that count as it, old and new.
INSTRUCTIONS = {
    "matrix": r"U?[HIQ]G?MMA|UTC[HIQ]MMA|OMMA",  # products on the tensor cores
    "async copy": r"LDGSTS|UTMALDG|UBLKCP",  # from memory to shared memory, past the registers
    "popcount": r"U?POPC",
    "local memory": r"STL|LDL",  # registers that did not suffice
}

RENDERED_SIZE = (1080, 1920)  # of the original images


@dataclass(frozen=True)
class Limit:
    """What a kernel must keep to on every target. Nothing may spill, or use a stack."""

    # A launch may use as much without asking for more, and small GPUs keep several blocks at work.
    shared_bytes: int = 48 * 1024
    needs: tuple[
        str, ...
    ] = ()  # of INSTRUCTIONS; without them the compiler did not see what was meant


LIMITS = {
    "dynamic_conv_pack_kernel": Limit(needs=("matrix", "async copy")),
    "instance_probabilities_kernel": Limit(needs=("matrix", "async copy")),
    "dynamic_conv_kernel": Limit(needs=("matrix",)),
    "mask_overlap_kernel": Limit(needs=("popcount",)),
}
OVERLAP_AS_PRODUCT = Limit(needs=("matrix",))  # mask_overlap_kernel with METHOD "int8"


@dataclass(frozen=True)
class Row:
    """One kernel on one GPU."""

    specialization: Specialization
    made_for: str  # "sm_87", or "PTX" for portable PTX
    runs_on: str
    threads: int
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int
    # By name of INSTRUCTIONS; None for portable PTX, whose instructions the driver chooses.
    counts: Mapping[str, int] | None = field(default_factory=dict)

    @property
    def problems(self) -> tuple[str, ...]:
        """In what the kernel breaks its limit."""
        limit = LIMITS.get(self.specialization.kernel, Limit())
        if dict(self.specialization.constants).get("METHOD") == "int8":
            limit = OVERLAP_AS_PRODUCT
        found = []
        if self.shared_bytes > limit.shared_bytes:
            found.append(f"over {limit.shared_bytes // 1024} KB of shared memory")
        if self.spill_bytes:
            found.append("spills")
        elif self.stack_bytes or (self.counts or {}).get("local memory"):
            found.append("uses a stack")
        if self.counts is not None:
            found += [f"no {name}" for name in limit.needs if not self.counts.get(name)]
        return tuple(found)


HEADER = (
    *("kernel", "variant", "made for", "on", "threads", "registers", "shared", "stack"),
    *("spilled", "matrix", "async copy", "popcount", "verdict"),
)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, under HEADER."""
    numbers = row.threads, row.registers, row.shared_bytes, row.stack_bytes, row.spill_bytes
    names = ("matrix", "async copy", "popcount")
    counts = [str(row.counts.get(name, 0)) if row.counts is not None else "" for name in names]
    return (
        row.specialization.kernel,
        variant(row.specialization),
        row.made_for,
        row.runs_on,
        *map(str, numbers),
        *counts,
        ", ".join(row.problems) or "ok",
    )


def variant(specialization: Specialization) -> str:
    """What tells apart the forms of one kernel: "fp16", "exact packed"."""
    types = dict(specialization.types)
    kind = next(
        (types[name] for name in ("mask_features", "mask_kernels", "image") if name in types), ""
    )
    switches = [name.lower() for name, value in specialization.constants if value is True]
    return " ".join(filter(None, (kind.removeprefix("*"), *switches)))


def gate_plans(sizes: Sizes, tiles: Tiles | None = None) -> tuple[Plan, ...]:
    """Plans that together hold every kernel, each as it is used."""
    chosen = tiles or Tiles()
    normal, linear = Thresholds(), Thresholds(decay="linear")
    rendered = RenderSizes(
        sizes.batch, sizes.max_instances, sizes.height, sizes.width, *RENDERED_SIZE
    )
    drawn = OverlaySizes(
        sizes.max_instances,
        sizes.height,
        sizes.width,
        *RENDERED_SIZE,
        frame_bytes=3 * math.prod(RENDERED_SIZE),
    )
    frame = FrameSizes(4 * sizes.height, 4 * sizes.width)
    colours = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}
    return (
        preprocess_plan(frame, chosen, **colours, dtype="float32"),
        preprocess_plan(frame, chosen, **colours, dtype="float16"),
        postprocess_plan(sizes, normal, chosen, dtype="float16"),
        postprocess_plan(sizes, linear, chosen, dtype="float32", suppress=True),
        without_zeroed_memory(postprocess_plan(sizes, normal, chosen, dtype="float16")),
        matrix_nms_plan(sizes, normal, chosen),
        dynamic_conv_plan(sizes, chosen, dtype="float16"),
        dynamic_conv_plan(sizes, chosen, dtype="float32"),
        pack_masks_plan(sizes, chosen),
        *(
            render_plan(rendered, chosen, mask_threshold=0.5, exact=exact, packed=packed)
            for exact, packed in ((True, False), (True, True), (False, False))
        ),
        overlay_plan(drawn, chosen, alpha=0.5, mask_threshold=0.5, thickness=2),
    )


def compile_report(target: Target, plans: Sequence[Plan], *, portable: bool = True) -> list[Row]:
    """Compile every kernel of `plans` for `target`, and look at the machine code.

    Args:
        portable: also what the portable PTX becomes on this target.

    Raises:
        ResourceError: Triton is not installed, or cannot compile a kernel.
    """
    every = (specialize(plan, launch) for plan in plans for launch in plan.launches)
    wanted = list(dict.fromkeys(every))
    rows = []
    for each, kernel in compile_kernels(wanted, target).items():
        assembled = assemble(kernel, kernel.target)
        counts = count_instructions(_disassemble(assembled.cubin))
        rows.append(_row(each, kernel, assembled, target.name, target.name, counts))
    if portable:
        for each, kernel in _portable(tuple(wanted)).items():
            assembled = assemble(kernel, target.name)
            rows.append(_row(each, kernel, assembled, "PTX", target.name, None))
    return sorted(rows, key=lambda row: (row.specialization.kernel, variant(row.specialization)))


@lru_cache(maxsize=1)
def _portable(wanted: tuple[Specialization, ...]) -> dict[Specialization, CompiledKernel]:
    # The same for every target, and the slower part of a report.
    return compile_kernels(wanted, PORTABLE)


def count_instructions(listing: str) -> dict[str, int]:
    """How often each of INSTRUCTIONS occurs in what cuobjdump prints."""
    # /*0080*/  @!P0 LDGSTS.E.BYPASS.128 [R61+0x4000], [R4.64], !P2 ;
    found = re.findall(
        r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", listing, re.MULTILINE
    )
    codes = Counter(found)
    return {
        name: sum(count for code, count in codes.items() if re.fullmatch(pattern, code))
        for name, pattern in INSTRUCTIONS.items()
    }


def _row(
    specialization: Specialization,
    kernel: CompiledKernel,
    assembled: Assembled,
    made_for: str,
    runs_on: str,
    counts: Mapping[str, int] | None,
) -> Row:
    return Row(
        specialization,
        made_for,
        runs_on,
        kernel.threads,
        assembled.registers,
        kernel.shared_bytes,
        assembled.stack_bytes,
        assembled.spill_bytes,
        counts,
    )


def _disassemble(cubin: bytes) -> str:
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        # cuobjdump looks for nvdisasm, its neighbour, in PATH.
        tool, neighbour = triton_tool("cuobjdump"), triton_tool("nvdisasm")
        done = subprocess.run(
            [str(tool), "-sass", str(path)],
            env={"PATH": str(neighbour.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or "/*0000*/" not in done.stdout:
        detail = (done.stderr.splitlines() or ["no output"])[0]
        raise ResourceError(f"cuobjdump cannot read a kernel ({detail})")
    return done.stdout
