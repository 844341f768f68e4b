from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import solo_edge
from solo_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from solo_edge.config import preset
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.models.solov2 import SOLOv2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    model = SOLOv2(preset("solov2-nano-256", num_classes=2)).eval()
    checkpoint = Checkpoint(model, ("bolt", "nut"), (7, 3), {"AP": 0.5}, {"epoch": 3})
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    save_checkpoint(path, checkpoint)
    return path, checkpoint


def test_round_trip(saved: tuple[Path, Checkpoint]) -> None:
    path, checkpoint = saved
    loaded = load_checkpoint(path)
    for name in ("config", "class_names", "category_ids", "metrics", "training", "preprocess"):
        assert getattr(loaded, name) == getattr(checkpoint, name)
    assert not loaded.model.training
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(image).mask_features, checkpoint.model(image).mask_features)
    assert load_checkpoint(path.parent).class_names == ("bolt", "nut")  # the run's folder
    assert isinstance(solo_edge.load_model(str(path)), SOLOv2)


def test_others_may_read_it(saved: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    assert saved[0].stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not found"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(ArtifactError, match="no checkpoint in this folder"):
        load_checkpoint(tmp_path)


def test_pickles_are_refused_unopened(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"would run code")
    with pytest.raises(ArtifactError, match="can run code"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -5])
def test_damaged_files(saved: tuple[Path, Checkpoint], tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved[0].read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        load_checkpoint(path)


def test_foreign_layout_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ArtifactError, match="no checkpoint layout"):
        load_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("damage", ["classes", "format", "field", "json", "weights"])
def test_headers_that_contradict(
    saved: tuple[Path, Checkpoint], tmp_path: Path, damage: str
) -> None:
    from solo_edge.checkpoint import METADATA_KEY, read_tensors

    tensors, metadata = read_tensors(saved[0])
    header = json.loads(metadata[METADATA_KEY])
    if damage == "classes":
        header["class_names"].append("washer")
    elif damage == "format":
        header["format"] = 99
    elif damage == "field":
        header["config"]["future_field"] = 1
    elif damage == "weights":
        tensors.pop("head.category_out.bias")
    text = "{" if damage == "json" else json.dumps(header)
    save_file(tensors, tmp_path / "a.safetensors", {METADATA_KEY: text})
    with pytest.raises(ArtifactError, match=r"a\.safetensors"):
        load_checkpoint(tmp_path / "a.safetensors")
