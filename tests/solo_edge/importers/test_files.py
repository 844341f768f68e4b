"""`.pth` files as the code bases write them, and as nobody should."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from solo_edge.errors import ArtifactError, ResourceError, UsageError
from solo_edge.importers.files import is_pickled, read_foreign

STATE = OrderedDict({"conv.weight": torch.arange(8.0).reshape(2, 4), "norm.bias": torch.ones(2)})


@pytest.fixture
def write(tmp_path: Path):
    def save(content: object, **options: object) -> Path:
        path = tmp_path / "model.pth"
        torch.save(content, path, **options)
        return path

    return save


def same(tensors: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == STATE.keys() and all(torch.equal(tensors[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapper", ["state_dict", "model", None])
def test_state_dicts(write, wrapper: str | None, zipped: bool) -> None:
    """The authors and mmdetection wrap them in `state_dict`, detectron2 in `model`."""
    content = STATE if wrapper is None else {wrapper: STATE, "iteration": 7, "optimizer": {}}
    path = write(content, _use_new_zipfile_serialization=zipped)
    assert is_pickled(path)
    file = read_foreign(path)
    assert same(file.tensors)
    assert file.left_out == (() if wrapper is None else ("iteration", "optimizer"))


@pytest.mark.parametrize("protocol", [2, 4])
def test_other_protocols(write, protocol: int) -> None:
    for zipped in (True, False):
        path = write(STATE, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        if protocol == 2:
            assert same(read_foreign(path).tensors)
        else:  # PyTorch's restricted reader knows the second only
            with pytest.raises(ArtifactError, match=r"model\.pth"):
                read_foreign(path)


def test_models_of_several_gpus(write) -> None:
    assert same(read_foreign(write({f"module.{k}": t for k, t in STATE.items()})).tensors)


def test_class_names(write) -> None:
    names = ("bolt", "nut")
    second = {"state_dict": STATE, "meta": {"CLASSES": names, "mmdet_version": "2.28", "epoch": 36}}
    third = {"state_dict": STATE, "meta": {"dataset_meta": {"classes": list(names)}, "cfg": "..."}}
    assert read_foreign(write(second)).class_names == names
    assert read_foreign(write(third)).class_names == names
    assert read_foreign(write({"state_dict": STATE, "meta": {"CLASSES": 3}})).class_names is None


def test_histories_of_mmengine(write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's own checkpoint of mmdetection 3 holds objects of classes that are not installed here."""

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.array([1.0, 2.0])
            self._count_history = np.array([1, 1], dtype=np.int64)
            self.scalar = np.float64(3.0)

        def mean(self) -> None: ...

    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    HistoryBuffer.mean.__module__, HistoryBuffer.mean.__qualname__ = (
        module.__name__,
        "HistoryBuffer.mean",
    )
    buffer = HistoryBuffer()
    buffer.methods = OrderedDict(mean=HistoryBuffer.mean)
    hub = {"log_scalars": OrderedDict(loss=buffer), "runtime_info": {"iter": 5}}
    averages = {f"module.{key}": tensor for key, tensor in STATE.items()}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        for parent in ("mmengine", "mmengine.logging"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        path = write({"state_dict": STATE, "message_hub": hub, "ema_state_dict": averages})
    file = read_foreign(path)
    assert same(file.tensors)
    assert file.left_out == ("message_hub", "ema_state_dict")


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_executed(write, tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "executed"
    content = {"state_dict": STATE, "meta": Evil(mark)}
    path = write(content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ArtifactError, match=r"refused: it names '(posix|nt)\.system'"):
        read_foreign(path)
    assert not mark.exists()


def test_whole_models_are_refused(write) -> None:
    with pytest.raises(ArtifactError, match=r"it names 'torch\.nn\.modules\.conv\.Conv2d'"):
        read_foreign(write(torch.nn.Conv2d(1, 1, 1)))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([STATE], "it holds a list"),
        ({"state_dict": {}}, "is empty"),
        ({"epoch": 3}, r"no tensors \(epoch\)"),
        ({"state_dict": {**STATE, "deep": {"a": torch.ones(1)}}}, r"no tensors \(deep\)"),
        ({"state_dict": STATE, "teacher": dict(STATE)}, "weights in 'state_dict' and in 'teacher'"),
        ({"state_dict": STATE, "model": dict(STATE)}, "weights in 'state_dict' and in 'model'"),
    ],
)
def test_files_without_one_set_of_weights(write, content: object, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        read_foreign(write(content))


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(write, zipped: bool) -> None:
    path = write(STATE, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for end in (16, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:end])
        with pytest.raises(ArtifactError, match=r"model\.pth"):
            read_foreign(path)


def test_compressed_archives_are_refused(write, tmp_path: Path) -> None:
    path = write({"state_dict": {"a": torch.zeros(10**6)}})
    packed = tmp_path / "packed.pth"
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert packed.stat().st_size < 10**5
    with pytest.raises(ArtifactError, match="compressed archive"):
        read_foreign(packed)


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121"])
def test_pytorch_that_reads_unsafely(write, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    path = write(STATE)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ResourceError, match=r"CVE-2025-32434"):
        read_foreign(path)


def test_arrays_of_paddle(tmp_path: Path) -> None:
    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({key: tensor.numpy() for key, tensor in STATE.items()}, 4))
    assert is_pickled(path)
    assert same(read_foreign(path).tensors)


def test_what_is_no_pickle(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(dict(STATE), tmp_path / "a.pth")
    assert not is_pickled(tmp_path / "a.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    assert not is_pickled(tmp_path / "empty.pth")
    with pytest.raises(UsageError, match="not found"):
        is_pickled(tmp_path / "none.pth")
