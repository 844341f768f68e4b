"""An INT8 engine shows what it costs, or is not written; layers that hurt stay in float."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import solo_edge
from solo_edge.accuracy_gate import AccuracyGate
from solo_edge.cli import main
from solo_edge.data.coco import open_dataset
from solo_edge.errors import AccuracyError, ArtifactError
from solo_edge.evaluate import matched_iou
from solo_edge.export.build import build_engine
from solo_edge.manifest import read_manifest

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
HURT = "model.head.category_convs.1.conv.weight"


@pytest.fixture(scope="module")
def bad_ranges(ranges, tmp_path_factory):
    """One layer reads a tensor whose range is a hundredth of what it should be."""
    folder = tmp_path_factory.mktemp("bad")
    values = json.loads(ranges.read_text())
    sites = [site for site in values["limits"] if site.startswith(f"{HURT}[")]
    assert sites
    for site in sites:
        values["limits"][site] /= 300
    path = folder / "ranges.json"
    path.write_text(json.dumps(values))
    return path


def build(out, ranges, gate):
    return build_engine(
        MODEL, out, backend="openvino", precision="int8", ranges=ranges, accept=gate
    )


def test_the_manifest_says_what_int8_cost(scenes, ranges, tmp_path):
    lines = []
    gate = AccuracyGate(open_dataset(scenes, "val"), 5.0, report=lines.append)
    manifest = read_manifest(build(tmp_path / "a.engine", ranges, gate).path)
    found = manifest.quantization
    assert found is not None
    assert manifest.measured is not None
    assert (found.method, found.images, found.excluded) == ("entropy", 36, ())
    assert found.float_share == 0
    assert found.float_ap == pytest.approx(manifest.measured.mask_ap, abs=0.05)
    assert found.float_ap > 0.4
    assert 0.9 < found.mask_iou < 1
    assert len(found.images_sha256) == 64
    assert "mask AP" in lines[0]
    assert len(gate.verdicts) == 1


def test_without_a_gate_the_manifest_has_the_calibration_alone(ranges, tmp_path):
    manifest = read_manifest(build(tmp_path / "a.engine", ranges, None).path)
    assert manifest.measured is None
    assert manifest.quantization is not None
    assert manifest.quantization.float_ap is None
    assert manifest.quantization.images == 36


def test_the_guilty_layer_is_named_and_stays_in_float(scenes, bad_ranges, tmp_path):
    lines = []
    gate = AccuracyGate(open_dataset(scenes, "val"), 2.0, report=lines.append)
    manifest = read_manifest(build(tmp_path / "a.engine", bad_ranges, gate).path)
    assert manifest.quantization is not None
    assert HURT in manifest.quantization.excluded
    assert 0 < manifest.quantization.float_share <= 0.5
    lost = 100 * (manifest.quantization.float_ap - manifest.measured.mask_ap)
    assert lost <= 2.0
    assert 100 * (gate.verdicts[0].float_ap - gate.verdicts[0].int8_ap) > 2.0
    ranking = lines[lines.index("what hurts most for its work, alone in INT8:") + 1 :]
    assert any("head.category_convs.1.conv (" in line for line in ranking[:3])
    assert "head.category_convs.1.conv" in lines[-1]


@pytest.mark.slow
def test_without_retry_the_ranking_is_all_there_is(scenes, bad_ranges, tmp_path):
    lines = []
    gate = AccuracyGate(open_dataset(scenes, "val"), 2.0, retry=False, report=lines.append)
    with pytest.raises(AccuracyError, match=r"int8 costs \d+\.\d\d points .* allowed are 2"):
        build(tmp_path / "a.engine", bad_ranges, gate)
    assert any("what hurts most" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_ranges_may_exclude_layers_and_unknown_ones_are_named(ranges, tmp_path):
    values = json.loads(ranges.read_text())
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps({**values, "excluded": [HURT]}))
    manifest = read_manifest(build(tmp_path / "a.engine", path, None).path)
    assert manifest.quantization.excluded == (HURT,)
    path.write_text(json.dumps({**values, "excluded": ["model.head.nothing"]}))
    with pytest.raises(ArtifactError, match="no convolution has the weight"):
        build(tmp_path / "b.engine", path, None)


@pytest.mark.slow
def test_sensitivity_reports_every_layer(scenes, bad_ranges, tmp_path, capsys):
    words = ["sensitivity", MODEL, "--calib", bad_ranges, "--eval", scenes, "--ap-layers", "2"]
    assert main([*map(str, words), "-o", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert report["schema"] == 1
    assert report["float_ap"] > report["int8_ap"]
    layers = report["layers"]
    assert len(layers) > 60
    assert sum(each["work"] for each in layers) == pytest.approx(1)
    assert [each["ap_points"] is not None for each in layers[:4]] == [True, True, False, False]
    guilty = next(each for each in layers if each["layer"] == "head.category_convs.1.conv")
    worst = min(layers, key=lambda each: each["sqnr_db"]["category_scores"] or 1e9)
    assert worst is guilty
    assert guilty["sqnr_db"]["mask_features"] is None
    assert all(each["float_ms"] > 0 for each in layers)
    assert guilty["layer"] in shown
    assert (tmp_path / "report/report.md").read_text().count("\n|") == len(layers) + 2
    assert len((tmp_path / "report/report.csv").read_text().splitlines()) == len(layers) + 1


def result(image, category, counts, score=0.9):
    segmentation = {"size": [4, 4], "counts": counts}
    return {
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "score": score,
    }


def test_matched_iou_by_hand():
    import numpy as np
    from faster_coco_eval import mask

    def encoded(columns):
        array = np.zeros((4, 4), dtype=np.uint8, order="F")
        array[:, :columns] = 1
        return mask.encode(array)["counts"].decode()

    one, two, three = map(encoded, (1, 2, 3))
    assert matched_iou([], [result(1, 1, one)]) == 1
    assert matched_iou([result(1, 1, two)], [result(1, 1, two)]) == 1
    assert matched_iou([result(1, 1, two)], [result(1, 1, one), result(1, 1, three)]) == (
        pytest.approx(2 / 3)
    )
    assert matched_iou([result(1, 1, two)], [result(1, 2, two), result(2, 1, two)]) == 0
    unsure = result(1, 1, one, 0.1)
    assert matched_iou([unsure, result(1, 1, two)], [result(1, 1, two, 0.1)]) == 1


@pytest.mark.slow
def test_sensitivity_calibrates_with_a_folder_itself(scenes, tmp_path):
    words = ["sensitivity", MODEL, "--calib", scenes, "--eval", scenes, "--ap-layers", "1"]
    words += ["--max-images", "2", "-o", tmp_path / "report.json"]
    assert main([*map(str, words)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["images"] == 2
    assert report["method"] == "entropy"
