"""Models of ours written out under the names of other code bases.

Written module by module from what those code bases call their layers, not from the importers' tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from solo_edge.config import ModelConfig, preset
from solo_edge.models.solov2 import SOLOv2

State = dict[str, Tensor]
NARROW = {"fpn_channels": 32, "head_channels": 32, "kernel_length": 32, "mask_channels": 32}


@pytest.fixture(scope="session")
def make_model() -> Callable[..., SOLOv2]:
    """make_model(preset, **fields) -> a model with narrow heads, random weights and random statistics."""

    def make(name: str = "solov2-light-r18-448", **fields: object) -> SOLOv2:
        torch.manual_seed(0)
        model = SOLOv2(preset(name, **{"num_classes": 4, **NARROW, **fields})).eval()
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
                    module.weight.uniform_(0.8, 1.2)
                    module.bias.normal_(std=0.1)
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(std=0.1)
                    module.running_var.uniform_(0.8, 1.2)
            for name, weight in model.named_parameters():
                if name.startswith(("head.", "mask_")) and weight.ndim == 4:
                    scale = 0.1 if "conv_offset" in name else 1.0
                    weight.normal_(std=scale / weight[0].numel() ** 0.5)
        return model

    return make


@pytest.fixture(scope="session")
def written_as() -> Callable[[SOLOv2, str], State]:
    """written_as(model, layout) -> its weights under the names of `layout`."""
    writers = {
        "official": _official,
        "mmdetection": _mmdetection,
        "adelaidet": _adelaidet,
        "paddle": _paddle,
    }

    def write(model: SOLOv2, layout: str) -> State:
        state: State = {}
        for key, tensor in writers[layout](model):
            assert key not in state
            state[key] = tensor.detach().clone()
        return state

    return write


def put(place: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in module.state_dict().items():
        yield f"{place}.{name}", tensor


def towers(model: SOLOv2) -> Iterator[tuple[str, int, nn.Module]]:
    for i in range(model.config.head_depth):
        yield "category", i, model.head.category_convs[i]
        yield "kernel", i, model.head.kernel_convs[i]


def mask_convs(model: SOLOv2) -> Iterator[tuple[int, int, nn.Module]]:
    for level, count in enumerate((1, 1, 2, 3)):
        for j in range(count):
            yield level, j, model.mask_feature_branch.levels[level][j]


def _mm_backbone_and_neck(model: SOLOv2) -> Iterator[tuple[str, Tensor]]:
    yield from put("backbone", model.backbone.body)
    for i in range(4):
        yield from put(f"neck.lateral_convs.{i}.conv", model.fpn.lateral_convs[i])
        yield from put(f"neck.fpn_convs.{i}.conv", model.fpn.output_convs[i])


def _official(model: SOLOv2) -> Iterator[tuple[str, Tensor]]:
    yield from _mm_backbone_and_neck(model)
    for which, i, conv in towers(model):
        yield from put(f"bbox_head.{'cate' if which == 'category' else 'kernel'}_convs.{i}", conv)
    yield from put("bbox_head.solo_cate", model.head.category_out)
    yield from put("bbox_head.solo_kernel", model.head.kernel_out)
    for level, j, conv in mask_convs(model):
        yield from put(f"mask_feat_head.convs_all_levels.{level}.conv{j}", conv)
    yield from put("mask_feat_head.conv_pred.0", model.mask_feature_branch.out)


def _mmdetection(model: SOLOv2) -> Iterator[tuple[str, Tensor]]:
    yield from _mm_backbone_and_neck(model)
    for which, i, conv in towers(model):
        yield from put(f"mask_head.{'cls' if which == 'category' else 'kernel'}_convs.{i}", conv)
    yield from put("mask_head.conv_cls", model.head.category_out)
    yield from put("mask_head.conv_kernel", model.head.kernel_out)
    for level, j, conv in mask_convs(model):
        place = f"mask_head.mask_feature_head.convs_all_levels.{level}.conv{j}"
        yield from put(place, conv)
    yield from put("mask_head.mask_feature_head.conv_pred", model.mask_feature_branch.out)


def _adelaidet(model: SOLOv2) -> Iterator[tuple[str, Tensor]]:
    """Frozen batch norms have no counters; the stem reads BGR."""
    body, bottom_up = model.backbone.body, "backbone.bottom_up"
    pairs = [("stem.conv1", body.conv1, body.bn1)]
    for stage in (2, 3, 4, 5):
        for j, block in enumerate(getattr(body, f"layer{stage - 1}")):
            for k in (1, 2, 3)[: 3 if hasattr(block, "conv3") else 2]:
                conv, norm = getattr(block, f"conv{k}"), getattr(block, f"bn{k}")
                pairs.append((f"res{stage}.{j}.conv{k}", conv, norm))
            if block.downsample is not None:
                pairs.append((f"res{stage}.{j}.shortcut", block.downsample[0], block.downsample[1]))
    for place, conv, norm in pairs:
        weight = conv.weight.flip(1) if place == "stem.conv1" else conv.weight
        yield f"{bottom_up}.{place}.weight", weight
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{bottom_up}.{place}.norm.{part}", getattr(norm, part)
    for i in range(4):
        yield from put(f"backbone.fpn_lateral{i + 2}", model.fpn.lateral_convs[i])
        yield from put(f"backbone.fpn_output{i + 2}", model.fpn.output_convs[i])
    for which, i, block in towers(model):
        tower = f"ins_head.{'cate' if which == 'category' else 'kernel'}_tower"
        yield from put(f"{tower}.{3 * i}", block.conv)
        yield from put(f"{tower}.{3 * i + 1}", block.gn)
    yield from put("ins_head.cate_pred", model.head.category_out)
    yield from put("ins_head.kernel_pred", model.head.kernel_out)
    for level, j, block in mask_convs(model):
        yield from put(f"mask_head.convs_all_levels.{level}.conv{j}.0", block.conv)
        yield from put(f"mask_head.convs_all_levels.{level}.conv{j}.1", block.gn)
    yield from put("mask_head.conv_pred.0", model.mask_feature_branch.out.conv)
    yield from put("mask_head.conv_pred.1", model.mask_feature_branch.out.gn)


def paddle_norm(place: str, norm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield f"{place}.weight", norm.weight
    yield f"{place}.bias", norm.bias
    if isinstance(norm, nn.BatchNorm2d):
        yield f"{place}._mean", norm.running_mean
        yield f"{place}._variance", norm.running_var


def paddle_conv_norm(place: str, conv: nn.Module, norm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    if hasattr(conv, "conv_offset"):
        yield from put(f"{place}.conv.conv_offset", conv.conv_offset)
        yield f"{place}.conv.conv_dcn.weight", conv.weight
        yield f"{place}.conv.conv_dcn.bias", torch.zeros(conv.weight.shape[0])
    else:
        yield f"{place}.conv.weight", conv.weight
    yield from paddle_norm(f"{place}.norm", norm)


def _paddle(model: SOLOv2) -> Iterator[tuple[str, Tensor]]:
    yield from _paddle_backbone(model.backbone.body)
    for i in range(4):
        lateral = "fpn_inner_res5_sum" if i == 3 else f"fpn_inner_res{i + 2}_sum_lateral"
        yield from put(f"neck.{lateral}", model.fpn.lateral_convs[i])
        yield from put(f"neck.fpn_res{i + 2}_sum", model.fpn.output_convs[i])
    head = "solov2_head.bbox_head"
    for which, i, block in towers(model):
        tower = "cate_convs" if which == "category" else "kernel_convs"
        yield from paddle_conv_norm(f"{head}.{tower}.{i}", block.conv, block.gn)
    yield from put(f"{head}.solo_cate", model.head.category_out)
    yield from put(f"{head}.solo_kernel", model.head.kernel_out)
    for level, j, block in mask_convs(model):
        place = f"mask_head.conv_pre_feat{level}.mask_feat_head.convs_all_levels.{level}.conv{j}"
        yield from paddle_conv_norm(place, block.conv, block.gn)
    out = model.mask_feature_branch.out
    yield from paddle_conv_norm("mask_head.mask_feat_head.conv_pred.0", out.conv, out.gn)


def _paddle_backbone(body: nn.Module) -> Iterator[tuple[str, Tensor]]:
    deep = isinstance(body.conv1, nn.Sequential)
    if deep:
        yield from paddle_conv_norm("backbone.conv1.conv1_1", body.conv1[0], body.conv1[1])
        yield from paddle_conv_norm("backbone.conv1.conv1_2", body.conv1[3], body.conv1[4])
        yield from paddle_conv_norm("backbone.conv1.conv1_3", body.conv1[6], body.bn1)
    else:
        yield from paddle_conv_norm("backbone.conv1.conv1", body.conv1, body.bn1)
    for stage in (2, 3, 4, 5):
        blocks = getattr(body, f"layer{stage - 1}")
        for j, block in enumerate(blocks):
            long = stage == 4 and len(blocks) > 10
            letters = ("a" if j == 0 else f"b{j}") if long else "abcdef"[j]
            place = f"backbone.res{stage}.res{stage}{letters}"
            for letter, k in (("a", 1), ("b", 2), ("c", 3)):
                conv, norm = getattr(block, f"conv{k}"), getattr(block, f"bn{k}")
                yield from paddle_conv_norm(f"{place}.branch2{letter}", conv, norm)
            if block.downsample is not None:
                conv, norm = list(block.downsample)[-2:]
                pool = ".conv" if deep and stage > 2 else ""
                yield from paddle_conv_norm(f"{place}.short{pool}", conv, norm)


@pytest.fixture(scope="session")
def same_fields() -> Callable[[ModelConfig, ModelConfig], None]:
    """same_fields(a, b): all that shapes tell is equal."""

    def check(a: ModelConfig, b: ModelConfig) -> None:
        names = "backbone num_classes fpn_channels head_channels head_depth kernel_length"
        for name in (*names.split(), "mask_channels", "norm", "conv", "stride_in_1x1"):
            assert getattr(a, name) == getattr(b, name), name

    return check
