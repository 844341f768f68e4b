"""Compiles kernels for one target, in a process of its own: LLVM ends the process when it gives up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["main"]


def main(request_path: str, results_path: str) -> None:
    """Compile what the request names, which is JSON that `solo_edge.kernels.aot` writes.

    The results get one line of JSON before each kernel (its name, so that the one that killed the
    process is known) and one after it; an error ends them.
    """
    request = json.loads(Path(request_path).read_text("utf-8"))
    with Path(results_path).open("w", encoding="utf-8", buffering=1) as results:
        for wanted in request["kernels"]:
            print(json.dumps({"started": wanted["kernel"]}), file=results)
            try:
                made = _compile(wanted, request["arch"], request["ptx_version"])
            except Exception as error:  # whatever Triton raises becomes one line for the user
                print(json.dumps({"error": _one_line(error)}), file=results)
                return
            print(json.dumps(made), file=results)


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Triton's own message comes last, that of ptxas somewhere between.
    said = [line for line in lines if "error   :" in line or "fatal   :" in line] or lines[-1:]
    return f"{type(error).__name__}: {''.join(said[:1])}"


def _compile(wanted: dict[str, Any], arch: int, ptx_version: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from solo_edge.kernels._triton import kernel

    function = kernel(wanted["kernel"])
    types, constants = dict(wanted["types"]), dict(wanted["constants"])
    names = function.arg_names
    unmatched = set(names) ^ (types.keys() | constants.keys())
    if unmatched:
        raise ValueError(f"the plan and the kernel do not agree on {', '.join(sorted(unmatched))}")
    source = ASTSource(
        fn=function,
        signature={name: "constexpr" if name in constants else types[name] for name in names},
        constexprs=constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in wanted["divisible"]},
    )
    options = {
        "num_warps": wanted["num_warps"],
        "num_stages": wanted["num_stages"],
        "ptx_version": ptx_version,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    metadata = compiled.metadata
    return {
        "triton": triton.__version__,
        "entry": metadata.name,
        "ptx": compiled.asm["ptx"],
        "parameters": [name for name in names if name not in constants],
        "num_warps": metadata.num_warps,  # not always what was asked for
        "shared_bytes": metadata.shared,
        "scratch_bytes": metadata.global_scratch_size + metadata.profile_scratch_size,
    }
