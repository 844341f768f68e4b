"""Several processes learn what one does: gloo on the CPU, two processes started by torchrun."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from solo_edge.checkpoint import read_tensors
from solo_edge.errors import ResourceError, UsageError
from solo_edge.run_folder import RunFolder
from solo_edge.train import train

# Sums of the same numbers in another order. At ten times this learning rate, batch norms of random weights
# make 1 % of a rounding error in the first weights within nine steps, also in one process.
TOLERANCE = 1e-5
SMALL = [
    *("--model", "solov2-nano-256", "--set", "input_size=(64, 64)", "--set", "fpn_channels=16"),
    *("--set", "head_channels=16", "--set", "kernel_length=16", "--set", "mask_channels=16"),
    *("--set", "grid_sizes=(8, 7, 6, 5, 4)"),
]


def torchrun(data, out, *words):
    """`solo-edge train` in two processes of one thread each."""
    options = [
        "--data",
        data,
        "--out",
        out,
        "--device",
        "cpu",
        "--workers",
        "0",
        "--no-amp",
        *words,
    ]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, "-m", "solo_edge", "train", *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, text=True, stdout=pipe, stderr=pipe)


def curve(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [[row[k] for k in row if k.endswith("_loss")] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["frozen", "sync"])
def test_two_processes_learn_what_one_does(start, data, config, tmp_path, norms):
    """Also where the last batch has an image for one of them only, and with every kind of loss."""
    own = dataclasses.replace(
        config,
        batch_size=4,
        accumulate=2,
        optimizer="sgd",
        learning_rate=0.001,
        semantic_weight=0.5,
        lovasz_weight=0.5,
        batch_norm="frozen" if norms == "frozen" else "batch",
    )
    start(tmp_path / "one", own)
    words = "--epochs 2 --batch-size 4 --accumulate 2 --optimizer sgd --learning-rate 0.001"
    words += f" --semantic-weight 0.5 --lovasz-weight 0.5 --batch-norm {norms}"
    process = torchrun(data, tmp_path / "two", *SMALL, *words.split())
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "2 processes on cpu" in err
    assert err.count("epoch 2/2") == 1  # only the first one reports
    assert len(out.splitlines()) == 1
    for ours, theirs in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        assert theirs == pytest.approx(ours, rel=TOLERANCE)
    if (
        norms == "sync"
    ):  # exact too (below), but norms of random weights enlarge every rounding error
        return
    one, two = (read_tensors(tmp_path / run / "last.safetensors")[0] for run in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_synchronised_norms_are_those_of_the_whole_batch():
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = Path(__file__).with_name("synchronised_norms.py")
    command = [sys.executable, *launcher, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_an_uneven_last_batch(start, data, config, tmp_path):
    """Seven images in batches of six: the second process has none of the last one."""
    own = dataclasses.replace(
        config, batch_size=6, epochs=1, optimizer="sgd", learning_rate=0.001, save_every="0"
    )
    start(tmp_path / "one", own)
    words = "--epochs 1 --batch-size 6 --optimizer sgd --learning-rate 0.001 --batch-norm sync"
    process = torchrun(data, tmp_path / "two", *SMALL, *words.split())
    _, err = process.communicate()
    assert process.returncode == 0, err
    for ours, theirs in zip(curve(tmp_path / "one"), curve(tmp_path / "two"), strict=True):
        # The last layers' variance of a single image is one of four values.
        assert theirs == pytest.approx(ours, rel=10 * TOLERANCE)


@pytest.mark.slow
def test_stopped_together_and_resumed_alone(start, data, model, config, tmp_path):
    words = "--epochs 200 --batch-size 4 --validate-every 200 --batch-norm frozen --save-every 0"
    process = torchrun(data, tmp_path / "run", *SMALL, *words.split())
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/log.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert "which is saved; go on with --resume" in err, err
    state = RunFolder(tmp_path / "run").read_state()
    assert state.step > 0
    own = dataclasses.replace(
        config,
        batch_size=4,
        batch_norm="frozen",
        save_every="0",
        epochs=state.epoch + 1,
        validate_every=200,
    )
    options = {"resume": True, "report": lambda _: None}
    train(data, dataclasses.replace(model), tmp_path / "run", own, **options)
    assert RunFolder(tmp_path / "run").read_state().epoch == state.epoch + 1


@pytest.mark.parametrize(
    ("variables", "error", "message"),
    [
        ({"WORLD_SIZE": "2"}, UsageError, "WORLD_SIZE is set, but 'RANK'"),
        (
            {
                "WORLD_SIZE": "2",
                "RANK": "0",
                "LOCAL_RANK": "0",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "no number",
            },
            ResourceError,
            "the other training processes cannot be reached",
        ),
    ],
)
def test_what_torchrun_did_not_say_is_one_line(
    start, tmp_path, monkeypatch, variables, error, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=message):
        start(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_images_that_cannot_be_divided_are_one_line(data, tmp_path):
    process = torchrun(data, tmp_path / "run", *SMALL, "--batch-size", "3")
    _, err = process.communicate()
    assert process.returncode != 0
    assert "--batch-size is 3 for 2 processes; use a multiple of 2" in err
    assert not (tmp_path / "run").exists()
