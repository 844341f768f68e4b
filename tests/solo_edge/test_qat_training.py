"""Fine-tuning for INT8 as a user does it, from ranges to an engine, and what it must refuse."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import solo_edge
from solo_edge.calibration.ranges import Ranges, read_ranges
from solo_edge.checkpoint import Checkpoint, load_checkpoint, read_tensors, save_checkpoint
from solo_edge.cli import main
from solo_edge.config import TrainConfig, preset
from solo_edge.data.coco import open_dataset
from solo_edge.data.synthetic import make_dataset
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.export.build import build_engine
from solo_edge.files import sha256_of
from solo_edge.models.solov2 import SOLOv2
from solo_edge.qat import FakeInt8
from solo_edge.quantize import calibrate
from solo_edge.run_folder import RunFolder
from solo_edge.runtime.graphs import NetworkGraph
from solo_edge.train import Trainer, train

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
SIZE = (96, 96)
CONFIG = TrainConfig(
    epochs=2, batch_size=12, learning_rate=1e-4, workers=0, amp=False, device="cpu"
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "scenes"
    make_dataset(out, images=36, seed=0, val_images=4, workers=1)
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    out = tmp_path_factory.mktemp("few") / "scenes"
    make_dataset(out, images=2, seed=0, size=SIZE, val_images=1, workers=1)
    return out


@pytest.fixture(scope="module")
def some_ranges(tmp_path_factory):
    """A file that fits the shipped checkpoint, as far as can be seen before it is exported."""
    path = tmp_path_factory.mktemp("ranges") / "ranges.json"
    preprocess = {k: list(v) for k, v in load_checkpoint(MODEL).preprocess.to_dict().items()}
    Ranges(sha256_of(MODEL), preprocess, "max", 99.99, (), {"image": 1.0}).save(path)
    return path


@pytest.mark.slow
def test_from_ranges_to_an_engine(scenes, tmp_path, capsys):
    """Two steps with the shipped model; the engine of the result computes what training saw."""
    ranges, run = tmp_path / "ranges.json", tmp_path / "run"
    calibrate(MODEL, open_dataset(scenes, "train"), ranges, images=36, threads=1)
    words = ["--data", scenes, "--init", MODEL, "--qat", ranges, "--out", run, "--epochs", 1]
    assert main(["train", *map(str, words), "--batch-size", "18", "--workers", "0"]) == 0
    assert "quantisation-aware: " in capsys.readouterr().err
    saved = json.loads((run / "run.json").read_text())["train"]
    assert (saved["learning_rate"], saved["amp"], saved["epochs"]) == (1e-5, False, 1)
    rows = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row["AP"]) > 0.3 for row in rows)

    last, before = load_checkpoint(run / "last.safetensors"), load_checkpoint(MODEL)
    assert last.model.state_dict().keys() == before.model.state_dict().keys()
    changed = [
        name
        for name, value in last.model.state_dict().items()
        if not torch.equal(value, before.model.state_dict()[name])
    ]
    assert changed
    assert not any("running" in name for name in changed)
    new, old = read_ranges(run / "ranges.json"), read_ranges(ranges)
    assert old.bias_shifts
    digest = sha256_of(run / "best.safetensors")
    # The shifts were of other weights.
    assert new == dataclasses.replace(old, checkpoint_sha256=digest, bias_shifts={})

    words = {"backend": "onnxruntime", "precision": "int8", "ranges": run / "ranges.json"}
    build_engine(run, tmp_path / "a.engine", **words)
    image = load_checkpoint(run).preprocess(open_dataset(scenes, "val").image(0))[0][np.newaxis]
    exact, rounded = outputs_of(load_checkpoint(run).model, new, image)
    graph = exact_session(tmp_path / "a.engine/model.onnx")
    with solo_edge.load_engine(tmp_path / "a.engine") as engine:
        found = engine.runner.infer({"image": image})
    for name in ("mask_kernels", "mask_features"):
        (written,) = graph.run([name], {"image": image})
        noise = np.linalg.norm(rounded[name] - exact[name])
        # A value between two steps may fall on the other one, and change what comes behind it.
        assert np.linalg.norm(rounded[name] - written) < 0.1 * noise, name
        # ONNX Runtime's kernels for INT8 sum up integers and round differently once more.
        assert np.linalg.norm(rounded[name] - found[name]) < 2 * noise, name
        assert noise < 0.1 * np.linalg.norm(exact[name]), name


def outputs_of(model, ranges, image):
    """The network's outputs in float, and rounded as in training."""
    fake = FakeInt8.of(model, ranges)

    class Rounded(torch.nn.Module):
        def forward(self, images):
            return fake(model, images)

    with torch.no_grad():
        tensors = [NetworkGraph(each)(torch.from_numpy(image)) for each in (model, Rounded())]
    names = ("category_scores", "mask_kernels", "mask_features")
    return [dict(zip(names, (x.numpy() for x in each), strict=True)) for each in tensors]


def exact_session(path):
    """ONNX Runtime without its kernels for INT8: it computes what the graph says, in float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(data, checkpoint, ranges) of a small model with random weights."""
    folder = tmp_path_factory.mktemp("tiny")
    make_dataset(folder / "scenes", images=36, seed=3, size=SIZE, val_images=2, workers=1)
    data = open_dataset(folder / "scenes", "train")
    sizes = {"fpn_channels": 16, "head_channels": 16, "kernel_length": 16, "mask_channels": 16}
    config = preset("solov2-nano-256", input_size=SIZE, grid_sizes=(8, 7, 6, 5, 4), **sizes)
    torch.manual_seed(0)
    model = SOLOv2(dataclasses.replace(config, num_classes=len(data.class_names))).eval()
    path = folder / "tiny.safetensors"
    save_checkpoint(path, Checkpoint(model, data.class_names, data.category_ids))
    return folder / "scenes", path, calibrate(path, data, folder / "r.json", images=36, threads=1)


@pytest.mark.slow
def test_a_run_that_was_cut_twice_equals_an_uninterrupted_one(tiny, tmp_path, monkeypatch):
    """Before its first step, and between the checkpoint and the state of its second epoch."""
    data, checkpoint, ranges = tiny

    def start(name, model=None, **options):
        return train(data, model, tmp_path / name, CONFIG, report=lambda _: None, **options)

    whole = start("whole", init=checkpoint, qat=ranges)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            start("cut", init=checkpoint, qat=ranges)
    save = RunFolder.save_state

    def stop_after_two_epochs(self, state):
        return stop() if state.epoch == 2 else save(self, state)

    model = load_checkpoint(checkpoint).config
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", stop_after_two_epochs)
        with pytest.raises(KeyboardInterrupt):
            start("cut", model=model, resume=True)
    start("cut", model=model, resume=True)

    a, b = (read_tensors(tmp_path / name / "resume.safetensors")[0] for name in ("whole", "cut"))
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    for name in ("whole", "cut"):
        fitting = read_ranges(tmp_path / name / "ranges.json")
        assert fitting.checkpoint_sha256 == sha256_of(tmp_path / name / whole.name)
        assert fitting.limits == read_ranges(ranges).limits
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_run_that_lost_its_start_is_not_resumed_with_random_weights(few, tmp_path):
    classes = open_dataset(few, "train").class_names
    model = preset("solov2-nano-256", num_classes=len(classes))
    RunFolder(tmp_path / "run").start(model, CONFIG, {"init": "some.safetensors"})
    with pytest.raises(UsageError, match="ended before it had saved its first weights"):
        train(few, model, tmp_path / "run", CONFIG, resume=True, report=lambda _: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_sha256": "0" * 64}, "measured with another checkpoint"),
        ({"preprocess": {"pixel_mean": [0, 0, 0]}}, r"measured with pixel_mean \[0, 0, 0\]"),
        ({"format": 1}, "format 1"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(few, some_ranges, tmp_path, change, message):
    values = json.loads(some_ranges.read_text())
    if "preprocess" in change:
        change = {"preprocess": {**values["preprocess"], **change["preprocess"]}}
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps({**values, **change}))
    with pytest.raises(ArtifactError, match=message):
        train(few, None, tmp_path / "run", CONFIG, init=MODEL, qat=path, report=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_deformable_model_is_refused(few, some_ranges, tmp_path):
    model = SOLOv2(preset("solov2-nano-256", conv="deformable", num_classes=1))
    path = tmp_path / "deformable.safetensors"
    save_checkpoint(path, Checkpoint(model, ("thing",), (1,)))
    options = {"init": path, "qat": some_ranges, "report": lambda _: None}
    with pytest.raises(UsageError, match="deformable convolutions have no INT8 form"):
        train(few, None, tmp_path / "run", CONFIG, **options)


def test_other_classes_are_refused(few, some_ranges, tmp_path):
    (tmp_path / "train").symlink_to(few / "train")
    annotations = json.loads((few / "train.json").read_text())
    annotations["categories"][0]["name"] = "something else"
    (tmp_path / "train.json").write_text(json.dumps(annotations))
    options = {"init": MODEL, "qat": some_ranges, "report": lambda _: None}
    with pytest.raises(UsageError, match="data and checkpoint differ in their classes"):
        train(tmp_path, None, tmp_path / "run", CONFIG, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--qat needs --init"),
        (["--init", MODEL, "--model", "solov2-nano-256"], "--qat takes the model from --init"),
        (["--init", MODEL, "--set", "fpn_channels=32"], "--qat takes the model from --init"),
        (["--resume"], "--resume and --qat exclude each other"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    few, some_ranges, tmp_path, capsys, words, message
):
    basic = ["--data", few, "--qat", some_ranges, "--out", tmp_path / "run"]
    code = main(["train", *map(str, [*basic, *words])])
    assert code == UsageError.exit_code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
