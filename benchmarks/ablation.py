"""What does each training option bring? One run per switch, all with the same seed, data and budget.

    python benchmarks/ablation.py DATA OUT --model solov2-nano-256 --size 256 256 --epochs 30 --seeds 0 1

Writes OUT/ablation.csv (a row per run) and OUT/ablation.md (a row per switch: mean over the seeds, and the
difference from the baseline). Stopped and started again, it goes on where it was: finished runs are kept.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import solo_edge
from solo_edge.checkpoint import load_checkpoint
from solo_edge.config import TrainConfig, from_dict, preset
from solo_edge.data.coco import open_dataset
from solo_edge.errors import UsageError, did_you_mean
from solo_edge.evaluate import evaluate
from solo_edge.files import atomic_file
from solo_edge.run_folder import RunFolder
from solo_edge.train import model_predictor, train

BASELINE = "baseline"
# Name -> fields of TrainConfig that differ from the baseline's.
SWITCHES: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "no averaged weights": {"ema_decay": 0.0},
    "no colours": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "no jitter": {"jitter": (1.0, 1.0)},
    "large-scale jitter": {"jitter": (0.1, 2.0)},
    "copy-paste": {"copy_paste": 0.5},
    "mosaic": {"mosaic": 0.5},
    "repeat-factor sampling": {"repeat_threshold": 0.3},
    "quality focal loss": {"category_loss": "quality"},
    "Lovasz term": {"lovasz_weight": 1.0},
    "semantic loss": {"semantic_weight": 0.5},
    "step schedule": {"schedule": "step"},
    "backbone at a tenth": {"backbone_lr_scale": 0.1},
    "layer-wise decay": {"layer_decay": 0.8},
    "frozen stem and stage 1": {"freeze": "backbone:1"},
    "frozen batch norms": {"batch_norm": "frozen"},
}
DISTILLATION = {
    "distillation": {},
    "distillation, category": {"distill_features": 0.0, "distill_masks": 0.0},
    "distillation, features": {"distill_category": 0.0, "distill_masks": 0.0},
    "distillation, masks": {"distill_category": 0.0, "distill_features": 0.0},
}
METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Row:
    """One finished run."""

    switch: str
    seed: int
    metrics: dict[str, float]  # of its best checkpoint
    epoch: int  # of that checkpoint
    seconds: float  # of all epochs, without validation


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="data set with the splits train and val")
    parser.add_argument("out", type=Path, help="folder of the runs and the table")
    parser.add_argument("--model", default="solov2-nano-256")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="input size")
    parser.add_argument("--grid-sizes", type=int, nargs="+", metavar="S")
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--init", type=Path, help="weights that every run starts from")
    parser.add_argument("--teacher", type=Path, help="adds the rows of distillation")
    parser.add_argument("--switches", nargs="+", help="the rows to make (default: all)")
    parser.add_argument("--split", default="val", help="what is measured (default: val)")
    options = parser.parse_args()
    switches = {**SWITCHES, **(DISTILLATION if options.teacher else {})}
    chosen = [BASELINE, *(name for name in options.switches or switches if name != BASELINE)]
    for name in chosen:
        if name not in switches:
            raise UsageError(f"unknown switch {name!r}", fix=did_you_mean(name, switches))
    rows = []
    for seed in options.seeds:  # the whole table once, then again: an early end leaves whole tables
        for name in chosen:
            rows.append(run(options, name, switches[name], seed))
            write_tables(options, rows)
            print(f"{name}, seed {seed}: AP {rows[-1].metrics['AP']:.3f}", file=sys.stderr)
    print((options.out / "ablation.md").read_text("utf-8"))
    return 0


def run(options: argparse.Namespace, name: str, switch: dict[str, Any], seed: int) -> Row:
    """Train, or finish training, one row."""
    budget = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
        "workers": options.workers,
        "device": options.device,
        "close_mosaic": options.epochs // 4,
        "validate_every": max(options.epochs // 10, 1),
        "seed": seed,
    }
    config = from_dict(TrainConfig, {**budget, **switch})
    overrides: dict[str, Any] = {}
    if options.size:
        overrides["input_size"] = tuple(options.size)
    if options.grid_sizes:
        overrides["grid_sizes"] = tuple(options.grid_sizes)
    slug = "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
    out = options.out / f"{slug}-{seed}"
    resume = (out / "run.json").is_file()
    state = RunFolder(out).read_state() if resume else None
    if state is None or state.epoch < options.epochs:
        train(
            options.data,
            preset(options.model, **overrides),
            out,
            config,
            init=None if resume else options.init,
            teacher=options.teacher if name in DISTILLATION else None,
            resume=resume,
            report=lambda line: print(f"  {name}, seed {seed}: {line}", file=sys.stderr),
        )
        state = RunFolder(out).read_state()
    assert state is not None
    checkpoint = load_checkpoint(out)
    metrics = checkpoint.metrics
    if options.split != "val":
        predict = model_predictor(checkpoint.model, checkpoint.class_names)
        metrics = evaluate(predict, open_dataset(options.data, options.split)).stats
    seconds = sum(row.get("seconds", 0.0) for row in state.history)
    chosen = {metric: metrics[metric] for metric in METRICS}
    return Row(name, seed, chosen, checkpoint.training["epoch"], seconds)


def write_tables(options: argparse.Namespace, rows: list[Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["switch", "seed", *METRICS, "best_epoch", "seconds"])
    for row in rows:
        values = [f"{row.metrics[metric]:.4f}" for metric in METRICS]
        writer.writerow([row.switch, row.seed, *values, row.epoch, f"{row.seconds:.1f}"])
    for name, content in (("csv", text.getvalue()), ("md", markdown(options, rows))):
        with atomic_file(options.out / f"ablation.{name}") as temporary:
            temporary.write_text(content, "utf-8")


def markdown(options: argparse.Namespace, rows: list[Row]) -> str:
    """A row per switch: means over its seeds, the difference from the baseline and its spread."""
    size = "x".join(map(str, options.size or preset(options.model).input_size))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    lines = [
        f"{options.data.name}, split {options.split}; {options.model} at {size}, {options.epochs} epochs,"
        f" batch {options.batch_size}, seeds {', '.join(map(str, options.seeds))};"
        f" solo-edge {solo_edge.__version__}, torch {torch.__version__}, {device}.",
        "",
        "| switch | AP | difference | AP50 | AP75 | seeds | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    baseline = {row.seed: row.metrics["AP"] for row in rows if row.switch == BASELINE}
    for name in dict.fromkeys(row.switch for row in rows):
        own = [row for row in rows if row.switch == name]
        ap, ap50, ap75 = (statistics.mean(row.metrics[m] for row in own) for m in METRICS)
        # Against the baseline of the same seed.
        gains = [row.metrics["AP"] - baseline[row.seed] for row in own]
        difference = "" if name == BASELINE else f"{statistics.mean(gains):+.3f}"
        if name != BASELINE and len(gains) > 1:
            difference += f" ({min(gains):+.3f} to {max(gains):+.3f})"
        seconds = statistics.mean(row.seconds for row in own)
        cells = [
            name,
            f"{ap:.3f}",
            difference,
            f"{ap50:.3f}",
            f"{ap75:.3f}",
            len(own),
            f"{seconds:.0f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
