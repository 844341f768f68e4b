"""Masks on a 720p frame: `draw_instances` beside supervision's MaskAnnotator, in turns.

    OMP_NUM_THREADS=1 python benchmarks/drawing.py
    OMP_NUM_THREADS=1 python benchmarks/drawing.py --masks 20 --rounds 51 -o drawing.json

Both sides get one thread. Ours is timed from stride-4 probabilities to the finished picture: it renders
the masks, tints, outlines and labels them on a copy. supervision's is timed from masks that are ready,
on a copy, and only tints. A row whose sides do not tint the same pixels is not timed. On a busy machine
only the CPU times mean something.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from interleaved import compare

from solo_edge import environment
from solo_edge.draw import draw_instances
from solo_edge.files import write_json
from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry

SIZE = (720, 1280)
GEOMETRY = Geometry(SIZE, (432, 768), (448, 768))
COUNTS = (5, 10, 20, 50)
CLASSES = tuple(f"class {i}" for i in range(80))
ALPHA = 0.5


class Case(NamedTuple):
    """One picture and the two ways to draw on it; both return a new image."""

    image: np.ndarray  # [H, W, 3] uint8
    instances: Instances
    ours: Callable[[], np.ndarray]
    supervision: Callable[[], np.ndarray]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--masks", type=int, nargs="+", default=COUNTS, metavar="N")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the rows")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("set OMP_NUM_THREADS=1: NumPy would use more threads than one")
    rows = []
    for count in options.masks:
        rows.append(measure(count, options.rounds))
        print(describe(rows[-1]), flush=True)
    if options.output:
        packages = ("supervision", "opencv-python-headless", "numpy")
        what = {
            "rounds": options.rounds,
            "threads": 1,
            "versions": {name: version(name) for name in packages},
            "environment": environment.describe(),
        }
        write_json(options.output, {**what, "rows": rows})
    return 0


def measure(count: int, rounds: int) -> dict[str, Any]:
    """The times of one number of masks, in ms."""
    check(make_case(count))
    case = make_case(count)  # the check has rendered the masks of the first one
    result = compare(case.supervision, case.ours, rounds=rounds)
    alone = compare(lambda: list(case.instances.regions()), case.ours, rounds=rounds)
    row: dict[str, Any] = {
        "masks": count,
        "share_covered": round(float(make_case(count).instances.masks.any(axis=0).mean()), 3),
        "render_cpu_ms": round(alone.baseline_cpu_ms.median, 3),
    }
    for name, value in dataclasses.asdict(result).items():
        if isinstance(value, dict):
            name = name.replace("baseline", "supervision")
            ends = {"": value["median"], "_low": value["low"], "_high": value["high"]}
            row |= {name + suffix: round(number, 3) for suffix, number in ends.items()}
        else:
            row[name] = value
    return row


def make_case(count: int, seed: int = 0) -> Case:
    """Blobs of all sizes, from 24 to 200 pixels across the 720p frame; they overlap."""
    import supervision

    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(0, 256, (45, 80, 3), dtype=np.uint8), SIZE[::-1])
    instances = Instances(
        np.linspace(0.95, 0.3, count),
        rng.integers(0, len(CLASSES), count),
        LazyMasks(np.stack([_blob(rng) for _ in range(count)]), GEOMETRY),
        class_names=CLASSES,
        image_size=SIZE,
    )
    # From a copy, which keeps the rendered masks: ours must not find them ready.
    detections = instances.select(slice(None)).to_supervision()
    annotator = supervision.MaskAnnotator(opacity=ALPHA)
    return Case(
        image,
        instances,
        lambda: draw_instances(image, instances, alpha=ALPHA),
        lambda: annotator.annotate(image.copy(), detections),
    )


def check(case: Case) -> None:
    """Both sides change the pixels inside the masks and no others, but for our labels."""
    inside = case.instances.masks.any(axis=0)
    ours = draw_instances(case.image, case.instances, alpha=ALPHA, labels=False)
    for name, drawn in (("ours", ours), ("supervision", case.supervision())):
        changed = (drawn != case.image).any(axis=-1)
        # A tint may by chance be the colour that was there.
        missed = np.count_nonzero(inside & ~changed) / max(np.count_nonzero(inside), 1)
        if (changed & ~inside).any() or missed > 1e-3:
            raise RuntimeError(f"{name} does not tint exactly the masks")


def describe(row: dict[str, Any]) -> str:
    parts = [f"{row['masks']:3d} masks:"]
    for kind in ("wall", "cpu"):
        parts.append(
            f"{kind} {row[f'supervision_{kind}_ms']:.1f} -> {row[f'ours_{kind}_ms']:.2f} ms,"
            f" {row[f'{kind}_ratio']:.1f}x"
            f" ({row[f'{kind}_ratio_low']:.1f} to {row[f'{kind}_ratio_high']:.1f});"
        )
    parts.append(
        f"rendering {row['render_cpu_ms']:.2f} ms of it; {row['disturbed']} rounds disturbed"
    )
    return " ".join(parts)


def _blob(rng: np.random.Generator) -> np.ndarray:
    """[h, w] float32: one object with a soft border, as a network has them."""
    height, width = (side // 4 for side in GEOMETRY.input_size)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    radius = np.exp(rng.uniform(np.log(3), np.log(25)))
    stretch, turn, lobes = rng.uniform(0.5, 2), rng.uniform(0, np.pi), rng.uniform(0, 6)
    dy = y - rng.uniform(0, GEOMETRY.resized_size[0] / 4)
    dx = x - rng.uniform(0, GEOMETRY.resized_size[1] / 4)
    along, across = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    edge = radius * (1 + 0.25 * np.sin(3 * np.arctan2(across, along) + lobes))
    distance = np.hypot(along / stretch, across * stretch) - edge
    return (1 / (1 + np.exp(np.clip(1.2 * distance, -30, 30)))).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
