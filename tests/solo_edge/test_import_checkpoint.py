from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from solo_edge.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from solo_edge.cli import main
from solo_edge.config import preset
from solo_edge.errors import DataError, UsageError
from solo_edge.files import sha256_of
from solo_edge.import_checkpoint import parse_class_names
from solo_edge.importers.coco_classes import COCO_CATEGORY_IDS, COCO_CLASS_NAMES
from solo_edge.models.solov2 import SOLOv2

NAMES = ("bolt", "nut", "washer")


@pytest.fixture(scope="module")
def model() -> SOLOv2:
    torch.manual_seed(0)
    narrow = {"fpn_channels": 32, "head_channels": 32, "kernel_length": 32, "mask_channels": 32}
    return SOLOv2(preset("solov2-light-r18-448", num_classes=3, **narrow)).eval()


@pytest.fixture
def official(model: SOLOv2) -> dict[str, torch.Tensor]:
    """The model under the authors' names."""
    theirs = (
        ("backbone.body.", "backbone."),
        ("fpn.lateral_convs.", "neck.lateral_convs."),
        ("fpn.output_convs.", "neck.fpn_convs."),
        ("head.category_convs.", "bbox_head.cate_convs."),
        ("head.kernel_convs.", "bbox_head.kernel_convs."),
        ("head.category_out.", "bbox_head.solo_cate."),
        ("head.kernel_out.", "bbox_head.solo_kernel."),
        ("mask_feature_branch.out.", "mask_feat_head.conv_pred.0."),
    )
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        for ours, prefix in theirs:
            name = name.replace(ours, prefix)
        if name.startswith("mask_feature_branch.levels."):
            place = f"mask_feat_head.convs_all_levels.{parts[2]}.conv{parts[3]}"
            name = ".".join([place, *parts[4:]])
        if name.startswith("neck."):
            name = ".conv.".join(name.rsplit(".", 1))
        state[name] = tensor
    return state


@pytest.fixture
def pth(official: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "solov2.pth"
    torch.save({"state_dict": official, "meta": {"epoch": 36}, "optimizer": {}}, path)
    return path


def test_a_pth_file_becomes_a_checkpoint(
    pth: Path, model: SOLOv2, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "light.safetensors"
    assert (
        main(["import-checkpoint", str(pth), "-o", str(out), "--classes", "bolt, nut,washer"]) == 0
    )
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert (
        "the authors' (WXinlong/SOLO): resnet18, 3 classes, heads 2 x 32, kernels of 32"
        in shown.err
    )
    assert (
        "left out: 20 batch counters of the norms, the entry 'meta', the entry 'optimizer'"
        in shown.err
    )
    assert "RGB, mean 123.675 116.28 103.53, std 58.395 57.12 57.375\n" in shown.err
    assert "input 448 x 768, grids 40 36 24 16 12" in shown.err
    loaded = load_checkpoint(out)
    assert (loaded.class_names, loaded.category_ids) == (NAMES, (1, 2, 3))
    assert loaded.training == {
        "imported_from": "solov2.pth",
        "layout": "official",
        "sha256": sha256_of(pth),
    }
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.model(images).mask_features, model(images).mask_features)


def test_safetensors_with_fields_and_a_file_of_names(
    official: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(official, tmp_path / "a.safetensors")
    (tmp_path / "names.txt").write_text("bolt\nnut\n\nwasher\n")
    out = tmp_path / "b.safetensors"
    arguments = ["--classes", str(tmp_path / "names.txt"), "--set", "input_size=(256, 320)"]
    assert (
        main(["import-checkpoint", str(tmp_path / "a.safetensors"), "-o", str(out), *arguments])
        == 0
    )
    loaded = load_checkpoint(out)
    assert (loaded.class_names, loaded.config.input_size) == (NAMES, (256, 320))


def test_names_noted_by_mmdetection(official: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": official, "meta": {"CLASSES": NAMES}}, path)
    assert main(["import-checkpoint", str(path), "-o", str(tmp_path / "b.safetensors")]) == 0
    assert load_checkpoint(tmp_path / "b.safetensors").class_names == NAMES


def test_eighty_classes_are_cocos(official: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for part in ("weight", "bias"):
        key = f"bbox_head.solo_cate.{part}"
        official[key] = torch.cat([official[key]] * 27)[:80]
    torch.save(official, tmp_path / "a.pth")
    assert (
        main(["import-checkpoint", str(tmp_path / "a.pth"), "-o", str(tmp_path / "b.safetensors")])
        == 0
    )
    loaded = load_checkpoint(tmp_path / "b.safetensors")
    assert (loaded.class_names, loaded.category_ids) == (COCO_CLASS_NAMES, COCO_CATEGORY_IDS)


def test_every_key_can_be_listed(
    official: dict[str, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    torch.save(official, path)
    assert main(["import-checkpoint", str(path), "--keys"]) == 0
    capsys.readouterr()
    torch.save({**official, "neck.new": torch.zeros(2)}, path)
    assert main(["import-checkpoint", str(path), "--keys"]) == 4  # as the import would
    shown = capsys.readouterr()
    assert "1 unknown: neck.new" in shown.err
    lines = shown.out.splitlines()
    assert len(lines) == len(official) + 1
    assert "bbox_head.solo_cate.bias [3]  -> head.category_out.bias" in lines
    assert "neck.new [2]  unknown" in lines
    assert "backbone.bn1.num_batches_tracked []  left out: batch counters of the norms" in lines


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to write to"),
        (["-o", "a.pth"], 2, "a checkpoint is one .safetensors file"),
        (
            ["-o", "a.safetensors", "--classes", "bolt,nut"],
            2,
            "2 class names for a checkpoint of 3",
        ),
        (["-o", "a.safetensors", "--classes", "bolt,nut,nut"], 2, "given twice"),
        (["-o", "a.safetensors", "--format", "adelaide"], 2, "did you mean 'adelaidet'"),
        (["-o", "a.safetensors", "--set", "grids=3"], 2, "unknown field 'grids'"),
        (["-o", "a.safetensors", "--preset", "solov2-r50-800"], 4, "contradicts --preset"),
        (["-o", "a.safetensors", "--set", "head_depth=3"], 4, "contradicts --set"),
    ],
)
def test_mistakes(
    pth: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["import-checkpoint", str(pth), *arguments]) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["solov2.pth"]  # nothing written


def test_our_own_checkpoints_need_no_import(model: SOLOv2, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, Checkpoint(model, NAMES, (1, 2, 3)))
    assert main(["import-checkpoint", str(path), "-o", str(tmp_path / "b.safetensors")]) == 2


def test_a_file_of_nothing_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"<html>not found</html>")
    assert main(["import-checkpoint", str(path), "--keys"]) == 4
    assert "neither of PyTorch nor of Paddle" in capsys.readouterr().err


def test_code_in_a_file_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'executed')!r}, 'w')",))

    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"weight": Evil()}, 4))
    assert main(["import-checkpoint", str(path), "-o", str(tmp_path / "b.safetensors")]) == 4
    assert "refused: it names 'builtins.exec'" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pdparams"]


def test_class_names(tmp_path: Path) -> None:
    assert parse_class_names("bolt, nut") == ("bolt", "nut")
    assert parse_class_names("bolt") == ("bolt",)
    many = [f"a class with a long name {i}" for i in range(300)]
    assert parse_class_names(",".join(many)) == tuple(many)
    path = tmp_path / "names.json"
    path.write_text(json.dumps(list(NAMES)))
    assert parse_class_names(str(path)) == NAMES
    for content in ("[1, 2]", '["a"', '[["a"]]'):
        path.write_text(content)
        with pytest.raises(DataError, match="no list of class names"):
            parse_class_names(str(path))
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError):
        parse_class_names(str(path))
    (tmp_path / "none.txt").write_text("\n")
    for text in ("a,,b", "missing.txt", str(tmp_path / "none.txt")):
        with pytest.raises(UsageError):
            parse_class_names(text)
