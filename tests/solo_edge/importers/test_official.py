"""The authors' own key names, and COCO's classes, as others wrote them down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from solo_edge.importers import import_model
from solo_edge.importers.coco_classes import COCO_CATEGORY_IDS, COCO_CLASS_NAMES
from solo_edge.importers.files import read_foreign


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("solov2_light_r18", ("resnet18", 80, 2, 256, 128, "standard")),
        ("solov2_light_r50_dcn", ("resnet50", 20, 2, 256, 128, "deformable")),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_authors_keys_in_a_pth_file(
    shared: Path, tmp_path: Path, name: str, fields: tuple[object, ...], zipped: bool
) -> None:
    """Shapes of the authors' models; tests/solo_edge/test_golden.py compares what they compute."""
    shapes = json.loads((shared / f"golden/{name}.json").read_text())["state_dict"]
    state = {key: torch.zeros(1).expand(shape).clone() for key, shape in shapes.items()}
    path = tmp_path / "model.pth"
    meta = {"mmdet_version": "1.0.0", "config": "...", "epoch": 36}
    torch.save({"state_dict": state, "meta": meta}, path, _use_new_zipfile_serialization=zipped)
    imported = import_model(read_foreign(path).tensors, str(path))
    config = imported.config
    found = (config.backbone, config.num_classes, config.head_depth, config.head_channels)
    assert (*found, config.kernel_length, config.conv) == fields
    assert imported.account.names.keys() == shapes.keys()
    assert len(imported.weights) == len(shapes)


def test_eighty_classes_are_those_of_coco(shared: Path) -> None:
    """Names and ids as an annotation file of COCO lists them."""
    listed = json.loads((shared / "data/coco_train2017_287/train.json").read_text())["categories"]
    listed.sort(key=lambda category: category["id"])
    assert tuple(category["name"] for category in listed) == COCO_CLASS_NAMES
    assert tuple(category["id"] for category in listed) == COCO_CATEGORY_IDS
