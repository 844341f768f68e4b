"""The whole way to an INT8 engine with the shipped model, and every way that it must refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import solo_edge
from solo_edge.calibration.ranges import read_ranges
from solo_edge.cli import main
from solo_edge.data.coco import open_dataset
from solo_edge.errors import AccuracyError, ArtifactError, DataError, UsageError
from solo_edge.export.build import build_engine
from solo_edge.manifest import read_manifest
from solo_edge.quantize import accuracy_gate, calibrate

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """40 pictures to calibrate with, and 6 others."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    assert main(["make-dataset", str(folder), "--images", "40", "--val-images", "6"]) == 0
    return folder


@pytest.fixture(scope="module")
def ranges(scenes, tmp_path_factory):
    lines = []
    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    calibrate(MODEL, open_dataset(scenes, "train"), path, images=36, report=lines.append)
    assert any("only 36 images" in line for line in lines)
    return path


def test_an_int8_engine_finds_what_the_float_engine_finds(scenes, ranges, tmp_path):
    gate = accuracy_gate(open_dataset(scenes, "val"), 5.0)
    built = build_engine(MODEL, tmp_path / "a.engine", precision="int8", ranges=ranges, accept=gate)
    manifest = read_manifest(built.path)
    assert (manifest.backend, manifest.precision) == ("openvino", "int8")
    assert manifest.measured is not None
    assert manifest.measured.mask_ap > 0.4
    assert manifest.measured.images == 6
    with solo_edge.load_engine(built.path) as engine:
        assert len(engine(np.asarray(Image.open(next((scenes / "val").iterdir()))))) > 0


def test_calibration_is_the_same_every_time(scenes, ranges, tmp_path):
    again = calibrate(MODEL, open_dataset(scenes, "train"), tmp_path / "r.json", images=36)
    assert again.read_bytes() == ranges.read_bytes()
    assert len({digest for _, digest in read_ranges(again).images}) == 36


def test_an_engine_that_loses_too_much_is_not_written(scenes, ranges, tmp_path):
    gate = accuracy_gate(open_dataset(scenes, "val"), -100.0)
    out = tmp_path / "a.engine"
    with pytest.raises(AccuracyError, match=r"mask AP 0\.\d+ in fp32, .* allowed are -100"):
        build_engine(MODEL, out, precision="int8", ranges=ranges, accept=gate)
    assert list(tmp_path.iterdir()) == []


def test_images_of_the_evaluation_are_refused(scenes, tmp_path, capsys):
    data = open_dataset(scenes, "train")
    with pytest.raises(DataError, match=r"calibration saw .* an image of the evaluation"):
        calibrate(MODEL, data, tmp_path / "r.json", images=36, evaluation=data)
    copy = tmp_path / "scenes"
    shutil.copytree(scenes / "train", copy / "val")
    shutil.copy(scenes / "train.json", copy / "val.json")
    words = ["build-engine", MODEL, "--precision", "int8", "--calib", scenes, "--eval", copy]
    assert main([*map(str, words), "-o", str(tmp_path / "a.engine")]) == DataError.exit_code
    assert "calibration saw" in capsys.readouterr().err


def test_too_few_images_are_refused(scenes, tmp_path):
    with pytest.raises(DataError, match="at least 32 different images, here are 6"):
        calibrate(MODEL, open_dataset(scenes, "val"), tmp_path / "r.json")


def test_copies_of_one_image_count_once(scenes, tmp_path):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    images = sorted((folder / "train").iterdir())
    for path in images[1:]:
        shutil.copy(images[0], path)
    with pytest.raises(DataError, match="here are 1"):
        calibrate(MODEL, open_dataset(folder, "train"), tmp_path / "r.json")


def test_black_images_are_refused(scenes, tmp_path):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes, folder)
    for i, path in enumerate(sorted((folder / "train").iterdir())):
        with Image.open(path) as image:
            size = image.size
        Image.new("RGB", size, (i, 0, 0)).save(path)
    with pytest.raises(DataError, match="images are of one colour"):
        calibrate(MODEL, open_dataset(folder, "train"), tmp_path / "r.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_sha256": "0" * 64}, "another checkpoint"),
        ({"format": 1}, "format 1"),
        ({"limits": {"image": 0}}, "the range of image is 0"),
        ({"limits": {"image": 1.0}}, "the range of relu is None"),
        ({"limits": 3}, "damaged"),
        ({"preprocess": {}}, "damaged"),
        ({"excluded": 3}, "damaged"),
        ({"excluded": ["model.nothing"]}, "no convolution has the weight"),
        ({"surprise": 1}, "'surprise' is missing or unknown"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(ranges, tmp_path, change, message):
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps({**json.loads(ranges.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        build_engine(MODEL, tmp_path / "a.engine", precision="int8", ranges=path)


def test_ranges_of_another_preprocessing_are_refused_and_the_difference_named(ranges, tmp_path):
    values = json.loads(ranges.read_text())
    values["preprocess"]["pixel_mean"] = [0, 0, 0]
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=r"measured with pixel_mean \[0, 0, 0\], the checkpoint"):
        build_engine(MODEL, tmp_path / "a.engine", precision="int8", ranges=path)


def test_options_that_do_not_go_together_are_named(tmp_path, ranges):
    out = tmp_path / "a.engine"
    with pytest.raises(UsageError, match="int8 needs the ranges"):
        build_engine(MODEL, out, precision="int8")
    with pytest.raises(UsageError, match="nothing else does"):
        build_engine(MODEL, out, ranges=ranges)
    with pytest.raises(UsageError, match="unknown method 'maximum'; did you mean 'max'"):
        calibrate(MODEL, None, out, method="maximum")
    with pytest.raises(UsageError, match="percentile is 50"):
        calibrate(MODEL, None, out, percentile=50)
