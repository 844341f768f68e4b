"""Which layers INT8 hurts, and what each costs and gains: `solo-edge sensitivity`."""

from __future__ import annotations

import csv
import dataclasses
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import solo_edge
from solo_edge.files import atomic_file, write_json

if TYPE_CHECKING:
    from solo_edge.calibration.layers import LayerNoise
    from solo_edge.data.coco import CocoDataset
    from solo_edge.export.int8 import Int8Build

__all__ = ["HEADER", "LayerRow", "SensitivityReport", "measure_sensitivity", "save", "table_row"]

SCHEMA = 1
HEADER = (
    *("layer", "work %", "category dB", "kernels dB", "features dB"),
    *("AP alone", "fp32 ms", "int8 ms"),
)
OUTPUTS = ("category_scores", "mask_kernels", "mask_features")


@dataclass(frozen=True)
class LayerRow:
    """What is known about one layer."""

    layer: str
    work: float  # share of the multiply-adds that could be INT8, 0..1
    sqnr_db: dict[str, float | None]  # output -> with this layer alone in INT8; None: no change
    ap_points: float | None  # change of mask AP (of 100) with this layer alone in INT8
    float_ms: float | None  # of its convolutions, on this machine
    int8_ms: float | None


@dataclass(frozen=True)
class SensitivityReport:
    """The layers, those first whose exclusion removes the most noise for its work."""

    checkpoint: str
    method: str
    data: str
    images: int
    float_ap: float  # mask AP, 0..1
    int8_ap: float  # with all layers in INT8
    layers: list[LayerRow]
    solo_edge: str = solo_edge.__version__


def measure_sensitivity(
    checkpoint: str | Path,
    ranges: str | Path,
    evaluation: CocoDataset,
    *,
    ap_layers: int = 10,
    max_images: int | None = None,
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> SensitivityReport:
    """Quantise each layer alone and see what becomes of the outputs, of the accuracy and of the time.

    Args:
        checkpoint: a `.safetensors` file or the folder of a training run.
        ranges: a file of `solo-edge calibrate` for it.
        evaluation: images that calibration did not see.
        ap_layers: for how many layers, from the top, the accuracy is measured.
        max_images: how many images of `evaluation` count; None is all.
        threads: CPU threads; None is one for each core.

    Raises:
        UsageError, ArtifactError: the checkpoint or the ranges cannot be used.
        ResourceError: a package is missing.
    """
    from solo_edge.accuracy_gate import measure_layers
    from solo_edge.calibration.mixed_precision import exclusion_order
    from solo_edge.evaluate import evaluate

    def average_precision(engine: Any) -> float:
        return evaluate(engine, evaluation, progress=progress, max_images=max_images).ap

    with tempfile.TemporaryDirectory(prefix="sensitivity-") as folder:
        build = _prepare(Path(checkpoint), Path(ranges), Path(folder), threads)
        layers = exclusion_order(measure_layers(build, evaluation, threads, progress))
        times = _layer_times(build, layers, evaluation, threads, report)
        names = {each.layer for each in layers}
        with build.float_engine() as engine:
            float_ap = average_precision(engine)
        with build.int8_engine(()) as engine:
            int8_ap = average_precision(engine)
        report(f"mask AP {float_ap:.4f} in float, {int8_ap:.4f} in int8")
        total = sum(each.multiply_adds for each in layers)
        rows = []
        for position, each in enumerate(layers):
            points = None
            if position < ap_layers:
                with build.int8_engine(names - {each.layer}) as engine:
                    points = 100 * (average_precision(engine) - float_ap)
                report(f"{position + 1} of {ap_layers}: {each.short_name} {points:+.2f} points")
            rows.append(_row(each, total, points, times.get(each.layer, (None, None))))
        return SensitivityReport(
            checkpoint=Path(checkpoint).name,
            method=build.ranges.method,
            data=f"{evaluation.path.name} ({evaluation.split})",
            images=len(evaluation) if max_images is None else min(max_images, len(evaluation)),
            float_ap=float_ap,
            int8_ap=int8_ap,
            layers=rows,
        )


def _prepare(checkpoint: Path, ranges: Path, folder: Path, threads: int | None) -> Int8Build:
    from solo_edge.checkpoint import find_checkpoint
    from solo_edge.config import PostprocessConfig
    from solo_edge.export.build import choose_backend
    from solo_edge.export.int8 import Int8Build, cpu_opener, read_fitting_ranges
    from solo_edge.export.onnx import export_onnx
    from solo_edge.runtime.torch_runner import open_checkpoint

    loaded = open_checkpoint(checkpoint)
    read = read_fitting_ranges(ranges, find_checkpoint(checkpoint), loaded)
    backend, _ = choose_backend("auto", "int8")
    export_onnx(loaded.model, folder / "exported.onnx")
    return Int8Build(
        float_file=folder / "exported.onnx",
        ranges=read,
        checkpoint=loaded,
        graph="network",
        config=PostprocessConfig(),
        backend=backend,
        open_runner=cpu_opener(backend, threads),
        folder=folder,
    )


def _layer_times(
    build: Int8Build,
    layers: Sequence[LayerNoise],
    dataset: CocoDataset,
    threads: int | None,
    report: Callable[[str], None],
) -> dict[str, tuple[float | None, float | None]]:
    """Layer -> milliseconds in float32 and in INT8; empty where OpenVINO is not the engine."""
    if build.backend != "openvino":
        report("times by layer need OpenVINO; they are left out")
        return {}
    import numpy as np
    import onnx

    from solo_edge.runtime.openvino_profile import node_times

    image = build.checkpoint.preprocess(dataset.image(0))[0][np.newaxis]
    convolutions = {
        node.name: node.input[1]
        for node in onnx.load(build.float_file).graph.node
        if node.op_type == "Conv"
    }
    found: list[dict[str, float]] = []
    with build.float_engine(), build.int8_engine(()):
        for name in ("float.onnx", "candidate.onnx"):
            sums: dict[str, float] = {}
            for node, value in node_times(build.folder / name, image, threads=threads).items():
                if node in convolutions:
                    layer = convolutions[node]
                    sums[layer] = sums.get(layer, 0.0) + value
            found.append(sums)
    exact, small = found
    return {each.layer: (exact.get(each.layer), small.get(each.layer)) for each in layers}


def _row(
    noise: LayerNoise,
    total: int,
    points: float | None,
    times: tuple[float | None, float | None],
) -> LayerRow:
    ratios = {
        name: value if value < float("inf") else None for name, value in noise.sqnr_db.items()
    }
    return LayerRow(noise.short_name, noise.multiply_adds / total, ratios, points, *times)


def table_row(row: LayerRow) -> list[str]:
    """The cells of one layer under HEADER."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        row.layer,
        f"{100 * row.work:.1f}",
        *(shown(row.sqnr_db.get(name), ".1f") for name in OUTPUTS),
        shown(row.ap_points, "+.2f"),
        shown(row.float_ms, ".3f"),
        shown(row.int8_ms, ".3f"),
    ]


def save(report: SensitivityReport, files: dict[str, Path]) -> None:
    """Write the report as .json, .csv and .md, each atomically.

    Args:
        files: of `solo_edge.report.report_files`.
    """
    from solo_edge.report import markdown_table

    write_json(files[".json"], {"schema": SCHEMA, **dataclasses.asdict(report)})
    cells = [table_row(row) for row in report.layers]
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(cells)
    points = 100 * (report.int8_ap - report.float_ap)
    page = [
        f"# What INT8 does to the layers of {report.checkpoint}",
        "",
        f"Mask AP on {report.images} images of {report.data}: {report.float_ap:.4f} in float, "
        f"{report.int8_ap:.4f} with all layers in INT8 ({points:+.2f} points); ranges by "
        f"{report.method}. Those layers come first whose exclusion removes the most noise for its "
        "work. *work*: share of the multiply-adds. *dB*: signal-to-quantisation-noise ratio of the "
        "output with this layer alone in INT8. *AP alone*: what that costs, in points. *ms*: time "
        "of its convolutions, without conversions between layouts.",
        "",
        *markdown_table(HEADER, cells),
    ]
    for suffix, text in ((".csv", sheet.getvalue()), (".md", "\n".join(page) + "\n")):
        with atomic_file(files[suffix]) as temporary:
            temporary.write_text(text, "utf-8")
