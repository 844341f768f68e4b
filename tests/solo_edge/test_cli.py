"""Every command, from the words a user types to the files and the exit code."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from solo_edge import cli
from solo_edge.cli import thresholds, training
from solo_edge.cli.parser import CommandParser, parse_assignments
from solo_edge.config import ModelConfig, PostprocessConfig, TrainConfig
from solo_edge.errors import SoloEdgeError, UsageError
from solo_edge.evaluate import STATS

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "check-data",
    "split",
    "suggest",
    "train",
    "evaluate",
    "calibrate",
    "sensitivity",
    "build-engine",
    "predict",
    "stream",
)
COMMANDS += ("benchmark", "make-dataset", "import-checkpoint", "inspect", "kernels", "doctor")
PRESET = "solov2-nano-256"
SMALL = "input_size=(64, 64)", "grid_sizes=(8, 6, 4, 3, 2)"  # changes that make the preset quick


@pytest.fixture
def run(capfd):
    """Run one command in this process: (exit code, standard output, standard error)."""

    def run_command(*words):
        capfd.readouterr()
        code = cli.main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return run_command


@pytest.fixture
def fails(run):
    """Run a command that must fail with one line on standard error; returns that line."""

    def run_command(code, *words):
        got, out, err = run(*words)
        assert got == code, err
        assert out == ""
        lines = err.splitlines()
        assert len(lines) == 1, err
        assert lines[0].startswith("solo-edge: error: ")
        return lines[0]

    return run_command


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Six small pictures with one or two rectangles each, as splits train and val."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("cli") / "pictures with ünïcode"
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for index in range(1, 7):
            pixels = rng.integers(0, 60, (48, 64, 3), np.uint8)
            for label in range(1 + index % 2):
                x, y = (int(value) for value in rng.integers(0, 24, 2))
                pixels[y : y + 20, x : x + 30] = (220, 30, 30) if label else (30, 220, 30)
                corners = [x, y, x + 30, y, x + 30, y + 20, x, y + 20]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index,
                        "category_id": 2 + label,
                        "segmentation": [[float(v) for v in corners]],
                        "area": 600.0,
                        "bbox": [x, y, 30, 20],
                        "iscrowd": 0,
                    }
                )
            name = f"{index}.png"
            Image.fromarray(pixels).save(folder / split / name)
            images.append({"id": index, "file_name": name, "height": 48, "width": 64})
        categories = [{"id": 2, "name": "green"}, {"id": 3, "name": "red"}]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / f"{split}.json").write_text(text)
    return folder


@pytest.fixture(scope="session")
def run_folder(data):
    """A training run of two steps: it finds nothing worth having, but it is a run."""
    out = data.parent / "run"
    words = ["train", "--data", data, "--model", PRESET, "--out", out, "--epochs", 1]
    for assignment in SMALL:
        words += ["--set", assignment]
    words += ["--batch-size", 4, "--workers", 0, "--device", "cpu", "--no-amp"]
    assert cli.main([str(word) for word in words]) == 0
    return out


@pytest.fixture(scope="session")
def engine(run_folder):
    out = run_folder.parent / "small.engine"
    words = ["build-engine", run_folder, "-o", out, "--score-threshold", "0.001"]
    words += ["--update-threshold", "0.0", "--mask-threshold", "0.001"]
    words += ["--max-candidates", "20", "--max-instances", "5"]
    assert cli.main([str(word) for word in words]) == 0
    return out


def tree(folder):
    """Names and contents of all files below `folder`."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# Help and the command line itself


def test_commands_are_those_that_are_promised():
    assert tuple(cli.COMMANDS) == COMMANDS


def test_the_command_line_loads_nothing_heavy():
    code = "import sys, solo_edge.cli; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = "torch cv2 av PIL onnx onnxruntime openvino timm triton rich safetensors scipy"
    assert not set(done.stdout.split()) & set(heavy.split())


def test_help_names_every_command(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    for command in cli.COMMANDS.values():
        assert f"  {command.name} " in out
        assert command.summary in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, run):
    code, out, err = run(name, "--help")
    command = cli.COMMANDS[name]
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: solo-edge {name}")
    assert command.summary in out
    assert command.summary.endswith(".")
    assert f"example:\n  {command.example}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_help_text(name):
    for action in cli.COMMANDS[name].parser()._actions:
        assert action.help, action.dest


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_parses(name):
    command = cli.COMMANDS[name]
    words = command.example.split()
    assert words[:2] == ["solo-edge", name]
    command.parser().parse(words[2:])


def test_examples_of_the_overview_parse():
    lines = cli._overview().split("example:\n")[1].splitlines()
    assert len(lines) >= 4
    for line in lines:
        program, name, *words = line.split()
        assert program == "solo-edge"
        cli.COMMANDS[name].parser().parse(words)


def test_version(run):
    import solo_edge

    assert run("--version") == (0, f"solo-edge {solo_edge.__version__}\n", "")


def test_without_a_command_it_shows_the_commands_and_fails(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "build-engine" in err


def test_module_and_script_are_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "solo_edge", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("solo-edge ")


TRAIN = ("train", "--data", "d", "--out", "o")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["--verion"], "unknown option '--verion'; did you mean '--version'?"),
        (["train", "--dat", "d"], "unknown option --dat; did you mean '--data'?"),
        (["evaluate", "m", "--splt=val"], "unknown option --splt; did you mean '--split'?"),
        ([*TRAIN, "--epoch", "3"], "unknown option --epoch; did you mean '--epochs'?"),
        (
            [*TRAIN, "--model", "solov2-nano-265"],
            "--model: unknown model preset 'solov2-nano-265'; did you mean 'solov2-nano-256'?",
        ),
        (
            [*TRAIN, "--optimizer", "adam"],
            "--optimizer: unknown choice 'adam'; did you mean 'adamw'?",
        ),
        (
            ["build-engine", "c", "-o", "e", "--backend", "openvin"],
            "--backend: unknown backend 'openvin'; did you mean 'openvino'?",
        ),
        (
            ["build-engine", "c", "-o", "e", "--precision", "fp23"],
            "--precision: unknown precision 'fp23'; did you mean 'fp32'?",
        ),
        (
            [*TRAIN, "--set", "grid_size=(1,)"],
            "unknown field 'grid_size'; did you mean 'grid_sizes'?",
        ),
        ([*TRAIN, "--set", "levels"], "--set 'levels' has no '='; write --set name=value"),
        ([*TRAIN, "--epochs", "many"], "--epochs: invalid int value: 'many'"),
        ([*TRAIN, "--epochs", "0"], "--epochs is 0; it must be at least 1"),
        ([*TRAIN, "--learning-rate", "nan"], "--learning-rate is nan; it must be positive"),
        ([*TRAIN, "--jitter", "1"], "--jitter: expected 2 arguments"),
        ([*TRAIN, "--resume", "--init", "w"], "--resume and --init exclude each other"),
        (["evaluate", "m"], "the following arguments are required: --data"),
        (["evaluate", "m", "n", "--data", "d"], "unexpected argument 'n'"),
        (
            ["evaluate", "m", "--data", "d", "--threads", "0"],
            "'0' is not a whole number of at least 1",
        ),
        (["make-dataset", "o", "--images", "x"], "'x' is not a whole number of at least 1"),
    ],
)
def test_mistakes_get_one_line_with_a_remedy(words, line, fails):
    assert line in fails(2, *words)


def test_options_cannot_be_shortened(fails):
    """What is short for one option today would be ambiguous when another one is added."""
    assert "did you mean '--split'?" in fails(2, "evaluate", "m", "--data", "d", "--spli", "val")


# Options made from configurations


def test_every_training_option_reaches_the_configuration():
    parser = cli.COMMANDS["train"].parser()
    words = list(TRAIN[1:])
    expected = {}
    other_choices = {
        "optimizer": "sgd",
        "schedule": "step",
        "freeze": "backbone:2",
        "batch_norm": "frozen",
        "category_loss": "quality",
        "save_every": "500",
        "device": "cpu",
    }
    for field in dataclasses.fields(TrainConfig):
        value = field.default
        if isinstance(value, bool):
            words.append(f"--no-{field.name}")
            expected[field.name] = False
            continue
        if isinstance(value, str):
            value = other_choices[field.name]
        elif isinstance(value, tuple):
            value = tuple(v * 0.5 for v in value)
        elif isinstance(value, float):
            value = value * 0.5
        else:
            value = value + 1
        expected[field.name] = value
        words.append(f"--{field.name.replace('_', '-')}")
        words += [repr(v) for v in value] if isinstance(value, tuple) else [str(value)]
    given = cli.training.config_values(TrainConfig, parser.parse(words))
    assert TrainConfig(**given) == TrainConfig(**expected)
    assert TrainConfig(**given) != TrainConfig()


def test_options_that_are_not_given_keep_their_defaults():
    values = cli.COMMANDS["train"].parser().parse(TRAIN[1:])
    assert training.config_values(TrainConfig, values) == {}


def test_thresholds_are_passed_on_only_when_given():
    parser = CommandParser("x", "y", "z")
    thresholds.add_model_options(parser)
    assert thresholds.model_options(parser.parse([])) == {"threads": None}
    words = ["--threads", "2", "--score-threshold", "0.3", "--decay", "linear"]
    expected = {"threads": 2, "score_threshold": 0.3, "decay": "linear"}
    assert thresholds.model_options(parser.parse(words)) == expected


def test_help_texts_are_of_existing_fields():
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(training.TRAIN_HELP) == names
    names = {field.name for field in dataclasses.fields(PostprocessConfig)}
    assert set(thresholds.POSTPROCESS_HELP) == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_classes=7", {"num_classes": 7}),
        ("head-depth = 3", {"head_depth": 3}),
        ("center_scale=1", {"center_scale": 1.0}),
        ("input_size=[320, 544]", {"input_size": (320, 544)}),
        ("grid_sizes=(8, 4)", {"grid_sizes": (8, 4)}),
        ("norm=batch", {"norm": "batch"}),
        ("norm='batch'", {"norm": "batch"}),
    ],
)
def test_assignments(text, expected):
    values = parse_assignments([text], ModelConfig)
    assert values == expected
    assert [type(value) for value in values.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize("text", ["num_classes=2.5", "num_classes=many", "norm=3", "levels=4"])
def test_assignments_of_another_type_are_refused(text):
    with pytest.raises(UsageError, match="its default is"):
        parse_assignments([text], ModelConfig)


def test_assignments_run_no_code():
    with pytest.raises(UsageError):
        parse_assignments(["num_classes=__import__('os').getpid()"], ModelConfig)


# Errors on the way


def command_that(raises, monkeypatch):
    def run_it(values):
        raise raises

    command = dataclasses.replace(cli.COMMANDS["doctor"], run=run_it)
    monkeypatch.setitem(cli.COMMANDS, "doctor", command)


@pytest.mark.parametrize(
    ("problem", "code", "text"),
    [
        (SoloEdgeError("odd", fix="do this"), 1, "odd; do this"),
        (ValueError("two\nlines"), 1, "unexpected ValueError (two lines); run again with --debug"),
        (ModuleNotFoundError("x", name="onnx.checker"), 6, "package onnx"),
        (ModuleNotFoundError("x", name="nobody"), 1, "unexpected ModuleNotFoundError"),
        (MemoryError(), 6, "out of memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), 6, "out of memory"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a b"), 2, "a b: No such file"),
        (PermissionError(errno.EACCES, "Permission denied", b"/x"), 6, "/x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 6, "/x: No space left"),
        (OSError("without a name"), 1, "unexpected OSError"),
    ],
)
def test_any_error_becomes_one_line_and_a_code(problem, code, text, monkeypatch, fails):
    command_that(problem, monkeypatch)
    assert text in fails(code, "doctor")


def test_debug_adds_the_traceback(monkeypatch, run):
    command_that(ValueError("inside"), monkeypatch)
    code, _, err = run("doctor", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert "run_it" in err
    assert err.splitlines()[-1].startswith("solo-edge: error: unexpected ValueError (inside)")


def test_interrupts_are_quiet(monkeypatch, run):
    command_that(KeyboardInterrupt(), monkeypatch)
    assert run("doctor") == (130, "", "")


def test_sigterm_closes_what_is_open(monkeypatch, run):
    closed = []

    def run_it(values):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            closed.append(True)

    command = dataclasses.replace(cli.COMMANDS["doctor"], run=run_it)
    monkeypatch.setitem(cli.COMMANDS, "doctor", command)
    before = signal.getsignal(signal.SIGTERM)
    assert run("doctor") == (143, "", "")
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_reader_that_goes_away_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "solo_edge", "train", "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# Files that are missing or wrong


def test_missing_files(fails, tmp_path, data, engine):
    nowhere = tmp_path / "no where"
    assert "no where" in fails(2, "evaluate", nowhere, "--data", data)
    assert "no where" in fails(2, "evaluate", engine, "--data", nowhere)
    assert "no where" in fails(2, "train", "--data", nowhere, "--out", tmp_path / "run")
    assert "no where" in fails(2, "build-engine", nowhere, "-o", tmp_path / "e")
    assert "no where" in fails(2, "inspect", nowhere)
    assert "no where" in fails(2, "predict", nowhere, data)
    assert "no where" in fails(2, "predict", engine, nowhere)
    assert "no where" in fails(2, "benchmark", nowhere, "--data", data, "-o", tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_split_that_is_not_there(fails, data, engine):
    assert "test" in fails(2, "evaluate", engine, "--data", data, "--split", "test")


def test_unreadable_annotations(fails, tmp_path, data, engine):
    folder = tmp_path / "data"
    (folder / "val").mkdir(parents=True)
    (folder / "val.json").write_text("{not json")
    assert "val.json" in fails(3, "evaluate", engine, "--data", folder)


def test_wrong_engine_folders(fails, tmp_path, data, engine):
    empty = tmp_path / "empty.engine"
    empty.mkdir()
    assert "empty.engine" in fails(4, "evaluate", empty, "--data", data)
    assert "empty.engine" in fails(4, "inspect", empty)
    damaged = tmp_path / "damaged.engine"
    damaged.mkdir()
    for file in engine.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    with (damaged / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    assert "model.onnx" in fails(4, "evaluate", damaged, "--data", data)
    assert "model.onnx" in fails(4, "benchmark", damaged, "--data", data, "-o", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_something_else_instead_of_a_checkpoint(fails, tmp_path):
    text = tmp_path / "weights.safetensors"
    text.write_text("these are no weights")
    assert "weights.safetensors" in fails(4, "inspect", text)
    assert "weights.safetensors" in fails(4, "build-engine", text, "-o", tmp_path / "e")
    pickle = tmp_path / "weights.pth"
    pickle.write_bytes(b"\x80\x04.")
    assert "weights.pth" in fails(4, "build-engine", pickle, "-o", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_results_that_cannot_be_written(fails, tmp_path, data, engine):
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "inside"
    words = ["--data", data]
    assert "cannot be written" in fails(6, "evaluate", engine, *words, "--json", inside)
    assert "cannot be written" in fails(6, "benchmark", engine, *words, "-o", inside)
    assert "cannot be written" in fails(6, "build-engine", engine.parent / "run", "-o", inside)
    assert "folder" in fails(2, "evaluate", engine, *words, "--json", tmp_path)


# The commands at work


def test_train_writes_a_run_and_says_where(run_folder, data):
    names = {path.name for path in run_folder.iterdir()}
    assert {"run.json", "log.csv", "last.safetensors"} <= names
    saved = json.loads((run_folder / "run.json").read_text())
    assert saved["model"]["input_size"] == [64, 64]
    assert saved["train"]["batch_size"] == 4
    assert saved["train"]["amp"] is False


def test_resume_takes_the_options_of_the_run(run, run_folder, data, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run_folder, copy)
    code, out, err = run("train", "--data", data, "--out", copy, "--resume")
    assert code == 0, err
    assert "resuming after epoch 1" in err
    assert Path(out.strip()).parent == copy


def test_resume_refuses_other_options(run, run_folder, data):
    words = ["--data", data, "--out", run_folder, "--resume", "--batch-size", "2"]
    code, _, err = run("train", *words)
    assert code == 2
    assert "batch_size = 4, not 2" in err.splitlines()[-1]


def test_a_run_is_never_overwritten(run, run_folder, data):
    before = tree(run_folder)
    words = ["train", "--data", data, "--out", run_folder, "--model", PRESET]
    code, _, err = run(*words, "--workers", "0")
    assert code == 2
    assert "--resume" in err.splitlines()[-1]
    assert tree(run_folder) == before


def test_evaluate_prints_the_twelve_numbers(run, engine, data, tmp_path):
    before = tree(data)
    path = tmp_path / "found.json"
    code, out, err = run("evaluate", engine, "--data", data, "--json", path, "--max-images", "3")
    assert code == 0, err
    header = next(line for line in out.splitlines() if "AP50" in line).split()
    assert header[:2] == ["3", "images"]
    assert tuple(header[2:]) == STATS
    assert "green" in out
    found = json.loads(path.read_text())
    assert {result["image_id"] for result in found} <= {1, 2, 3}
    assert {result["category_id"] for result in found} <= {2, 3}
    assert found, "a network of random weights finds something at these thresholds"
    assert f"{len(found)} detections" in err
    assert tree(data) == before


def test_thresholds_override_those_of_the_engine(run, engine, data, tmp_path):
    path = tmp_path / "found.json"
    words = ["evaluate", engine, "--data", data, "--json", path, "--score-threshold", "0.99"]
    code, out, err = run(*words)
    assert code == 0, err
    assert json.loads(path.read_text()) == []
    assert "0.000" in out


def test_engine_and_checkpoint_agree(run, engine, run_folder, data, tmp_path):
    results = []
    thresholds_given = ["--score-threshold", "0.001", "--update-threshold", "0.0"]
    thresholds_given += ["--mask-threshold", "0.001"]
    thresholds_given += ["--max-candidates", "20", "--max-instances", "5"]
    for name, model in (("engine", engine), ("checkpoint", run_folder)):
        path = tmp_path / f"{name}.json"
        words = ["evaluate", model, "--data", data, "--json", path, *thresholds_given]
        code, _, err = run(*words)
        assert code == 0, err
        results.append(json.loads(path.read_text()))
    scores = [[round(r["score"], 3) for r in found] for found in results]
    assert len(results[0]) == len(results[1]) > 0
    assert scores[0] == pytest.approx(scores[1], abs=2e-3)


def test_evaluate_refuses_other_classes(fails, engine, data, tmp_path):
    folder = tmp_path / "data"
    (folder / "val").mkdir(parents=True)
    for image in (data / "val").iterdir():
        (folder / "val" / image.name).write_bytes(image.read_bytes())
    truth = json.loads((data / "val.json").read_text())
    truth["categories"][0]["name"] = "blue"
    (folder / "val.json").write_text(json.dumps(truth))
    line = fails(4, "evaluate", engine, "--data", folder)
    assert "the model lacks 'blue'" in line
    assert "the data lacks 'green'" in line


def test_benchmark_writes_a_row_for_each_engine(run, engine, run_folder, data, tmp_path):
    out = tmp_path / "report"
    words = ["benchmark", engine, run_folder, "--data", data, "-o", out, "--warmup", "1"]
    code, table, err = run(*words, "--threads", "1", "--max-images", "4")
    assert code == 0, err
    assert {path.name for path in out.iterdir()} == {"report.json", "report.csv", "report.md"}
    report = json.loads((out / "report.json").read_text())
    assert report["images"] == 4
    with (out / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["backend"] for row in rows] == [report["engines"][0]["backend"], "torch"]
    for row in report["engines"]:
        assert row["name"] in table
        assert row["fps"] > 0
        assert row["cold_start"]["total_ms"] > row["cold_start"]["load_ms"] > 0
        assert row["cold_start"]["peak_rss_bytes"] > 50 << 20
    assert report["engines"][0]["size_bytes"] == sum(f.stat().st_size for f in engine.iterdir())


BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "triton", "timm", "onnx", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
from solo_edge.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_device_needs_no_torch(engine, run_folder, data, tmp_path):
    def run_without(*words):
        command = [sys.executable, "-c", BLOCKED, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    for words in (
        ("evaluate", engine, "--data", data, "--max-images", "2"),
        ("predict", engine, data / "val" / "1.png", "-o", tmp_path / "out.png"),
        ("stream", engine, data / "val", "--save", tmp_path / "out.mp4"),
        ("inspect", run_folder),
    ):
        done = run_without(*words)
        assert (done.returncode, done.stderr) == (0, ""), words[0]
    done = run_without("train", "--data", data, "--out", tmp_path / "run")
    assert done.returncode == 6
    assert done.stderr.startswith("solo-edge: error: this needs the package ")
    assert "pip install " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_predict_draws_and_writes_down(run, engine, data, tmp_path):
    before = tree(data)
    drawn, lines = tmp_path / "drawn", tmp_path / "found.jsonl"
    code, out, err = run("predict", engine, data / "val", "-o", drawn, "--json", lines)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 6
    assert f"{data / 'val' / '1.png'}: " in out
    assert {path.name for path in drawn.iterdir()} == {f"{i}.png" for i in range(1, 7)}
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [Path(record["image"]).name for record in records] == [f"{i}.png" for i in range(1, 7)]
    assert all(d["category_id"] in (2, 3) for record in records for d in record["detections"])
    assert tree(data) == before


def test_predict_goes_on_after_an_image_that_cannot_be_read(run, engine, data, tmp_path):
    (tmp_path / "good.png").write_bytes((data / "val" / "1.png").read_bytes())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    code, out, err = run("predict", engine, tmp_path, "-o", tmp_path / "drawn")
    assert code == 3
    assert "bad.png" in err.splitlines()[0]
    assert err.splitlines()[-1].startswith("solo-edge: error: ")
    assert "1 of 2 images could not be read" in err
    assert "good.png: " in out
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["good.png"]


def test_predict_of_a_video_is_a_stream(run, engine, tmp_path):
    video = tmp_path / "video.mp4"
    code, out, err = run(
        "stream", engine, "test://?frames=6&size=96x64", "--save", video, "--report", tmp_path / "r"
    )
    assert (code, err) == (0, "")
    assert "6 frames at " in out
    assert "network" in out
    report = json.loads((tmp_path / "r").read_text())
    assert (report["processed"], report["dropped"]) == (6, 0)
    lines = tmp_path / "found.jsonl"
    code, out, err = run("predict", engine, video, "--json", lines, "-o", tmp_path / "again.mkv")
    assert (code, err) == (0, "")
    assert len(lines.read_text().splitlines()) == 6
    assert (tmp_path / "again.mkv").stat().st_size > 0


def test_stream_stops_after_so_many_frames(run, engine):
    code, out, _ = run("stream", engine, "test://?frames=50&size=96x64", "--max-frames", "3")
    assert code == 0
    assert ": 3 frames" in out


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("test://?frame=3", 2),
        ("rstp://camera/stream", 2),
        ("/dev/video77", 5),
        ("http://127.0.0.1:9/stream", 5),
    ],
)
def test_sources_that_do_not_open(source, code, fails, engine, tmp_path):
    fails(code, "stream", engine, source, "--save", tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_video(fails, engine, tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(5000))
    assert "video.mp4" in fails(3, "stream", engine, tmp_path / "video.mp4")
    assert "video.mp4" in fails(3, "predict", engine, tmp_path / "video.mp4")


def test_a_text_file_instead_of_an_image(run, engine, tmp_path):
    (tmp_path / "photo.jpg").write_text("no photo")
    words = ["predict", engine, tmp_path / "photo.jpg", "-o", tmp_path / "out.jpg"]
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert "photo.jpg" in err
    assert not (tmp_path / "out.jpg").exists()


def test_an_interrupted_stream_is_complete(engine, tmp_path):
    """Ctrl-C in another process: exit code 130, and every frame that was written can be read."""
    import av

    video = tmp_path / "out.mp4"
    words = ["stream", engine, "test://?frames=100000&size=96x64&live=1", "--save", video]
    process = subprocess.Popen(
        [sys.executable, "-m", "solo_edge", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (video.exists() and video.stat().st_size > 5000):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
    written = int(out.split(" frames")[0].rpartition(" ")[2])
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == written > 0


def test_inspect_engine(run, engine):
    code, out, _ = run("inspect", engine)
    assert code == 0
    assert "verified: every file is whole" in out
    assert "class names: green, red" in out
    code, out, _ = run("inspect", engine, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["kind"] == "engine"
    assert facts["problem"] is None
    assert facts["postprocess"]["max_instances"] == 5


def test_inspect_says_what_is_damaged(run, engine, tmp_path):
    copy = tmp_path / "copy.engine"
    copy.mkdir()
    for file in engine.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:-1])
    code, out, err = run("inspect", copy)
    assert (code, err) == (4, "")
    assert "DAMAGED" in out
    assert "model.onnx" in out


def test_inspect_checkpoint(run, run_folder, tmp_path):
    code, out, _ = run("inspect", run_folder, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["kind"] == "checkpoint"
    assert facts["made_by"] == "solo-edge"
    assert facts["class_names"] == ["green", "red"]
    assert facts["config"]["input_size"] == [64, 64]
    assert facts["tensors"] > 50
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(Path(facts["path"]).read_bytes()[:-7])
    code, out, _ = run("inspect", cut)
    assert code == 4
    assert "DAMAGED" in out
    assert "7 bytes are missing" in out


def test_inspect_and_checkpoint_agree_on_the_header():
    from solo_edge import checkpoint, inspection

    source = Path(inspection.__file__).read_text()
    assert f'"{checkpoint.METADATA_KEY}" in metadata' in source


def test_doctor(run):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    assert "openvino" in out
    code, out, _ = run("doctor", "--json")
    assert code == 0
    assert json.loads(out)["can_run_engines"]


def test_make_dataset(run, tmp_path):
    out = tmp_path / "scenes"
    words = ["make-dataset", out, "--images", "3", "--val-images", "2", "--seed", "4"]
    code, printed, err = run(*words, "--size", "64", "96", "--video-frames", "2")
    assert code == 0, err
    assert printed.splitlines() == [str(out), str(out / "video.mp4")]
    assert (out / "video.mp4").stat().st_size > 0
    for split, count in (("train", 3), ("val", 2)):
        saved = json.loads((out / f"{split}.json").read_text())
        assert [(image["height"], image["width"]) for image in saved["images"]] == [
            (64, 96)
        ] * count


def test_arguments_are_plain():
    """The namespace of a command is made of values, so that a test or a script can build one."""
    values = cli.COMMANDS["inspect"].parser().parse(["x", "--json"])
    assert values == argparse.Namespace(path=Path("x"), json=True, debug=False)
