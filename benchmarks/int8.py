"""What INT8 costs and gains on the CPU engine: the tables of int8.md.

    python benchmarks/int8.py accuracy CHECKPOINT --calib DIR --eval DIR [--split val] -o results/NAME
    python benchmarks/int8.py speed --images DIR [--size 448 768] -o results/NAME

`accuracy`: method x mask AP, and how many layers have to stay in float for a given loss. `speed`: the
network in float32, bfloat16 and INT8, taking turns.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import solo_edge
from solo_edge import environment
from solo_edge.accuracy_gate import AccuracyGate
from solo_edge.calibration.folder import open_images
from solo_edge.config import ModelConfig, PostprocessConfig, preset
from solo_edge.data.coco import open_dataset
from solo_edge.errors import AccuracyError
from solo_edge.export.build import build_engine
from solo_edge.export.int8 import Int8Build, Verdict
from solo_edge.files import write_json
from solo_edge.manifest import read_manifest
from solo_edge.quantize import METHODS, calibrate
from solo_edge.report import markdown_table

ASSET = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"


@dataclasses.dataclass(frozen=True)
class MethodRow:
    """One way to choose the ranges."""

    method: str
    float_ap: float
    int8_ap: float  # all layers that can be are INT8
    mask_iou: float
    kept_ap: (
        float | None
    )  # with the layers that have to stay in float for `allowed`; None: not found
    kept_layers: int | None
    kept_work: float | None  # their share of the multiply-adds, 0..1
    calibration_s: float


def accuracy(values: argparse.Namespace) -> tuple[list[str], list[Any]]:
    """One row for each method."""
    evaluation = open_dataset(values.eval, values.split)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for method in values.methods:
            ranges, engine = Path(folder, f"{method}.json"), Path(folder, f"{method}.engine")
            start = time.perf_counter()
            calibrate(
                values.checkpoint,
                open_images(values.calib, "train"),
                ranges,
                images=values.images,
                method=method,
                evaluation=evaluation,
                report=say,
            )
            seconds = time.perf_counter() - start
            gate = AccuracyGate(evaluation, values.max_ap_drop, report=say)
            with contextlib.suppress(AccuracyError):  # the row then says that none was good enough
                build_engine(
                    values.checkpoint,
                    engine,
                    backend="openvino",
                    precision="int8",
                    ranges=ranges,
                    accept=gate,
                )
            rows.append(_row(method, gate.verdicts[0], engine, seconds))
            say(str(rows[-1]))
    header = ["method", "mask AP", "points", "IoU", f"layers in float for {values.max_ap_drop:g}"]
    header += ["their work %", "then mask AP", "calibration s"]
    cells = [["float", f"{rows[0].float_ap:.4f}", *[""] * 6], *map(_cells, rows)]
    return markdown_table(header, cells), rows


def _row(method: str, first: Verdict, engine: Path, seconds: float) -> MethodRow:
    numbers = (method, first.float_ap, first.int8_ap, first.mask_iou)
    if not engine.exists():
        return MethodRow(*numbers, None, None, None, seconds)
    manifest = read_manifest(engine)
    kept, measured = manifest.quantization, manifest.measured
    assert kept is not None
    assert measured is not None
    return MethodRow(*numbers, measured.mask_ap, len(kept.excluded), kept.float_share, seconds)


def _cells(row: MethodRow) -> list[str]:
    points = f"{100 * (row.int8_ap - row.float_ap):+.2f}"
    kept = ["-", "-", "-"]
    if row.kept_layers is not None and row.kept_work is not None:
        kept = [str(row.kept_layers), f"{100 * row.kept_work:.1f}", f"{row.kept_ap:.4f}"]
    start = [row.method, f"{row.int8_ap:.4f}", points, f"{row.mask_iou:.3f}"]
    return [*start, *kept, f"{row.calibration_s:.0f}"]


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """One network in three precisions; milliseconds, medians of runs that take turns."""

    network: str
    height: int
    width: int
    threads: int
    fp32_ms: float
    bf16_ms: float | None  # where the processor has it
    int8_ms: float
    int8_over_fp32: float  # median of the rounds' ratios
    int8_over_bf16: float | None
    calibration_s: float
    calibration_peak_mib: float
    calibration_images: int


def speed(values: argparse.Namespace) -> tuple[list[str], list[Any]]:
    """One row for each network. The weights of all but the demo model are random: only time counts."""
    images = open_images(values.images, values.split)
    size = tuple(values.size)
    configs: list[ModelConfig | None] = [None]
    configs += [preset(name, input_size=size) for name in values.networks]
    rows = [_measure(config, images, values) for config in configs]
    header = ["network", "size", "fp32 ms", "bf16 ms", "int8 ms", "int8 : fp32", "int8 : bf16"]
    cells = []
    for row in rows:
        bf16 = ["-", "-"]
        if row.bf16_ms is not None and row.int8_over_bf16 is not None:
            bf16 = [f"{row.bf16_ms:.1f}", f"{row.int8_over_bf16:.2f}x"]
        times = [f"{row.fp32_ms:.1f}", bf16[0], f"{row.int8_ms:.1f}"]
        sizes = f"{row.height}x{row.width}"
        cells.append([row.network, sizes, *times, f"{row.int8_over_fp32:.2f}x", bf16[1]])
    return markdown_table(header, cells), rows


def _measure(config: ModelConfig | None, images: Any, values: argparse.Namespace) -> SpeedRow:
    """Calibrate in a process of its own, for its memory; then the three engines take turns."""
    from solo_edge.calibration.ranges import read_ranges
    from solo_edge.export.int8 import cpu_opener
    from solo_edge.export.onnx import export_onnx
    from solo_edge.runtime.openvino_runner import OpenVINORunner, supports_bfloat16
    from solo_edge.runtime.torch_runner import open_checkpoint

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        checkpoint = ASSET if config is None else _random_checkpoint(config, folder)
        say(f"{checkpoint.stem}: calibrating with {values.count} images")
        seconds, peak = _calibrate_alone(checkpoint, values, folder / "ranges.json")
        loaded = open_checkpoint(checkpoint)
        exported = folder / "exported.onnx"
        export_onnx(loaded.model, exported)
        build = Int8Build(
            float_file=exported,
            ranges=read_ranges(folder / "ranges.json"),
            checkpoint=loaded,
            graph="network",
            config=PostprocessConfig(),
            backend="openvino",
            open_runner=cpu_opener("openvino", values.threads),
            folder=folder,
        )
        image = loaded.preprocess(images.image(0))[0][np.newaxis]
        with contextlib.ExitStack() as stack:
            runners = {
                "fp32": stack.enter_context(build.float_engine()).runner,
                "int8": stack.enter_context(build.int8_engine(build.ranges.excluded)).runner,
            }
            if supports_bfloat16():
                bf16 = OpenVINORunner(exported, precision="bf16", threads=values.threads)
                runners["bf16"] = stack.enter_context(bf16)
            times = _take_turns(runners, image, values.rounds)
        height, width = loaded.config.input_size
        return SpeedRow(
            network=loaded.config.name,
            height=height,
            width=width,
            threads=values.threads or environment.describe()["cores"],
            fp32_ms=statistics.median(times["fp32"]),
            bf16_ms=statistics.median(times["bf16"]) if "bf16" in times else None,
            int8_ms=statistics.median(times["int8"]),
            int8_over_fp32=_ratio(times["fp32"], times["int8"]),
            int8_over_bf16=_ratio(times["bf16"], times["int8"]) if "bf16" in times else None,
            calibration_s=seconds,
            calibration_peak_mib=peak,
            calibration_images=values.count,
        )


def _random_checkpoint(config: ModelConfig, folder: Path) -> Path:
    import torch

    from solo_edge.checkpoint import Checkpoint, save_checkpoint
    from solo_edge.models.solov2 import SOLOv2

    torch.manual_seed(0)
    names = tuple(f"class {i}" for i in range(config.num_classes))
    ids = tuple(range(1, config.num_classes + 1))
    path = folder / f"{config.name}.safetensors"
    save_checkpoint(path, Checkpoint(SOLOv2(config).eval(), names, ids, {}, {}))
    return path


def _calibrate_alone(
    checkpoint: Path, values: argparse.Namespace, ranges: Path
) -> tuple[float, float]:
    """Seconds, and peak resident memory in MiB, of `solo-edge calibrate`."""
    words = ["calibrate", checkpoint, "--data", values.images, "--split", values.split]
    words += ["--images", values.count, "--allow-unlike", "-o", ranges]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _WITH_PEAK, *map(str, words)], check=True, stdout=subprocess.PIPE
    )
    return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024


# Not getrusage: its peak begins with that of the process that started this one.
_WITH_PEAK = """
import sys
from solo_edge.cli import main
code = main(sys.argv[1:])
lines = open("/proc/self/status").read().splitlines()
print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""


def _take_turns(
    runners: dict[str, Any], image: NDArray[np.float32], rounds: int
) -> dict[str, list[float]]:
    """Milliseconds of each; who begins changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for turn in range(rounds + 3):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            runners[name].infer({"image": image})
            if turn >= 3:  # the first ones warm up
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def _ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("accuracy")
    first.add_argument("checkpoint", type=Path)
    first.add_argument("--calib", type=Path, required=True)
    first.add_argument("--eval", type=Path, required=True)
    first.add_argument("--split", default="val")
    first.add_argument("--images", type=int, default=128)
    first.add_argument("--methods", nargs="+", default=METHODS)
    first.add_argument("--max-ap-drop", type=float, default=0.1)
    first.set_defaults(run=accuracy)
    second = commands.add_parser("speed")
    second.add_argument("--images", type=Path, required=True)
    second.add_argument("--split", default="train")
    second.add_argument("--count", type=int, default=256)
    second.add_argument("--size", type=int, nargs=2, default=(448, 768))
    networks = ("solov2-light-r18-448", "solov2-light-mbv2-448")
    second.add_argument("--networks", nargs="*", default=networks)
    second.add_argument("--rounds", type=int, default=31)
    second.add_argument("--threads", type=int)
    second.set_defaults(run=speed)
    for command in (first, second):
        command.add_argument("-o", "--out", type=Path, required=True, help="stem of .json and .csv")
    values = parser.parse_args()
    lines, rows = values.run(values)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    records = [dataclasses.asdict(row) for row in rows]
    facts = {"created": now, "environment": environment.describe()}
    write_json(values.out.with_suffix(".json"), {**facts, "rows": records})
    with values.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
