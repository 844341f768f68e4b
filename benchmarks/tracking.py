"""Tracking by masks beside tracking by boxes, on rendered films with known ids (docs/tracking.md).

    python benchmarks/tracking.py                                         # six films of 16 s at two speeds
    python benchmarks/tracking.py --seeds 0 --seconds 8                   # a quick look
    python benchmarks/tracking.py -o benchmarks/results/<cpu>-tracking    # also writes .csv and .json

The trackers' numbers were chosen on the films 100 to 103.

Two kinds of instances: true masks with misses, low scores, trembling outlines, cut masks, wrong classes
and false alarms; and what the demo model finds. Both trackers get the same instances and associate
them in the same way but for the overlap and what goes into the motion. An object counts from 150 visible
pixels on, as in the model's training. Times are of one thread, CPU time of `update` alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import solo_edge
from solo_edge import environment
from solo_edge.data.synthetic import CLASS_NAMES, Scene, SceneAnimation
from solo_edge.files import write_json
from solo_edge.instances import Instances, LazyMasks
from solo_edge.preprocess import Geometry
from solo_edge.report import markdown_table
from solo_edge.runtime.engine import open_predictor
from solo_edge.tracking import IdentityMetrics, IdentityScores, MaskTracker

ASSET = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
SIZE = (256, 256)
FPS = 30
MIN_AREA = 150  # visible pixels
LOW_SCORE = 0.05
SPEEDS = (1.0, 4.0)  # of the films
KINDS = (FAULTY, MODEL) = ("true masks with faults", "demo model")
RATES = ("30 FPS", "10 FPS", "5 FPS", "dropouts")
TRACKERS: tuple[Any, ...] = ("mask", "box")
SHARES = ("idf1", "idp", "idr", "mota")
COUNTS = ("objects", "switches", "misses", "false_positives")
Part = tuple[IdentityScores, list[float]]  # of one film, and the milliseconds of each update


@dataclass(frozen=True)
class Found:
    """The instances of one frame beside the truth."""

    instances: Instances
    iou: NDArray[np.float32]  # [T, N]


@dataclass(frozen=True)
class Frame:
    identities: NDArray[np.int64]  # [T]
    counts: NDArray[np.bool_]  # [T] whether enough of the object is visible
    found: dict[str, Found]  # by the kind of instances


@dataclass(frozen=True)
class Row:
    instances: str
    speed: float
    frames: str
    overlap: str
    films: int
    objects: int
    idf1: float
    idp: float
    idr: float
    mota: float
    switches: int
    misses: int
    false_positives: int
    update_ms: float  # median


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10, 16)))
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--model", type=Path, default=ASSET)
    parser.add_argument("-o", "--output", type=Path, help="path without suffix: .csv and .json")
    options = parser.parse_args()
    rows = []
    for speed in SPEEDS:
        parts: dict[tuple[str, str, str], list[Part]] = {}
        for seed in options.seeds:
            frames = film(seed, speed, options.seconds, options.model)
            for key in product(KINDS, RATES, TRACKERS):
                parts.setdefault(key, []).append(measure(frames, *key))
            print(f"film {seed} at speed {speed:g} done", file=sys.stderr)
        rows += [summary(speed, *key, each) for key, each in parts.items()]
    busy = {overlap: busy_update_ms(overlap) for overlap in TRACKERS}
    print(*table(rows), sep="\n")
    print(f"20 instances and 20 tracks at 448x768, ms (median): {busy}")
    if options.output:
        write(options, rows, busy)
    return 0


def film(seed: int, speed: float, seconds: float, model: Path) -> list[Frame]:
    """A film with both kinds of instances."""
    animation = SceneAnimation(seed, SIZE)
    scenes = [animation.frame(k / FPS * speed)[1] for k in range(round(seconds * FPS))]
    largest: dict[int, int] = {}
    for scene in scenes:
        for identity, area in zip(identities(scene), areas(scene), strict=True):
            largest[identity] = max(largest.get(identity, 0), area)
    rng = np.random.default_rng(seed)
    frames = []
    with open_predictor(model, threads=1) as predictor:
        for scene in scenes:
            seen = {
                FAULTY: with_faults(scene, largest, rng),
                MODEL: predictor(scene.image).at_least(LOW_SCORE),
            }
            found = {kind: Found(each, overlap(scene, each)) for kind, each in seen.items()}
            counts = np.array(areas(scene)) >= MIN_AREA
            frames.append(Frame(np.array(identities(scene)), counts, found))
    return frames


def identities(scene: Scene) -> list[int]:
    assert scene.identities is not None
    return [int(identity) for identity in scene.identities]


def areas(scene: Scene) -> list[int]:
    return [int(np.count_nonzero(mask)) for mask in scene.masks]


def overlap(scene: Scene, instances: Instances) -> NDArray[np.float32]:
    """IoU [T, N] of the true masks and those found, in pixels."""
    truth = scene.masks.reshape(len(scene.masks), SIZE[0] * SIZE[1]).astype(np.float32)
    found = np.array([_whole(region) for region in instances.regions()], dtype=np.float32)
    found = found.reshape(len(instances), SIZE[0] * SIZE[1])
    common = truth @ found.T
    union = truth.sum(axis=1)[:, None] + found.sum(axis=1) - common
    iou: NDArray[np.float32] = common / np.maximum(union, 1.0)
    return iou


def _whole(region: Any) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, dtype=np.bool_)
    rows, columns = region.mask.shape
    mask[region.top : region.top + rows, region.left : region.left + columns] = region.mask
    return mask


def with_faults(scene: Scene, largest: dict[int, int], rng: np.random.Generator) -> Instances:
    """What a middling model would find: the less is visible of an object, the worse."""
    masks, labels, scores = [], [], []
    for mask, label, identity, area in zip(
        scene.masks, scene.labels.tolist(), identities(scene), areas(scene), strict=True
    ):
        visible = area / largest[identity]
        if area < 30 or rng.random() < 0.06 + 0.3 * max(0.0, 0.5 - visible):
            continue
        outline = trembling(mask, rng)
        if outline.any():
            masks.append(outline)
            labels.append(int(rng.integers(len(CLASS_NAMES))) if rng.random() < 0.02 else label)
            scores.append(float(np.clip(0.25 + 0.55 * visible + rng.normal(0, 0.12), 0.05, 0.99)))
    if rng.random() < 0.15:
        masks.append(spot(rng))
        labels.append(int(rng.integers(len(CLASS_NAMES))))
        scores.append(float(rng.uniform(0.1, 0.45)))
    order = np.argsort(-np.array(scores), kind="stable")
    return Instances(
        np.array(scores)[order],
        np.array(labels, dtype=np.int64)[order],
        np.array(masks, dtype=np.bool_).reshape(-1, *SIZE)[order],
        class_names=CLASS_NAMES,
        image_size=SIZE,
    )


def trembling(mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A mask up to two pixels off, a pixel thicker or thinner, and one in twenty cut in half."""
    import cv2

    pixels, square = mask.astype(np.uint8), np.ones((3, 3), np.uint8)
    change = int(rng.integers(3))
    if change:
        pixels = np.asarray((cv2.erode if change == 1 else cv2.dilate)(pixels, square))
    right, down = rng.integers(-2, 3, 2).tolist()
    moved = cv2.warpAffine(pixels, np.array([[1.0, 0, right], [0, 1.0, down]]), SIZE[::-1])
    moved = np.asarray(moved)
    if rng.random() < 0.05 and moved.any():
        moved[:, int(np.median(np.nonzero(moved)[1])) :] = 0
    return moved.astype(np.bool_)


def spot(rng: np.random.Generator) -> NDArray[np.bool_]:
    """A false alarm."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    down, right = rng.integers(20, 236, 2).tolist()
    inside: NDArray[np.bool_] = np.hypot(rows - down, columns - right) <= rng.uniform(6, 20)
    return inside


def taken(rate: str, count: int) -> list[int]:
    """Which frames of a film of 30 FPS the tracker sees."""
    if rate != "dropouts":
        return list(range(0, count, FPS // int(rate.split()[0])))
    rng = np.random.default_rng(1)
    kept = rng.random(count) > 0.3
    for start in rng.integers(0, count, 4).tolist():
        kept[start : start + FPS // 2] = False
    return [int(index) for index in np.flatnonzero(kept)]


def measure(film: list[Frame], kind: str, rate: str, overlap: Any) -> Part:
    tracker, metrics, times_ms = MaskTracker(overlap=overlap), IdentityMetrics(), []
    for index in taken(rate, len(film)):
        frame = film[index]
        found = frame.found[kind]
        start_s = time.thread_time()
        tracked = tracker.update(found.instances, index / FPS)
        times_ms.append(1000.0 * (time.thread_time() - start_s))
        ids, counts = tracked.track_ids, frame.counts
        assert ids is not None
        matches = found.iou >= 0.5
        # Who finds an object that is too small to count has made no mistake.
        extra = matches[~counts].any(axis=0) & ~matches[counts].any(axis=0)
        used = (ids > 0) & ~extra
        metrics.add(frame.identities[counts], ids[used], found.iou[np.ix_(counts, used)])
    return metrics.scores(), times_ms


def summary(speed: float, kind: str, rate: str, overlap: str, parts: list[Part]) -> Row:
    """Shares are means of the films, counts are sums."""
    scores = [score for score, _ in parts]
    total = {name: sum(getattr(score, name) for score in scores) for name in COUNTS}
    mean = {name: round(statistics.mean(getattr(s, name) for s in scores), 4) for name in SHARES}
    update_ms = round(statistics.median(ms for _, times_ms in parts for ms in times_ms), 3)
    return Row(kind, speed, rate, overlap, len(parts), update_ms=update_ms, **total, **mean)


def busy_update_ms(overlap: Any) -> float:
    """The median time of an update with 20 instances of a 448x768 input and 20 tracks."""
    rows, columns = np.mgrid[:112, :192]
    rng = np.random.default_rng(0)
    centres = [(14 + 28 * (k // 5), 19 + 38 * (k % 5)) for k in range(20)]
    geometry = Geometry((720, 1280), (432, 768), (448, 768))
    tracker, times_ms = MaskTracker(overlap=overlap), []
    for index in range(300):
        probabilities = np.empty((20, 112, 192), dtype=np.float32)
        for plane, (row, column) in zip(probabilities, centres, strict=True):
            down, right = rng.normal((row, column), 0.3)
            plane[:] = np.hypot((rows - down) / 16, (columns - right) / 21) < 1
        instances = Instances(
            np.linspace(0.9, 0.5, 20), np.zeros(20), LazyMasks(probabilities, geometry),
            class_names=("thing",), image_size=(720, 1280),
        )  # fmt: skip
        start_s = time.thread_time()
        tracked = tracker.update(instances, index / FPS)
        times_ms.append(1000.0 * (time.thread_time() - start_s))
    assert tracked.track_ids is not None
    assert (tracked.track_ids > 0).all()
    return round(statistics.median(times_ms), 3)


def table(rows: list[Row]) -> list[str]:
    """Both trackers side by side."""
    lines = []
    for mask, box in zip(rows[::2], rows[1::2], strict=True):
        shares = [f"{getattr(each, name):.3f}" for name in ("idf1", "mota") for each in (mask, box)]
        counts = [mask.switches, box.switches, mask.update_ms, box.update_ms]
        lines.append(
            [f"{mask.instances}, {mask.frames}, {mask.speed:g}x", *shares, *map(str, counts)]
        )
    heads = [f"{name}, {by}" for name in ("IDF1", "MOTA", "switches", "ms") for by in TRACKERS]
    return markdown_table(["instances, frames, speed", *heads], lines)


def write(options: argparse.Namespace, rows: list[Row], busy: dict[str, float]) -> None:
    path: Path = options.output
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Row)])
        writer.writeheader()
        writer.writerows(map(dataclasses.asdict, rows))
    what = {
        "seeds": options.seeds,
        "seconds": options.seconds,
        "model": options.model.name,
        "update_ms_of_20_instances_and_20_tracks_at_448x768": busy,
        "environment": environment.describe(),
    }
    write_json(path.with_name(path.name + ".json"), what)


if __name__ == "__main__":
    sys.exit(main())
