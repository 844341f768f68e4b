"""A tiny model and seven rendered scenes to train it on, in steps of three images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from solo_edge.checkpoint import read_tensors
from solo_edge.config import ModelConfig, TrainConfig, preset
from solo_edge.data.synthetic import make_dataset
from solo_edge.train import train

SIZE = (64, 64)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "scenes"
    make_dataset(out, images=7, seed=3, size=SIZE, val_images=2, workers=1)
    return out


@pytest.fixture(scope="session")
def model() -> ModelConfig:
    return preset(
        "solov2-nano-256",
        input_size=SIZE,
        fpn_channels=16,
        head_channels=16,
        kernel_length=16,
        mask_channels=16,
        grid_sizes=(8, 7, 6, 5, 4),
    )


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    """Two epochs of three steps."""
    return TrainConfig(epochs=2, batch_size=3, workers=0, amp=False, device="cpu", save_every="0")


@pytest.fixture
def start(data: Path, model: ModelConfig, config: TrainConfig) -> Callable[..., Path]:
    """start(out, config, **options) -> the best checkpoint."""

    def run(out: Path, own: TrainConfig = config, **options) -> Path:
        return train(data, model, out, own, **{"report": lambda _: None, **options})

    return run


@pytest.fixture(scope="session")
def differences() -> Callable[[Path, Path], list[str]]:
    """The names of what differs, bit by bit, between the last states of two runs."""

    def compare(a: Path, b: Path) -> list[str]:
        one, two = (read_tensors(run / "resume.safetensors")[0] for run in (a, b))
        assert one.keys() == two.keys()
        return [name for name in one if not torch.equal(one[name], two[name])]

    return compare
