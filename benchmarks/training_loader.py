"""How fast do samples come, from disk and from memory, and how fast does a step take them?

    python benchmarks/training_loader.py DATA [--split train] [--model solov2-light-r18-448] [--workers 0 2]

Columns are images per second: the loader alone, and training with it. A loader that is not well above the
training step keeps an accelerator waiting.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import sys
import tempfile
import time
from pathlib import Path

import torch

from solo_edge.config import AUGMENTATIONS, ModelConfig, TrainConfig, preset
from solo_edge.data.cache import CachedDataset
from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.data.loader import TrainingLoader
from solo_edge.train import Trainer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--model", default="solov2-light-r18-448")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="input size")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--augmentations", nargs="+", default=list(AUGMENTATIONS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(max(torch.get_num_threads() - max(options.workers), 1))
    dataset = open_dataset(options.data, options.split)
    overrides = {"input_size": tuple(options.size)} if options.size else {}
    model = preset(options.model, **overrides)
    model = dataclasses.replace(model, num_classes=len(dataset.class_names))
    print(f"{len(dataset)} images of {options.data.name}, {model.name} at {model.input_size}")
    print(f"{'augmentation':<14} {'workers':>7} {'from disk':>10} {'from memory':>12}")
    config = TrainConfig(batch_size=options.batch_size, device=options.device, close_mosaic=0)
    for name in options.augmentations:
        for workers in options.workers:
            own = dataclasses.replace(config, workers=workers, **AUGMENTATIONS[name])
            rates = []
            for limit in (0, 64 << 30):
                loader = TrainingLoader(CachedDataset(dataset, limit), model, own)
                rates.append(loading_rate(loader, options.seconds))
                del loader
                gc.collect()  # its workers must not be inherited by those of the next one
            print(f"{name:<14} {workers:>7} {rates[0]:>10.1f} {rates[1]:>12.1f}")
    for workers in options.workers:
        rate = training_rate(
            dataset, model, dataclasses.replace(config, workers=workers), options.seconds
        )
        print(f"training, {workers} workers, from memory: {rate:.1f} images/s")
    return 0


def loading_rate(loader: TrainingLoader, seconds: float) -> float:
    """Images per second, after the first batch: workers take their time to start."""
    count, epoch, start = 0, 0, 0.0
    while True:
        for batch in loader.epoch(epoch):
            if start == 0.0:
                start = time.monotonic()
                continue
            count += len(batch)
            if time.monotonic() - start > seconds:
                return count / (time.monotonic() - start)
        epoch += 1


def training_rate(
    dataset: CocoDataset, model: ModelConfig, config: TrainConfig, seconds: float
) -> float:
    """The same with steps of a fresh network; the first two do not count."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "run")
        trainer = Trainer(dataset, None, model, place, config, 64 << 30, lambda _: None)
        count, steps, start = 0, 0, 0.0
        while True:
            trainer.batches = 0
            for group, _ in trainer.groups():
                trainer.step.take(group, 1e-6, steps)
                trainer.average.update(trainer.model)
                steps += 1
                if steps == 2:
                    start = time.monotonic()
                elif steps > 2:
                    count += sum(len(batch) for batch, _ in group)
                    if time.monotonic() - start > seconds:
                        return count / (time.monotonic() - start)
            trainer.epoch += 1


if __name__ == "__main__":
    sys.exit(main())
