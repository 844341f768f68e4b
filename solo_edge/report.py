"""A benchmark's result as JSON (everything), CSV (one row for each engine) and Markdown (to be read)."""

from __future__ import annotations

import csv
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo_edge.cold_start import ColdStart
from solo_edge.errors import UsageError
from solo_edge.files import atomic_file, write_json, writing

__all__ = [
    "HEADER",
    "Report",
    "Row",
    "check_writable",
    "markdown",
    "markdown_table",
    "report_files",
    "save_report",
    "table_row",
]

SCHEMA = 1
SUFFIXES = (".json", ".csv", ".md")
HEADER = (
    *("engine", "backend", "precision", "mask AP", "FPS"),
    *("ms p50", "p90", "p99", "network", "rest", "start s", "MiB", "RAM MiB", "noise"),
)


@dataclass(frozen=True)
class Row:
    """What was measured of one engine."""

    name: str
    backend: str
    precision: str
    graph: str  # "network", with post-processing on the host, or "full"
    input_size: tuple[int, int]  # (height, width)
    stats: dict[str, float]  # the twelve COCO numbers
    per_class: dict[str, float]  # class name -> AP
    fps: float
    latency_ms: dict[str, dict[str, float]]  # stage or "total" -> p50, p90, p99, mean
    network_cv: float  # standard deviation / mean of the network's time
    noisy: bool  # that is too much for the row to be quoted
    size_bytes: int  # the engine's files
    cold_start: ColdStart


@dataclass(frozen=True)
class Report:
    """One run of `solo-edge benchmark`."""

    created: str  # UTC, ISO 8601
    data: str
    split: str
    images: int
    warmup: int
    threads: int
    thresholds: dict[str, Any]  # those that replaced the engines' own
    environment: dict[str, Any]
    rows: list[Row]


def check_writable(path: Path) -> None:
    """Find out whether `path` could be written, leaving nothing behind.

    Raises:
        UsageError: it is a folder. ResourceError: no permission, or no space.
    """
    if path.is_dir():
        raise UsageError("this is a folder", where=path, fix="give the name of a file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with writing(path), tempfile.TemporaryFile(dir=folder):
        pass


def report_files(out: Path) -> dict[str, Path]:
    """Where the three files go: report.json, .csv and .md in the folder `out`.

    If `out` is the name of one of them (results/nano.json), the others are put beside it with its stem.

    Raises:
        UsageError, ResourceError: it cannot be written there.
    """
    is_file_name = out.suffix in SUFFIXES
    stem = out.with_suffix("") if is_file_name else out / "report"
    files = {suffix: stem.with_name(stem.name + suffix) for suffix in SUFFIXES}
    for path in files.values():
        check_writable(path)
    return files


def save_report(report: Report, files: dict[str, Path]) -> None:
    """Write the three files, each atomically."""
    values = dataclasses.asdict(report)
    rows = values.pop("rows")
    write_json(files[".json"], {"schema": SCHEMA, **values, "engines": rows})
    for suffix, text in ((".csv", _csv(report)), (".md", markdown(report))):
        with atomic_file(files[suffix]) as temporary:
            temporary.write_text(text, "utf-8")


def table_row(row: Row) -> list[str]:
    """The cells of one engine under HEADER."""
    total, network = row.latency_ms["total"], row.latency_ms["network"]["p50"]
    return [
        row.name,
        row.backend,
        row.precision,
        f"{row.stats['AP']:.3f}" if row.stats["AP"] >= 0 else "-",
        f"{row.fps:.1f}",
        *(f"{total[name]:.1f}" for name in ("p50", "p90", "p99")),
        f"{network:.1f}",
        f"{total['p50'] - network:.1f}",
        f"{row.cold_start.total_ms / 1e3:.1f}",
        f"{row.size_bytes / 2**20:.1f}",
        f"{row.cold_start.peak_rss_bytes / 2**20:.0f}",
        f"{row.network_cv:.1%}{' NOISY' if row.noisy else ''}",
    ]


def markdown(report: Report) -> str:
    """The report as a page: conditions, table, stages, and a warning where the machine was not quiet."""
    machine = report.environment
    lines = [
        f"# Benchmark on {machine['device'] or machine['cpu']}",
        "",
        f"{report.images} images of `{report.data}` ({report.split}), {report.threads} threads on "
        f"{machine['cores']} cores ({' '.join(machine['isa']) or 'no known extensions'}), "
        f"{machine['system']}, solo-edge {machine['solo_edge']}"
        + (f" ({machine['commit']})" if machine["commit"] else "")
        + f", {report.created}.",
        "",
        *markdown_table(HEADER, [table_row(row) for row in report.rows]),
        "",
        "From the bytes of the image file to masks in memory, one image at a time, after "
        f"{report.warmup} untimed images; engines take turns image by image. "
        "FPS = (n - 1) / (t_last - t_first). *start*: from starting Python to the first masks. "
        "*RAM*: peak resident memory of that process. *noise*: standard deviation of the network's "
        "time over its mean.",
    ]
    noisy = [row.name for row in report.rows if row.noisy]
    if noisy:
        names = ", ".join(noisy)
        lines += ["", f"**Not quiet enough to be quoted: {names}.** Stop other work, run again."]
    stages = list(report.rows[0].latency_ms)
    lines += ["", "Milliseconds by stage, p50 / p90 / p99:", ""]
    cells = [
        [row.name, *(_three(row.latency_ms[stage]) for stage in stages)] for row in report.rows
    ]
    lines += markdown_table(["engine", *stages], cells)
    lines += ["", "Mask AP:", ""]
    statistics = list(report.rows[0].stats)
    cells = [
        [row.name, *(f"{v:.3f}" if v >= 0 else "-" for v in row.stats.values())]
        for row in report.rows
    ]
    lines += markdown_table(["engine", *statistics], cells)
    packages = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines += ["", f"Python {machine['python']}, {packages}."]
    return "\n".join(lines) + "\n"


def _three(values: dict[str, float]) -> str:
    return " / ".join(f"{values[name]:.1f}" for name in ("p50", "p90", "p99"))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first column is text, the others numbers."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = "|---" + "|--:" * (len(header) - 1) + "|"
    return [line(header), rule, *map(line, rows)]


def _csv(report: Report) -> str:
    table = io.StringIO()
    rows = [_flat(row) for row in report.rows]
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _flat(row: Row) -> dict[str, Any]:
    height, width = row.input_size
    return {
        "engine": row.name,
        "backend": row.backend,
        "precision": row.precision,
        "graph": row.graph,
        "height": height,
        "width": width,
        **row.stats,
        "fps": row.fps,
        **{
            f"{stage}_{name}_ms": value
            for stage, values in row.latency_ms.items()
            for name, value in values.items()
        },
        "network_cv": row.network_cv,
        "noisy": row.noisy,
        "size_bytes": row.size_bytes,
        **dataclasses.asdict(row.cold_start),
    }
