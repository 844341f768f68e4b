"""The post-processing on the CPU beside the authors' in plain torch: checked, timed in turns, weighed.

    python benchmarks/cpu_kernels.py                                    # all rows
    python benchmarks/cpu_kernels.py --only "Matrix NMS" --rounds 51
    python benchmarks/cpu_kernels.py -o benchmarks/results/<cpu>-kernels  # also writes .csv and .json

Both sides use OMP_NUM_THREADS threads (all cores if it is not set). A row whose check fails is not
timed. Times are medians of rounds in which the two take turns, ratios are medians of the rounds'
ratios, with the middle half of them behind. Rounds in which other processes were busy are measured
again; where a row keeps some, only its CPU times mean something, best with OMP_NUM_THREADS=1. Memory
is the peak of the resident set in a fresh process each, less what was there before the call; the
result counts, the network's outputs do not.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cpu_cases import CASES, Case
from interleaved import compare, peak_bytes

from solo_edge import environment
from solo_edge.files import write_json

WARM_UP = 20  # candidates: what libraries allocate once is not charged to the case
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE", "OMP_WAIT_POLICY")
THREADS = int(os.environ.get("OMP_NUM_THREADS") or environment.cpu_count())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("-o", "--output", type=Path, help="path without suffix: .csv and .json")
    parser.add_argument("--peak", nargs=2, metavar=("ROW", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    cases = [case for case in CASES if options.only in case.key]
    if options.peak:
        key, side = options.peak
        (case,) = (case for case in CASES if case.key == key)
        print(measure_peak(case, side))
        return 0

    rows = []
    for case in cases:
        rows.append(measure(case, options.rounds))
        print(describe_row(rows[-1]), flush=True)
    if options.output:
        write(options.output, rows, options.rounds)
    return 0


def measure(case: Case, rounds: int) -> dict[str, Any]:
    baseline, ours, check = case.prepare(case.candidates)
    accuracy = check()
    result = compare(baseline, ours, rounds=rounds)
    peaks = {side: peak_elsewhere(case, side) for side in ("baseline", "ours")}
    row: dict[str, Any] = {"name": case.name, "candidates": case.candidates, "threads": THREADS}
    row["disturbed_rounds"] = result.disturbed
    for name, spread in dataclasses.asdict(result).items():
        if isinstance(spread, dict):
            values = {"": spread["median"], "_low": spread["low"], "_high": spread["high"]}
            row |= {name + suffix: round(value, 3) for suffix, value in values.items()}
    row |= {f"{side}_peak_mib": round(peak / 2**20, 1) for side, peak in peaks.items()}
    # Below a mebibyte a few pages decide.
    fair = peaks["ours"] >= 2**20
    row["peak_ratio"] = round(peaks["baseline"] / peaks["ours"], 1) if fair else None
    return row | dataclasses.asdict(accuracy)


def peak_elsewhere(case: Case, side: str) -> int:
    """`measure_peak` in a process of its own."""
    command = [sys.executable, __file__, "--peak", case.key, side]
    # Else glibc keeps what was given back, and the next allocation is not seen.
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
    return int(done.stdout)


def measure_peak(case: Case, side: str) -> int:
    getattr(case.prepare(WARM_UP), side)()
    return peak_bytes(getattr(case.prepare(case.candidates), side))


def describe_row(row: dict[str, Any]) -> str:
    parts = [f"{row['name']}, N={row['candidates']}:"]
    for kind in ("wall", "cpu"):
        parts.append(
            f"{kind} {row[f'baseline_{kind}_ms']:.1f} -> {row[f'ours_{kind}_ms']:.2f} ms,"
            f" {row[f'{kind}_ratio']:.1f}x"
            f" ({row[f'{kind}_ratio_low']:.1f} to {row[f'{kind}_ratio_high']:.1f});"
        )
    ratio = f", {row['peak_ratio']}x" if row["peak_ratio"] else ""
    parts.append(
        f"peak {row['baseline_peak_mib']} -> {row['ours_peak_mib']} MiB{ratio};"
        f" scores within {row['score_difference']:.0e}, mask IoU at least {row['mask_iou']:.5f};"
        f" {row['disturbed_rounds']} rounds disturbed"
    )
    return " ".join(parts)


def write(path: Path, rows: list[dict[str, Any]], rounds: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    what = {
        "rounds": rounds,
        "threads": THREADS,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "environment": environment.describe(),
    }
    write_json(path.with_name(path.name + ".json"), {**what, "rows": rows})


if __name__ == "__main__":
    sys.exit(main())
