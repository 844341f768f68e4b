"""Suggestions rest on the assignment that training uses, and follow from the objects alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_edge.cli.parser import parse_assignments
from solo_edge.config import PRESETS, ModelConfig, preset
from solo_edge.data.augment import plain_sample
from solo_edge.data.coco import CocoDataset, open_dataset
from solo_edge.data.masks import GroundTruth
from solo_edge.errors import DataError, UsageError
from solo_edge.images import read_image
from solo_edge.preprocess import Preprocess
from solo_edge.suggest import GRID_HEADER, INPUT_HEADER, suggest
from solo_edge.suggest_chart import draw_chart, draw_report
from solo_edge.suggest_figures import count_cells, place_image
from solo_edge.targets import assign_targets


def squares(size: tuple[int, int], corners: list[tuple[int, int]], side: int) -> GroundTruth:
    regions = [((x, y, x + side, y + side), np.ones((side, side), np.uint8), 0) for x, y in corners]
    return GroundTruth.from_regions(size, regions)


def dataset_of(folder: Path, truths: list[GroundTruth]) -> CocoDataset:
    """Boxes as polygons; the pictures themselves are never looked at."""
    images, annotations = [], []
    (folder / "train").mkdir(parents=True)
    for i, truth in enumerate(truths, start=1):
        height, width = truth.image_size
        Image.new("L", (1, 1)).save(folder / f"train/{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        for a, b, c, d in truth.boxes.tolist():
            polygon = [a, b, c, b, c, d, a, d]
            common = {"id": len(annotations) + 1, "image_id": i, "category_id": 1}
            annotations.append({**common, "segmentation": [polygon], "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (folder / "train.json").write_text(json.dumps(content))
    return open_dataset(folder, "train")


def test_claims_are_those_of_training(shared: Path) -> None:
    config = preset("solov2-light-r18-448", num_classes=1, input_size=(320, 320))
    dataset = open_dataset(shared / "data/nuclei_dsb2018", "val")
    for index in range(0, len(dataset), 23):
        truth = dataset.ground_truth(index)
        image = np.zeros((*truth.image_size, 3), np.uint8)
        sample = plain_sample(image, truth, Preprocess.from_config(config), 0)
        targets = assign_targets(sample.masks, sample.boxes, sample.labels, config)
        placed = place_image(truth, config.input_size)
        np.testing.assert_array_equal(placed.boxes, sample.boxes)
        seen = targets.masks.any(axis=(1, 2))
        np.testing.assert_array_equal(placed.is_seen, seen)

        cells_of = {n: targets.cells[targets.instances == n] for n in range(len(seen)) if seen[n]}
        users = np.bincount(np.concatenate(list(cells_of.values())), minlength=config.num_cells)
        crowded = sum(bool(len(c)) and not (users[c] == 1).any() for c in cells_of.values())
        outside = len(truth) - sum(bool(len(cells)) for cells in cells_of.values())
        figures = count_cells([placed], len(truth), config)
        assert figures.crowded == pytest.approx(crowded / len(truth))
        assert figures.outside == pytest.approx(outside / len(truth))


def one_grid(size: int, low: float = 1, high: float = 1000) -> ModelConfig:
    return preset("solov2-nano-256", levels=(3,), grid_sizes=(size,), scale_ranges=((low, high),))


def test_objects_that_share_a_cell_are_crowded_out() -> None:
    # Cells of 64 pixels; boxes of 20 whose centres lie 2 pixels apart, and one elsewhere.
    truth = squares((256, 256), [(20, 20), (22, 20), (150, 150)], 20)
    figures = count_cells([place_image(truth, (256, 256))], 3, one_grid(4))
    assert figures.outside == 0
    assert figures.crowded == pytest.approx(2 / 3)
    assert figures.recall_bound == pytest.approx(2 / 3)
    finer = count_cells([place_image(truth, (256, 256))], 3, one_grid(128))
    assert finer.lost == 0
    assert finer.recall_bound == 1


def test_objects_in_no_range_are_outside() -> None:
    truth = squares((256, 256), [(20, 20), (150, 150)], 20)
    placed = [place_image(truth, (256, 256))]
    assert count_cells(placed, 2, one_grid(16, 1, 19)).outside == 1
    assert count_cells(placed, 2, one_grid(16, 1, 20)).outside == 0
    assert count_cells(placed, 2, one_grid(16, 1, 20)).busy_levels == 1


def test_the_largest_matching_is_the_largest() -> None:
    from solo_edge.suggest_figures import _largest_matching

    rng = np.random.default_rng(0)
    for _ in range(60):
        owners = rng.integers(0, 5, 9)
        cells = rng.integers(0, 5, 9)
        edges = {(o, c) for o, c in zip(owners.tolist(), cells.tolist(), strict=True)}
        best = max(
            sum((o, c) in edges for o, c in enumerate(order))
            for order in itertools.permutations(range(5))
        )
        assert _largest_matching(cells, owners) == best


def test_shapes_are_kept_or_lost_by_size() -> None:
    # Boxes on the blocks of 4 x 4 pixels survive; single pixels vanish.
    kept = place_image(squares((256, 256), [(16, 16)], 16), (256, 256))
    assert kept.keeps_shape.all()
    assert kept.is_seen.all()
    gone = place_image(squares((256, 256), [(17, 17), (0, 0), (255, 255)], 1), (256, 256))
    assert not gone.is_seen.any()
    assert not gone.keeps_shape.any()


def test_few_large_objects_need_no_more_than_the_smallest_preset(tmp_path: Path) -> None:
    truths = [squares((480, 480), [(20, 20), (300, 250)], 120)] * 3
    found = suggest(dataset_of(tmp_path, truths))
    assert found.config.name == "solov2-nano-256"
    assert found.config.input_size == (256, 256)
    assert found.config.grid_sizes == PRESETS["solov2-nano-256"].grid_sizes
    assert found.chosen.figures.lost == 0
    assert found.chosen is found.grids[0]
    assert found.command(Path("my data"))[:6] == [
        "solo-edge", "train", "--data", "my data", "--model", "solov2-nano-256",
    ]  # fmt: skip


def test_a_crowd_of_small_objects_gets_finer_grids_and_smaller_ranges(tmp_path: Path) -> None:
    corners = [(x, y) for x in range(4, 500, 13) for y in range(4, 500, 13)]
    dataset = dataset_of(tmp_path, [squares((512, 512), corners, 11)] * 2)
    found = suggest(dataset)
    own, chosen = found.grids[0], found.chosen
    assert own.is_preset
    assert own.figures.lost > 0.2
    assert chosen.figures.lost < own.figures.lost / 2
    assert chosen.grid_sizes[0] > own.grid_sizes[0]
    assert chosen.scale_ranges[0][1] < own.scale_ranges[0][1]
    assert found.input_rows()
    assert any("--max-instances 1521" in line for line in found.reasons)

    words = found.command(Path("data"))
    assignments = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    again = preset(words[words.index("--model") + 1], **parse_assignments(assignments, ModelConfig))
    assert again == found.config


def test_a_preset_can_be_kept_and_the_input_limited(tmp_path: Path) -> None:
    corners = [(x, y) for x in range(0, 1000, 40) for y in range(0, 700, 40)]
    dataset = dataset_of(tmp_path, [squares((800, 1200), corners, 7)])
    found = suggest(dataset, preset_name="solov2-light-mbv2-448", max_pixels=100_000)
    assert found.config.name == "solov2-light-mbv2-448"
    assert found.config.input_size == (256, 384)
    assert "--max-pixels" in found.reasons[0]
    assert suggest(dataset).config.input_size == (448, 672)
    tall = dataset_of(tmp_path / "tall", [squares((1200, 800), [(0, 0)], 300)])
    assert suggest(tall).config.input_size == (384, 256)


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [GroundTruth.from_regions((50, 50), [])])
    with pytest.raises(DataError, match="no objects"):
        suggest(dataset)


def test_reports(tmp_path: Path) -> None:
    found = suggest(dataset_of(tmp_path / "a<b>", [squares((300, 300), [(9, 9), (200, 9)], 60)]))
    json.dumps(found.to_dict(), allow_nan=False)
    for rows, header in ((found.input_rows(), INPUT_HEADER), (found.grid_rows(), GRID_HEADER)):
        assert {len(row) for row in rows} == {len(header)}
        assert sum("<-" in row[0] for row in rows) == 1
    picture = np.asarray(draw_chart(found))
    assert picture.shape[1] == 1280
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    draw_report(found, tmp_path / "why.png", "solo-edge train")
    assert read_image(tmp_path / "why.png").shape == picture.shape
    draw_report(found, tmp_path / "why.html", "solo-edge train --data '<x>'")
    page = (tmp_path / "why.html").read_text()
    assert "&lt;x&gt;" in page
    assert "a&lt;b&gt;" in page
    assert "<b>" not in page
    assert "http" not in page
    with pytest.raises(UsageError, match=r"ends in \.png or \.html"):
        draw_report(found, tmp_path / "why.pdf", "")
