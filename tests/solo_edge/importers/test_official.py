from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from solo_edge.config import preset
from solo_edge.errors import ArtifactError
from solo_edge.importers import import_weights
from solo_edge.importers.coco_classes import COCO_CATEGORY_IDS, COCO_CLASS_NAMES
from solo_edge.models.solov2 import SOLOv2

# Our module names back to the authors'.
THEIRS = (
    ("backbone.body.", "backbone."),
    ("fpn.lateral_convs.", "neck.lateral_convs."),
    ("fpn.output_convs.", "neck.fpn_convs."),
    ("head.category_convs.", "bbox_head.cate_convs."),
    ("head.kernel_convs.", "bbox_head.kernel_convs."),
    ("head.category_out.", "bbox_head.solo_cate."),
    ("head.kernel_out.", "bbox_head.solo_kernel."),
    ("mask_feature_branch.out.", "mask_feat_head.conv_pred.0."),
)


def official_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if name.startswith("mask_feature_branch.levels."):
            name = f"mask_feat_head.convs_all_levels.{parts[2]}.conv{parts[3]}." + ".".join(
                parts[4:]
            )
        for ours, theirs in THEIRS:
            name = name.replace(ours, theirs)
        if name.startswith("neck."):
            stem, leaf = name.rsplit(".", 1)
            name = f"{stem}.conv.{leaf}"
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize(
    "name", ["solov2-light-r18-448", "solov2-light-r34-448", "solov2-light-r50-448"]
)
def test_round_trip_through_the_authors_names(name: str) -> None:
    model = SOLOv2(preset(name, num_classes=4))
    config, weights = import_weights(official_names(model.state_dict()), "file")
    for field in (
        "backbone",
        "num_classes",
        "head_depth",
        "head_channels",
        "kernel_length",
        "conv",
    ):
        assert getattr(config, field) == getattr(model.config, field)
    expected = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[k], expected[k]) for k in expected)


def test_left_over_and_missing_keys_are_named() -> None:
    weights = official_names(SOLOv2(preset("solov2-light-r18-448", num_classes=4)).state_dict())
    with pytest.raises(ArtifactError, match="unheard_of"):
        import_weights({**weights, "neck.unheard_of": torch.zeros(1)}, "file")
    weights.pop("mask_feat_head.conv_pred.0.conv.weight")
    with pytest.raises(ArtifactError, match="conv_pred"):
        import_weights(weights, "file")


def test_deformable_v1_is_refused() -> None:
    model = SOLOv2(preset("solov2-light-r18-448", num_classes=4, conv="deformable"))
    weights = official_names(model.state_dict())
    key = "bbox_head.cate_convs.1.conv.conv_offset.weight"
    assert import_weights(weights, "file")[0].conv == "deformable"
    weights[key] = weights[key][:18]
    with pytest.raises(ArtifactError, match="v1"):
        import_weights(weights, "file")


def test_eighty_classes_are_those_of_coco(shared: Path) -> None:
    """Names and ids as an annotation file of COCO lists them."""
    listed = json.loads((shared / "data/coco_train2017_287/train.json").read_text())["categories"]
    listed.sort(key=lambda category: category["id"])
    assert tuple(category["name"] for category in listed) == COCO_CLASS_NAMES
    assert tuple(category["id"] for category in listed) == COCO_CATEGORY_IDS
