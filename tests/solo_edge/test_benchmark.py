"""The arithmetic, the order of the race and the three files of a report."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from solo_edge import benchmark as module
from solo_edge.benchmark import STAGES, benchmark, percentiles, rate
from solo_edge.cold_start import ColdStart
from solo_edge.errors import ResourceError, UsageError
from solo_edge.instances import Instances
from solo_edge.preprocess import Preprocess
from solo_edge.report import HEADER, table_row

SIZE = (40, 60)


class Data:
    """Four images with one square each."""

    split = "val"
    class_names = ("square",)
    category_ids = (5,)
    image_ids = (11, 12, 13, 14)

    def __init__(self, folder):
        self.path = folder
        for i in range(4):
            (folder / f"{i}.png").write_bytes(b"image")

    def __len__(self):
        return 4

    def image_path(self, index):
        return self.path / f"{index}.png"

    def image(self, index):
        return np.full((*SIZE, 3), index, np.uint8)

    def coco_dict(self):
        square = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]
        return {
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in self.image_ids],
            "annotations": [
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 5,
                    "segmentation": square,
                    "area": 400.0,
                    "bbox": [10, 10, 20, 20],
                    "iscrowd": 0,
                }
                for i in self.image_ids
            ],
            "categories": [{"id": 5, "name": "square"}],
        }


@dataclass
class FakeEngine:
    """Finds the square, in a time of its own choice."""

    name: str
    calls: list
    network_ms: list
    backend = "openvino"
    precision = "fp32"
    graph = "network"
    class_names = ("square",)
    manifest = object()
    preprocess = Preprocess((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def run(self, image):
        self.calls.append((self.name, int(image[0, 0, 0])))
        mask = np.zeros((1, *SIZE), bool)
        mask[0, 10:30, 10:30] = True
        found = Instances([0.9], [0], mask, class_names=self.class_names, image_size=SIZE)
        times = SimpleNamespace(
            preprocess_ms=1.0, network_ms=self.network_ms[len(self.calls) % 2], postprocess_ms=2.0
        )
        return found, times

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def race(monkeypatch, tmp_path):
    """Run a benchmark of fake engines: (data folder, calls in order, run)."""
    calls: list = []
    folder = tmp_path / "data"
    folder.mkdir()
    engines = {}
    for name, network_ms in (("steady", [10.0, 10.0]), ("shaky", [8.0, 12.0])):
        path = tmp_path / f"{name}.engine"
        path.mkdir()
        (path / "model.onnx").write_bytes(b"x" * 1000)
        engines[path] = FakeEngine(name, calls, network_ms)
    monkeypatch.setattr(module, "measure", lambda *_: ColdStart(100.0, 20.0, 450.0, 2**28))
    fake = SimpleNamespace(open_predictor=lambda path, **_: engines[path])
    monkeypatch.setitem(sys.modules, "solo_edge.runtime.engine", fake)

    def run(**options):
        return benchmark(list(engines), Data(folder), tmp_path / "out", warmup=2, **options)

    return SimpleNamespace(run=run, calls=calls, out=tmp_path / "out", folder=folder)


def test_engines_take_turns_after_their_warm_up(race):
    race.run()
    warm = [("steady", 0), ("steady", 1), ("shaky", 0), ("shaky", 1)]
    turns = [
        *(("steady", 0), ("shaky", 0)),
        *(("shaky", 1), ("steady", 1)),
        *(("steady", 2), ("shaky", 2)),
        *(("shaky", 3), ("steady", 3)),
    ]
    assert race.calls == warm + turns


def test_progress_reaches_the_total(race):
    seen = []
    race.run(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 8) for i in range(1, 9)]


def test_speed_and_accuracy_stand_in_one_row(race):
    report = race.run()
    steady, shaky = report.rows
    assert steady.stats["AP"] == shaky.stats["AP"] == pytest.approx(1.0)
    assert steady.per_class == {"square": pytest.approx(1.0)}
    assert set(steady.latency_ms) == {*STAGES, "total"}
    assert steady.latency_ms["network"]["p50"] == 10.0
    assert steady.latency_ms["postprocess"]["mean"] == 2.0
    assert steady.size_bytes == 1000
    assert 0 < steady.fps < 1e3 / 13.0  # 13 ms are the engine's, decoding and masks come on top
    total = steady.latency_ms["total"]
    assert total["p50"] >= 13.0
    assert total["p50"] <= total["p90"] <= total["p99"]


def test_noise_is_flagged_in_every_form_of_the_report(race):
    report = race.run()
    steady, shaky = report.rows
    assert steady.network_cv == 0.0
    assert not steady.noisy
    assert shaky.network_cv == pytest.approx(np.std([8, 12, 8, 12], ddof=1) / 10, rel=0.3)
    assert shaky.noisy
    assert "NOISY" in table_row(shaky)[-1]
    assert "NOISY" not in table_row(steady)[-1]
    assert "Not quiet enough to be quoted: shaky.engine." in (race.out / "report.md").read_text()
    rows = json.loads((race.out / "report.json").read_text())["engines"]
    assert [row["noisy"] for row in rows] == [False, True]


def test_files_of_a_report_agree(race):
    report = race.run(thresholds={"score_threshold": 0.2}, threads=1)
    saved = json.loads((race.out / "report.json").read_text())
    assert saved["schema"] == 1
    assert "rows" not in saved
    assert saved["images"] == 4
    assert saved["threads"] == 1
    assert saved["thresholds"] == {"score_threshold": 0.2}
    assert saved["environment"]["cpu"]
    with (race.out / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["engine"] for row in rows] == ["steady.engine", "shaky.engine"]
    for row, full in zip(rows, saved["engines"], strict=True):
        assert float(row["fps"]) == full["fps"]
        assert float(row["AP"]) == full["stats"]["AP"]
        assert float(row["network_p99_ms"]) == full["latency_ms"]["network"]["p99"]
        assert float(row["peak_rss_bytes"]) == full["cold_start"]["peak_rss_bytes"]
    page = (race.out / "report.md").read_text()
    assert all(cell in page for row in report.rows for cell in table_row(row))
    assert len(HEADER) == len(table_row(report.rows[0]))


def test_a_rate_needs_two_images(race):
    with pytest.raises(UsageError, match="two images"):
        race.run(max_images=1)


def test_no_engine_is_refused(race):
    with pytest.raises(UsageError, match="no engine"):
        benchmark([], Data(race.folder), race.out)


def test_a_place_that_cannot_be_written_is_found_before_measuring(race):
    race.out.write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be written"):
        race.run()
    assert race.calls == []


def test_the_rate_counts_intervals():
    # Results at 100, 110, 130, 150 ms: three intervals in 50 ms. The first image's time does not matter.
    assert rate([100.0, 10.0, 20.0, 20.0]) == pytest.approx(60.0)
    assert rate([5.0, 10.0, 20.0, 20.0]) == pytest.approx(60.0)


def test_percentiles_are_those_of_numpy():
    values = list(np.random.default_rng(0).gamma(3.0, 2.0, 101))
    found = percentiles(values)
    assert found["p50"] == sorted(values)[50]
    assert found["p90"] == sorted(values)[90]
    assert found["p99"] == sorted(values)[99]
    assert found["mean"] == pytest.approx(sum(values) / 101)
