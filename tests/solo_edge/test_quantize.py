"""The whole way to an INT8 engine with the shipped model, and every way that it must refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import solo_edge
from solo_edge.accuracy_gate import AccuracyGate
from solo_edge.calibration.folder import ImageFolder
from solo_edge.calibration.ranges import read_ranges
from solo_edge.cli import main
from solo_edge.data.coco import open_dataset
from solo_edge.errors import AccuracyError, ArtifactError, DataError, UsageError
from solo_edge.export.build import build_engine
from solo_edge.manifest import read_manifest
from solo_edge.quantize import calibrate

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"


def test_an_int8_engine_finds_what_the_float_engine_finds(scenes, ranges, tmp_path):
    gate = AccuracyGate(open_dataset(scenes, "val"), 5.0)
    built = build_engine(MODEL, tmp_path / "a.engine", precision="int8", ranges=ranges, accept=gate)
    manifest = read_manifest(built.path)
    assert (manifest.backend, manifest.precision) == ("openvino", "int8")
    assert manifest.measured is not None
    assert manifest.measured.mask_ap > 0.4
    assert manifest.measured.images == 6
    with solo_edge.load_engine(built.path) as engine:
        assert len(engine(np.asarray(Image.open(next((scenes / "val").iterdir()))))) > 0


@pytest.mark.slow
def test_calibration_is_the_same_every_time(scenes, ranges, tmp_path):
    again = calibrate(MODEL, open_dataset(scenes, "train"), tmp_path / "r.json", images=36)
    assert again.read_bytes() == ranges.read_bytes()
    assert len({digest for _, digest in read_ranges(again).images}) == 36


def test_an_engine_that_loses_too_much_is_not_written(scenes, ranges, tmp_path):
    gate = AccuracyGate(open_dataset(scenes, "val"), -100.0, retry=False)
    out = tmp_path / "a.engine"
    with pytest.raises(AccuracyError, match=r"int8 costs .* points of mask AP, allowed are -100"):
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


def test_swapped_channels_are_refused_by_name_unless_allowed(scenes, tmp_path, capsys):
    for path in sorted((scenes / "train").iterdir()):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        (tmp_path / "bgr").mkdir(exist_ok=True)
        Image.fromarray(pixels[..., ::-1]).save(tmp_path / "bgr" / f"{path.stem}.png")
    words = [
        "calibrate",
        str(MODEL),
        "--data",
        str(tmp_path / "bgr"),
        "-o",
        str(tmp_path / "r.json"),
    ]
    assert main(words) == DataError.exit_code
    assert "red and blue look swapped (BGR for RGB)" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()
    assert main([*words, "--allow-unlike"]) == 0
    assert "red and blue look swapped (BGR for RGB)" in capsys.readouterr().err
    assert len(read_ranges(tmp_path / "r.json").images) == 40


def test_a_folder_of_images_alone_will_do_and_every_stage_shows_its_progress(scenes, tmp_path):
    stages, lines = {}, []

    @contextmanager
    def progress(title):
        yield lambda done, total: stages.setdefault(title, []).append((done, total))

    folder = ImageFolder(scenes / "train")
    data = open_dataset(scenes, "val")
    keywords = {"images": 36, "evaluation": data, "report": lines.append, "progress": progress}
    path = calibrate(MODEL, folder, tmp_path / "r.json", **keywords)
    assert len(read_ranges(path).images) == 36
    assert list(stages) == [
        "choosing images",
        "comparing with the evaluation",
        "checking images",
        "calibrating",
        "correcting biases",
    ]
    assert all(steps[-1][0] == steps[-1][1] for steps in stages.values())
    assert lines == ["only 36 images: with fewer than 128, ranges depend on chance"]


CALIBRATE_LIGHT = """
import resource, sys
from pathlib import Path
from solo_edge.calibration.folder import ImageFolder
from solo_edge.checkpoint import Checkpoint, save_checkpoint
from solo_edge.config import preset
from solo_edge.models.solov2 import SOLOv2
from solo_edge.quantize import calibrate

folder = Path(sys.argv[1])
model = SOLOv2(preset("solov2-light-mbv2-448", num_classes=1))
save_checkpoint(folder / "light.safetensors", Checkpoint(model, ("thing",), (1,)))
calibrate(folder / "light.safetensors", ImageFolder(folder), folder / "ranges.json", threads=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_calibrating_a_light_model_takes_less_than_one_and_a_half_gigabytes(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
        coarse.resize((1280, 720), Image.Resampling.BICUBIC).save(tmp_path / f"{i}.png")
    words = [sys.executable, "-c", CALIBRATE_LIGHT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1.5e9  # kilobytes on Linux


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_sha256": "0" * 64}, "another checkpoint"),
        ({"format": 1}, "format 1"),
        ({"limits": {"image": 0}}, "the range of image is 0"),
        ({"limits": {"image": 1.0}}, "the range of image is None"),
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
    with pytest.raises(
        ArtifactError, match=r"measured with pixel_mean \[0, 0, 0\], the checkpoint"
    ):
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
