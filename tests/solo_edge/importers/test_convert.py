"""Files that do not fit: each is refused with what is wrong."""

from __future__ import annotations

import pytest
import torch

from solo_edge.errors import ArtifactError
from solo_edge.importers import Choices, import_model, import_weights


@pytest.fixture(scope="module")
def official(make_model, written_as) -> dict[str, torch.Tensor]:
    return written_as(make_model(), "official")


@pytest.fixture
def state(official: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(official)


def refused(state: dict[str, torch.Tensor], match: str, choices: Choices | None = None) -> None:
    with pytest.raises(ArtifactError, match=match):
        import_model(state, "file", choices)


def test_unknown_keys_are_listed(state) -> None:
    state |= {f"neck.new.{i}": torch.zeros(1) for i in range(20)}
    refused(state, r"20 unknown: neck\.new\.0, .*neck\.new\.11 and 8 more")


def test_missing_keys_are_listed(state) -> None:
    for key in ("neck.fpn_convs.2.conv.bias", "backbone.layer3.0.bn1.weight"):
        state.pop(key)
    refused(
        state,
        r"2 weights are missing.*backbone\.body\.layer3\.0\.bn1\.weight, fpn\.output_convs\.2\.bias",
    )


def test_a_file_without_its_heads_or_backbone_is_partial(state) -> None:
    backbone = {key: tensor for key, tensor in state.items() if key.startswith("backbone.")}
    refused(backbone, "no checkpoint layout.*--init")
    rest = {key: tensor for key, tensor in state.items() if key not in backbone}
    refused(rest, "of no ResNet")
    for key in list(state):
        if "kernel_convs" in key or "solo_cate" in key:
            state.pop(key)
    refused(state, r"8 weights are missing.*head\.kernel_convs\.0")


def test_wrong_shapes_are_named(state) -> None:
    key = "bbox_head.cate_convs.0.conv.weight"
    state[key] = state[key][:, :31]
    refused(state, rf"{key} is \(32, 31, 3, 3\), not \(32, 32, 3, 3\)")


def test_keys_that_have_no_place_are_named_as_in_the_file(state) -> None:
    refused(
        {**state, "neck.fpn_convs.4.conv.bias": torch.zeros(32)},
        r"1 have no place.*neck\.fpn_convs\.4",
    )


def test_a_projection_in_the_first_block(make_model, written_as) -> None:
    """PaddleDetection's ResNet-18 has one; torchvision's and ours have not."""
    state = written_as(make_model(backbone="resnet50"), "paddle")
    basic = written_as(make_model(), "official")
    state = {key: t for key, t in state.items() if not key.startswith(("backbone.", "neck."))}
    branch = {"1": "2a", "2": "2b"}
    for key, tensor in basic.items():
        if key.startswith("backbone.layer"):
            stage, block, part, *rest = key.split(".")[1:]
            place = f"backbone.res{int(stage[-1]) + 1}.res{int(stage[-1]) + 1}{'ab'[int(block)]}"
            if part == "downsample":
                place, what = f"{place}.short", ("conv", "norm")[int(rest[0])]
            else:
                place, what = (
                    f"{place}.branch{branch[part[-1]]}",
                    "norm" if part[0] == "b" else "conv",
                )
            leaf = rest[-1].replace("running_mean", "_mean").replace("running_var", "_variance")
            if leaf != "num_batches_tracked":
                state[f"{place}.{what}.{leaf}"] = tensor
        elif key.startswith("backbone."):
            leaf = (
                key.split(".")[-1]
                .replace("running_mean", "_mean")
                .replace("running_var", "_variance")
            )
            if leaf != "num_batches_tracked":
                what = "norm" if ".bn1." in key else "conv"
                state[f"backbone.conv1.conv1.{what}.{leaf}"] = tensor
        elif key.startswith("neck."):
            _, kind, i, _, leaf = key.split(".")
            lateral = "fpn_inner_res5_sum" if i == "3" else f"fpn_inner_res{int(i) + 2}_sum_lateral"
            name = lateral if kind == "lateral_convs" else f"fpn_res{int(i) + 2}_sum"
            state[f"neck.{name}.{leaf}"] = tensor
    assert import_model(state, "file").config.backbone == "resnet18"
    state["backbone.res2.res2a.short.conv.weight"] = torch.ones(64, 64, 1, 1)
    refused(state, r"1 have no place.*backbone\.res2\.res2a\.short\.conv\.weight")


def test_blocks_that_cannot_carry_the_stride(make_model, written_as) -> None:
    """Whoever trained AdelaiDet with a ResNet-18 had no weights of MSRA's, and has to say so."""
    state = written_as(make_model(), "adelaidet")
    refused(state, "has no bottlenecks with a stride; set stride_in_1x1=False")
    choices = Choices(changes={"stride_in_1x1": False}, channels="rgb")
    assert import_model(state, "file", choices).config.backbone == "resnet18"


def test_two_layouts_in_one_file(state, make_model, written_as) -> None:
    other = written_as(make_model(), "mmdetection")
    both = {**state, **other}
    refused(
        both, r"fit several layouts: official \(bbox_head.*and mmdetection \(mask_head.*--format"
    )
    imported = import_model(both, "file", Choices(layout="mmdetection"))
    left_out = [
        key for key, why in imported.account.ignored.items() if why == "of the layout official"
    ]
    assert left_out
    assert all(key.startswith(("bbox_head.", "mask_feat_head.")) for key in left_out)


def test_the_wrong_format(state) -> None:
    refused(state, "none of its keys is of the layout paddle", Choices(layout="paddle"))


def test_one_weight_under_two_names(make_model, written_as) -> None:
    state = written_as(make_model(conv="deformable"), "official")
    place = "bbox_head.cate_convs.1.conv"
    state[f"{place}_offset.weight"] = state[f"{place}.conv_offset.weight"]
    refused(state, "are the same weight")


def test_a_preset_that_contradicts(state) -> None:
    refused(
        state,
        "contradicts --preset: it has backbone resnet18, not resnet50, .*head_channels 32, not 512",
        Choices(preset="solov2-r50-800"),
    )
    refused(
        state,
        "contradicts --set: it has kernel_length 32, not 64",
        Choices(changes={"kernel_length": 64}),
    )


def test_the_preset_that_fits_is_named(written_as) -> None:
    from solo_edge.config import preset
    from solo_edge.models.solov2 import SOLOv2

    state = written_as(SOLOv2(preset("solov2-light-r34-448", num_classes=3)), "official")
    refused(state, "use --preset solov2-light-r34-448", Choices(preset="solov2-light-r18-448"))
    choices = Choices(preset="solov2-light-r34-448", changes={"input_size": (320, 544)})
    config = import_model(state, "file", choices).config
    assert (config.num_classes, config.input_size) == (3, (320, 544))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (torch.zeros(32, dtype=torch.int64), "of type int64"),
        (torch.full((32,), torch.nan), "NaN or infinite"),
        (torch.zeros(32).to_sparse(), "not a plain tensor"),
        (torch.empty(32, device="meta"), "not a plain tensor"),
        (torch.zeros(1).expand(10**12), "larger than its data"),
        (torch.zeros(32, dtype=torch.float8_e4m3fn), "of type float8"),
    ],
)
def test_entries_that_are_no_weights(state, value: torch.Tensor, match: str) -> None:
    state["neck.fpn_convs.0.conv.bias"] = value
    refused(state, rf"neck\.fpn_convs\.0\.conv\.bias \({match}")


def deformable_everywhere(state: dict[str, torch.Tensor], places: list[str], channels: int) -> None:
    for place in places:
        inputs = state[f"{place}.weight"].shape[1]
        state[f"{place}.conv_offset.weight"] = torch.zeros(channels, inputs, 3, 3)
        state[f"{place}.conv_offset.bias"] = torch.zeros(channels)


def test_deformable_backbone(state) -> None:
    places = ["backbone.layer2.0.conv2", "backbone.layer4.1.conv2"]
    deformable_everywhere(state, places, 18)
    refused(
        state, r"in the backbone \(stages 3, 5\); deformable convolution v1 \(18 offset channels"
    )


def test_deformable_everywhere(state) -> None:
    """As in the authors' X101-DCN."""
    tower = [f"bbox_head.{t}_convs.{i}.conv" for t in ("cate", "kernel") for i in (0, 1)]
    mask = ["mask_feat_head.convs_all_levels.0.conv0.conv"]
    deformable_everywhere(state, tower + mask, 27)
    refused(state, "in mask_feature_branch; deformable convolutions elsewhere than in the last one")


def test_deformable_v1_in_the_towers(state) -> None:
    tower = [f"bbox_head.{t}_convs.1.conv" for t in ("cate", "kernel")]
    deformable_everywhere(state, tower, 18)
    refused(state, "v1")


def test_a_bias_before_the_norm(make_model, written_as) -> None:
    state = written_as(make_model(backbone="resnet50", conv="deformable"), "paddle")
    imported = import_model(state, "file")
    assert "biases, all zero" in imported.account.ignored.values()
    key = "solov2_head.bbox_head.cate_convs.1.conv.conv_dcn.bias"
    refused({**state, key: state[key] + 1}, "convolutions with a bias before their norm")


def test_large_mask_kernels(state) -> None:
    for part in ("weight", "bias"):
        key = f"bbox_head.solo_kernel.{part}"
        state[key] = torch.cat([state[key]] * 9)
    refused(state, "mask kernels of 3x3")


def test_what_no_model_can_be(state) -> None:
    """Sizes that no configuration allows are the file's fault, not the user's."""
    for key in ("bbox_head.solo_kernel.weight", "bbox_head.solo_kernel.bias"):
        state[key] = state[key][:31]
    refused(state, "kernel_length is 31")


def test_errors_keep_to_the_file(state) -> None:
    state.pop("neck.fpn_convs.2.conv.bias")
    with pytest.raises(ArtifactError) as error:
        import_weights(state, "some/file.safetensors")
    assert str(error.value).startswith("some/file.safetensors: ")
