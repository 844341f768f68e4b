from __future__ import annotations

from pathlib import Path

import pytest
import timm
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


def refused(ours: Backbone, tensors: dict[str, torch.Tensor], match: str) -> None:
    before = {key: tensor.clone() for key, tensor in ours.body.state_dict().items()}
    with pytest.raises(ArtifactError, match=match):
        load_backbone_weights(ours, tensors, "file")
    assert all(torch.equal(before[key], t) for key, t in ours.body.state_dict().items())


def test_wrong_weights_change_nothing() -> None:
    ours = Backbone("resnet18")
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    refused(
        ours,
        {k: t for k, t in theirs.items() if "layer3.0.conv1" not in k},
        r"1 are missing: layer3\.0",
    )
    refused(
        ours,
        {**theirs, "conv1.weight": torch.zeros(64, 1, 7, 7)},
        r"conv1\.weight has shape \(64, 1",
    )
    refused(
        ours, {**theirs, "bn1.bias": torch.full((64,), torch.nan)}, r"NaN or infinite: bn1\.bias"
    )
    refused(
        ours, {**theirs, "layer1.0.se.fc.weight": torch.zeros(1)}, r"not in resnet18: layer1\.0\.se"
    )


def test_a_deeper_network_of_the_same_widths_is_refused() -> None:
    """All weights of a ResNet-18 are in a ResNet-34, and mean something else there."""
    theirs = torchvision.models.resnet34(weights=None).state_dict()
    refused(Backbone("resnet18"), theirs, r"80 are not in resnet18: layer1\.2\.conv1\.weight")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", "mobilenetv4_conv_small_050"])
def test_timms_own_weights(name: str) -> None:
    theirs = timm.create_model(name, pretrained=False)
    ours = Backbone(name)
    count = load_backbone_weights(ours, theirs.state_dict(), "file")
    assert count == sum("num_batches" not in key for key in ours.body.state_dict())
    for key, tensor in ours.body.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key])


def test_the_backbone_of_a_detector() -> None:
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    detector = {f"backbone.{k}": t for k, t in theirs.items() if not k.startswith("fc.")}
    assert (
        load_backbone_weights(Backbone("resnet18"), {**detector, "neck.x": torch.ones(1)}, "f")
        == 100
    )


def test_published_imagenet_weights(shared: Path) -> None:
    weights = load_file(shared / "data/weights/mobilenet_v2_imagenet.safetensors")
    assert load_backbone_weights(Backbone("mobilenetv2_100"), weights, "file") > 200
