"""The commands about data: exit codes, what they print, what they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from solo_edge.cli import main
from solo_edge.images import image_size


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 rendered scenes in one split."""
    assert (
        main(["make-dataset", str(tmp_path / "made"), "--images", "20", "--val-images", "4"]) == 0
    )
    return tmp_path / "made"


def spoil(data: Path) -> None:
    content = json.loads((data / "train.json").read_text())
    content["annotations"][0]["category_id"] = 99
    content["annotations"][1]["segmentation"] = [[1, 2, 3]]
    (data / "train.json").write_text(json.dumps(content))


def test_a_correct_set(data: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["check-data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "COCO" in shown
    assert "0 errors, 0 warnings, 0 notes" in shown
    assert "20 images" in shown


def test_errors_have_an_exit_code_and_a_cure(data: Path, tmp_path: Path, capsys) -> None:
    spoil(data)
    out, report = tmp_path / "clean", tmp_path / "report.json"
    assert main(["check-data", str(data), "--json", str(report), "--fix-to", str(out)]) == 3
    shown = capsys.readouterr().out
    assert "[category-id-unknown]" in shown
    assert "[polygon-odd]" in shown
    assert "2 errors" in shown
    assert json.loads(report.read_text())["errors"] == 2
    assert main(["check-data", str(out), "--images", "headers"]) == 0
    assert main(["check-data", str(out), "--split", "val"]) == 0


def test_json_on_standard_output(data: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["check-data", str(data), "--json", "-", "--images", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "COCO"


def test_training_refuses_the_same_errors(data: Path, tmp_path: Path, capsys) -> None:
    spoil(data)
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run")]) == 3
    shown = capsys.readouterr().err
    assert "[category-id-unknown] (and 1 x polygon-odd)" in shown
    assert "solo-edge check-data" in shown
    assert "Traceback" not in shown


def test_a_copy_into_the_data_set_is_refused_before_the_work(data: Path, capsys) -> None:
    assert main(["check-data", str(data), "--fix-to", str(data / "clean")]) == 2
    assert "never written to" in capsys.readouterr().err
    assert main(["check-data", str(data), "--images", "all"]) == 2
    assert main(["check-data", str(data), "--split", "nothing"]) == 2


def test_split(data: Path, tmp_path: Path, capsys) -> None:
    assert main(["split", str(data), "-o", str(tmp_path / "out")]) == 2
    assert "divided already (train, val)" in capsys.readouterr().err
    words = ["split", str(data), "-o", str(tmp_path / "out"), "--split", "train", "--val", "0.25"]
    assert main([*words, "--test", "0.25", "--link"]) == 0
    shown = capsys.readouterr().out
    assert "images" in shown
    assert shown.strip().endswith("out")
    sizes = {
        split: len(json.loads((tmp_path / f"out/{split}.json").read_text())["images"])
        for split in ("train", "val", "test")
    }
    assert sum(sizes.values()) == 20
    assert sizes["train"] >= 9
    assert main([*words[:2], "-o", str(tmp_path / "x"), "--split", "train", "--val", "1"]) == 2


def test_suggest(data: Path, tmp_path: Path, capsys) -> None:
    capsys.readouterr()
    picture, figures = tmp_path / "why.png", tmp_path / "why.json"
    assert main(["suggest", str(data), "-o", str(picture), "--json", str(figures)]) == 0
    shown = capsys.readouterr().out
    command = shown.strip().splitlines()[-1]
    assert command.startswith(f"solo-edge train --data {data} --model solov2-")
    assert image_size(picture)[1] == 1280
    assert json.loads(figures.read_text())["command"][:2] == ["solo-edge", "train"]
    assert main(["suggest", str(data), "-o", str(tmp_path / "why.pdf")]) == 2
    assert main(["suggest", str(data), "--split", "test"]) == 2
