"""How long an engine takes from nothing to its first result, and how much memory it needs.

Both are properties of a process, so they are measured in a fresh one: `python -m solo_edge.cold_start`
loads the engine, segments one image a few times and prints a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo_edge import errors
from solo_edge.errors import ResourceError, SoloEdgeError

__all__ = ["ColdStart", "measure"]

REPEATS = 3  # images after which the memory counts as settled
TIMEOUT_S = 600


@dataclass(frozen=True)
class ColdStart:
    """From starting Python to the first masks. The files themselves are in the page cache already."""

    load_ms: float  # reading, checking and compiling the engine
    first_image_ms: float  # its first image
    total_ms: float  # start of the process to the first masks, imports included
    peak_rss_bytes: int  # largest resident memory after a few images


def measure(path: Path, image: Path, options: dict[str, Any]) -> ColdStart:
    """Start a process that loads `path` and segments `image`.

    Args:
        options: keyword arguments of `solo_edge.runtime.engine.open_predictor`.

    Raises:
        ResourceError: that process died, for example because memory ran out.
        SoloEdgeError: whatever `open_predictor` raised there.
    """
    request = json.dumps([str(path.absolute()), str(image.absolute()), options])
    command = [sys.executable, "-m", "solo_edge.cold_start", request]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
        answer = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise ResourceError(f"did not start in a process of its own ({last})", where=path) from None
    except subprocess.TimeoutExpired:
        raise ResourceError(f"did not start within {TIMEOUT_S} s", where=path) from None
    if "error" in answer:
        kind = getattr(errors, answer.pop("error"))
        raise kind(answer["what"], where=answer["where"], fix=answer["fix"])
    # perf_counter is one clock for all processes of the machine (CLOCK_MONOTONIC).
    answer["total_ms"] = (answer.pop("first_done_s") - start) * 1e3
    return ColdStart(**answer)


def _child(path: str, image_path: str, options: dict[str, Any]) -> dict[str, Any]:
    from solo_edge.images import read_image
    from solo_edge.runtime.engine import open_predictor

    start = time.perf_counter()
    with open_predictor(Path(path), **options) as engine:
        loaded = time.perf_counter()
        image = read_image(Path(image_path))
        _ = engine(image).masks
        first = time.perf_counter()
        for _repeat in range(REPEATS):
            _ = engine(image).masks
        peak = _peak_rss_bytes()
    return {
        "load_ms": (loaded - start) * 1e3,
        "first_image_ms": (first - loaded) * 1e3,
        "first_done_s": first,
        "peak_rss_bytes": peak,
    }


def _peak_rss_bytes() -> int:
    """The process's high-water mark.

    VmHWM and not getrusage: the latter's ru_maxrss starts at the size of the process that forked us.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _main() -> None:
    try:
        answer: dict[str, Any] = _child(*json.loads(sys.argv[1]))
    except SoloEdgeError as error:
        kind = type(error).__name__
        answer = {"error": kind, "what": error.what, "where": error.where, "fix": error.fix}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
