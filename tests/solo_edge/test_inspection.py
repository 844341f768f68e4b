"""A checkpoint is described without being loaded, and every kind of damage is seen."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy

from solo_edge.errors import ArtifactError, UsageError
from solo_edge.inspection import describe, inspect_path, read_safetensors_header


@pytest.fixture
def checkpoint(tmp_path):
    tensors = {
        "weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "count": np.array(7, np.int64),
        "half": np.zeros((0, 5), np.float16),
    }
    metadata = {"solo_edge": json.dumps({"class_names": ["a", "b"], "metrics": {"AP": 0.25}})}
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(tensors, path, metadata)
    return path


def write(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_whole_checkpoint(checkpoint):
    facts = inspect_path(checkpoint)
    assert facts["problem"] is None
    assert facts["made_by"] == "solo-edge"
    assert (facts["tensors"], facts["values"]) == (3, 13)
    assert facts["types"] == ["F16", "F32", "I64"]
    assert facts["size_bytes"] == checkpoint.stat().st_size
    text = describe(facts)
    assert "class names: a, b" in text
    assert "AP: 0.25" in text
    assert text.endswith("verified: every file is whole")


def test_the_folder_of_a_run_shows_its_best_checkpoint(checkpoint):
    checkpoint.rename(checkpoint.with_name("last.safetensors"))
    assert inspect_path(checkpoint.parent)["path"].endswith("last.safetensors")
    (checkpoint.parent / "last.safetensors").rename(checkpoint.with_name("best.safetensors"))
    assert inspect_path(checkpoint.parent)["path"].endswith("best.safetensors")


def test_weights_of_another_program(tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3, np.float32)}, tmp_path / "w.safetensors")
    facts = inspect_path(tmp_path / "w.safetensors")
    assert facts["made_by"] == "another program"
    assert facts["problem"] is None


def test_every_cut_is_seen(checkpoint):
    whole = checkpoint.read_bytes()
    for length in range(len(whole)):
        checkpoint.write_bytes(whole[:length])
        try:
            problem = inspect_path(checkpoint)["problem"]
        except ArtifactError:
            continue
        assert f"{len(whole) - length} bytes are missing" in problem


def test_what_follows_the_tensors_is_seen(checkpoint):
    with checkpoint.open("ab") as file:
        file.write(b"more")
    assert "4 unknown bytes" in inspect_path(checkpoint)["problem"]
    assert "DAMAGED" in describe(inspect_path(checkpoint))


F32 = {"dtype": "F32", "shape": [2]}


@pytest.mark.parametrize(
    "header",
    [
        [],
        "text",
        {"w": {"dtype": "F32", "shape": [2]}},
        {"w": {**F32, "data_offsets": [0, 4]}},
        {"w": {**F32, "data_offsets": [0]}},
        {"w": {**F32, "data_offsets": "08"}},
        {"w": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}},
        {"w": 3},
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense(header, tmp_path):
    with pytest.raises(ArtifactError, match=r"header|not a safetensors"):
        read_safetensors_header(write(tmp_path / "w.safetensors", header, bytes(8)))


def test_tensors_that_overlap(tmp_path):
    header = {name: {**F32, "data_offsets": [0, 8]} for name in "ab"}
    assert "overlap" in inspect_path(write(tmp_path / "w.safetensors", header, bytes(8)))["problem"]


@pytest.mark.parametrize(
    "metadata", [3, {"solo_edge": 3}, {"solo_edge": "{"}, {"solo_edge": "[]"}], ids=str
)
def test_metadata_that_makes_no_sense(metadata, tmp_path):
    path = write(tmp_path / "w.safetensors", {"__metadata__": metadata})
    with pytest.raises(ArtifactError, match="damaged"):
        inspect_path(path)


def test_a_length_larger_than_the_file_takes_no_memory(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        inspect_path(path)


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError):
        inspect_path(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="no engine and no checkpoint"):
        inspect_path(tmp_path)
