"""What a stream costs besides network and decoding, and whether its stages overlap.

    OMP_NUM_THREADS=1 python benchmarks/pipeline.py [-o results/NAME]

The frames are rendered beforehand and the network's outputs recorded, so that decoding and network cost
nothing, while everything else is what a stream does: preprocessing, post-processing, tracking, drawing,
JSON Lines, and handing frames from thread to thread. `overhead` feeds 30 frames per second, as a camera
does. `throughput` makes one stage at a time the slowest, by waiting, and compares the stream with that
stage called in a loop. `age` is how old the frames of such a camera are when a network of 5 FPS starts
with them. Drawing alone, beside supervision's, is in drawing.py.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import functools
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import solo_edge
from solo_edge import environment
from solo_edge.data.synthetic import SceneAnimation
from solo_edge.files import write_json
from solo_edge.report import markdown_table
from solo_edge.runtime.base import Runner
from solo_edge.runtime.engine import Engine, open_predictor
from solo_edge.video.base import Frame, Source
from solo_edge.video.clock import now
from solo_edge.video.pipeline import stream
from solo_edge.video.result import ProcessedFrame, Sink

ASSET = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
SIZE = (720, 1280)
INSTANCES = 10
SCORE = 0.3
KEPT_FRAMES = 16  # that are shown again and again
CAMERA_FPS, SLOW_FPS = 30.0, 5.0


class Recorded(Runner):
    """Answers with what a network has answered before, after `wait_s`."""

    lasting = True

    def __init__(self, runner: Runner, outputs: dict[str, NDArray[Any]], wait_s: float):
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._answer, self.wait_s = outputs, wait_s

    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        wait(self.wait_s)
        return self._answer

    def close(self) -> None:
        pass


class Pictures(Source):
    """Frames that are in memory; one every 1 / `fps` seconds, or as fast as they are taken."""

    def __init__(self, pictures: list[NDArray[np.uint8]], count: int, fps: float | None):
        super().__init__()
        self.name, self.live, self.fps = "memory", False, fps
        self.size, self.frame_count = SIZE, count
        self._pictures = pictures

    def _read(self) -> Generator[Frame, None, None]:
        start_s = now()
        for index in range(self.frame_count or 0):
            at_s = index / (self.fps or CAMERA_FPS)
            if self.fps:
                wait(start_s + at_s - now())
            yield Frame(self._pictures[index % len(self._pictures)], index, at_s)


class Overlay(Sink):
    """Wants everything drawn, and takes `wait_s`."""

    name, wants_overlay = "overlay", True

    def __init__(self, wait_s: float = 0.0):
        self.wait_s, self.instances = wait_s, 0

    def write(self, result: ProcessedFrame) -> None:
        assert result.overlay is not None
        self.instances += len(result.instances)
        wait(self.wait_s)

    def close(self) -> None:
        pass


def wait(seconds: float) -> None:
    if seconds > 0:
        time.sleep(seconds)


def recorded_engine(engine: Engine, pictures: list[NDArray[np.uint8]], wait_s: float) -> Engine:
    """`engine` with the network's outputs for the picture in which it finds most instances.

    Raises:
        SystemExit: it finds fewer than INSTANCES in each.
    """
    counts = [len(engine(picture).at_least(SCORE)) for picture in pictures]
    if max(counts) < INSTANCES:
        raise SystemExit(f"the model finds {max(counts)} instances at most, not {INSTANCES}")
    prepared, _ = engine.preprocess(pictures[int(np.argmax(counts))])
    outputs = engine.runner.infer({"image": prepared[np.newaxis]})
    outputs = {name: values.copy() for name, values in outputs.items()}
    return dataclasses.replace(engine, runner=Recorded(engine.runner, outputs, wait_s))


def overhead(
    engine: Engine, pictures: list[NDArray[np.uint8]], frames: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """p50 and p90 of each stage, and the processor's time of the whole process per frame."""
    with tempfile.TemporaryDirectory() as folder:
        sink, before = Overlay(), time.process_time()
        report = stream(
            engine,
            Pictures(pictures, frames, CAMERA_FPS),
            sinks=[sink],
            json_path=Path(folder, "out.jsonl"),
            track=True,
            min_score=SCORE,
        )
        cpu_ms = 1000 * (time.process_time() - before) / frames
    assert report.processed == frames
    assert sink.instances == frames * INSTANCES
    stages = {n: s for n, s in report.stages.items() if n not in ("decode", "network", "overlay")}
    rows = [
        {"stage": name, "p50_ms": stage.p50_ms, "p90_ms": stage.p90_ms, "mean_ms": stage.mean_ms}
        for name, stage in stages.items()
    ]
    total = {
        "sum_of_p50_ms": sum(stage.p50_ms for stage in stages.values()),
        "sum_of_p90_ms": sum(stage.p90_ms for stage in stages.values()),
        "cpu_ms_per_frame": cpu_ms,
    }
    if report.latency is not None:
        total |= {"latency_p50_ms": report.latency.p50_ms, "latency_p90_ms": report.latency.p90_ms}
    return rows, total


def throughput(
    engine: Engine, pictures: list[NDArray[np.uint8]], frames: int, wait_s: float
) -> list[dict[str, Any]]:
    """Each of two stages as the slowest: preprocessing and network, as with a GPU, and a sink."""
    assert isinstance(engine.runner, Recorded)
    rows = []
    for name, network_s, sink_s in (("network", wait_s, 0.0), ("sink", 0.0, wait_s)):
        engine.runner.wait_s = network_s
        sink = Overlay(sink_s)
        network = functools.partial(engine.start, pictures[:1])
        alone = per_second(network if network_s else functools.partial(wait, sink_s), frames)
        report = stream(
            engine, Pictures(pictures, frames, None), sinks=[sink], track=True, min_score=SCORE
        )
        assert report.processed == frames
        assert report.fps is not None
        rows.append(
            {"slowest": name, "alone_fps": alone, "fps": report.fps, "share": report.fps / alone}
        )
    return rows


def frame_age(
    engine: Engine, pictures: list[NDArray[np.uint8]], seconds: float
) -> dict[str, float]:
    """How old frames of a camera are when the inference of a slow network starts; milliseconds."""
    assert isinstance(engine.runner, Recorded)
    engine.runner.wait_s = 1 / SLOW_FPS
    source = Pictures(pictures, round(seconds * CAMERA_FPS), CAMERA_FPS)
    source.live = True
    report = stream(engine, source, sinks=[Overlay()], min_score=SCORE)
    assert report.age is not None
    assert report.captured == report.processed + report.dropped
    return {
        "frames": report.processed,
        "p50_ms": report.age.p50_ms,
        "p99_ms": report.age.p99_ms,
        "max_ms": report.age.max_ms,
        "promised_ms": 1000 / CAMERA_FPS + 20,
    }


def per_second(run: Callable[[], object], count: int) -> float:
    """How often a second `run` can be called."""
    start_s = now()
    for _ in range(count):
        run()
    return count / (now() - start_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--slowest-ms", type=float, default=25.0)
    parser.add_argument("--age-seconds", type=float, default=60.0)
    parser.add_argument("-o", "--out", type=Path, help="stem of .json and .csv")
    values = parser.parse_args()
    animation = SceneAnimation(0, SIZE)
    pictures = [animation.frame(index / CAMERA_FPS)[0] for index in range(KEPT_FRAMES)]
    with open_predictor(ASSET, threads=1, max_instances=INSTANCES) as real:
        engine = recorded_engine(real, pictures, 0.0)
    stages, total = overhead(engine, pictures, values.frames)
    rates = throughput(engine, pictures, values.frames, values.slowest_ms / 1000)
    cells = [[r["stage"], f"{r['p50_ms']:.2f}", f"{r['p90_ms']:.2f}"] for r in stages]
    cells.append(["sum", f"{total['sum_of_p50_ms']:.2f}", f"{total['sum_of_p90_ms']:.2f}"])
    print("\n".join(markdown_table(["ms per frame", "p50", "p90"], cells)))
    print("\n".join(f"{name}: {value:.2f}" for name, value in total.items()))
    for rate in rates:
        print(
            f"{rate['slowest']}: {rate['fps']:.1f} of {rate['alone_fps']:.1f} FPS ({rate['share']:.1%})"
        )
    age = frame_age(engine, pictures, values.age_seconds)
    print("age: " + ", ".join(f"{name} {value:.1f}" for name, value in age.items()))
    if values.out is not None:
        created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        facts = {"created": created, "environment": environment.describe(), "frames": values.frames}
        facts |= {
            "size": SIZE,
            "instances": INSTANCES,
            "overhead": total,
            "throughput": rates,
            "age": age,
        }
        write_json(values.out.with_suffix(".json"), {**facts, "stages": stages})
        with values.out.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(stages[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(stages)


if __name__ == "__main__":
    main()
