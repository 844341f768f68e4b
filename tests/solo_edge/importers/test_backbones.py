from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from solo_edge.errors import ArtifactError
from solo_edge.importers.backbones import load_backbone_weights
from solo_edge.models.backbone import Backbone


def features(
    theirs: torch.nn.Module, images: torch.Tensor, ends: tuple[int, ...]
) -> list[torch.Tensor]:
    found = []
    for i, layer in enumerate(theirs.features):
        images = layer(images)
        if i in ends:
            found.append(images)
    return found


def test_torchvision_mobilenet_v2_computes_the_same_features() -> None:
    theirs = torchvision.models.mobilenet_v2(weights=None).eval()
    ours = Backbone("mobilenetv2_100").eval()
    load_backbone_weights(ours, theirs.state_dict(), "file")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        # Ends of torchvision's stages with strides 4, 8, 16 and 32.
        for a, b in zip(ours(images), features(theirs, images, (3, 6, 13, 17)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_torchvision_resnet_needs_no_renaming() -> None:
    theirs = torchvision.models.resnet18(weights=None)
    ours = Backbone("resnet18")
    assert load_backbone_weights(ours, theirs.state_dict(), "file") == 100
    assert torch.equal(ours.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)


def test_wrong_weights_change_nothing() -> None:
    ours = Backbone("resnet18")
    before = ours.body.conv1.weight.clone()
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    theirs.pop("layer3.0.conv1.weight")
    with pytest.raises(ArtifactError, match=r"layer3\.0\.conv1\.weight is missing"):
        load_backbone_weights(ours, theirs, "file")
    assert torch.equal(ours.body.conv1.weight, before)


def test_published_imagenet_weights(shared: Path) -> None:
    weights = load_file(shared / "data/weights/mobilenet_v2_imagenet.safetensors")
    assert load_backbone_weights(Backbone("mobilenetv2_100"), weights, "file") > 200
