"""One model written in each layout comes back with the same outputs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from solo_edge.config import preset
from solo_edge.importers import Choices, import_model, import_weights
from solo_edge.importers.convert import LAYOUTS
from solo_edge.models.solov2 import SOLOv2
from solo_edge.preprocess import Preprocess

ADELAIDET = {"backbone": "resnet50", "stride_in_1x1": True, "pixel_std": (1.0, 1.0, 1.0)}
CASES = {
    "official-r18": ("official", {}),
    "official-r50-dcn": ("official", {"backbone": "resnet50", "conv": "deformable"}),
    "official-r101": ("official", {"backbone": "resnet101", "head_depth": 4}),
    "official-batch-norm": ("official", {"norm": "batch"}),
    "mmdetection-r34": ("mmdetection", {"backbone": "resnet34"}),
    "mmdetection-r18-dcn": ("mmdetection", {"conv": "deformable", "head_depth": 3}),
    "mmdetection-x50": ("mmdetection", {"backbone": "resnext50_32x4d"}),
    "adelaidet-r50": ("adelaidet", ADELAIDET),
    "adelaidet-r101": ("adelaidet", {**ADELAIDET, "backbone": "resnet101", "head_depth": 4}),
    "paddle-r50": ("paddle", {"backbone": "resnet50", "head_depth": 4}),
    "paddle-r101-vd": ("paddle", {"backbone": "resnet101d", "head_depth": 4}),
    "paddle-r50-vd-dcn": (
        "paddle",
        {"backbone": "resnet50d", "head_depth": 3, "conv": "deformable"},
    ),
    "paddle-batch-norm": ("paddle", {"backbone": "resnet50", "norm": "batch"}),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_outputs(case: str, make_model, written_as, same_fields) -> None:
    layout, fields = CASES[case]
    model = make_model(**fields)
    imported = import_model(written_as(model, layout), "file")
    assert imported.layout is LAYOUTS[layout]
    same_fields(imported.config, model.config)
    assert imported.config.pixel_std == model.config.pixel_std
    again = SOLOv2(imported.config).eval()
    again.load_state_dict(imported.weights, strict=False)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(flat(model(images)), flat(again(images)), strict=True):
            assert torch.equal(a, b)
            assert a.std() > 0.01  # outputs that tell weights apart


def flat(output) -> list[torch.Tensor]:
    return [*output.category_logits, *output.mask_kernels, output.mask_features]


@pytest.mark.parametrize("layout", ["official", "mmdetection"])
@pytest.mark.parametrize("name", ["r18", "r34", "r50"])
def test_published_light_models(layout: str, name: str, written_as) -> None:
    config = preset(f"solov2-light-{name}-448")
    found, _ = import_weights(written_as(SOLOv2(config), layout), "file")
    assert dataclasses.replace(found, name=config.name) == config


@pytest.mark.parametrize("layout", ["official", "mmdetection", "paddle"])
@pytest.mark.parametrize(
    "backbone", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)]
)
def test_published_full_models(layout: str, backbone: str, written_as) -> None:
    config = preset("solov2-r50-800", backbone=backbone)
    found, _ = import_weights(written_as(SOLOv2(config), layout), "file")
    assert dataclasses.replace(found, name=config.name) == config


def test_bgr_images_with_standard_deviation_one(make_model, written_as) -> None:
    """What AdelaiDet computes from a BGR image, we compute from the RGB one."""
    state = written_as(make_model(**ADELAIDET), "adelaidet")
    imported = import_model(state, "file")
    config = dataclasses.replace(imported.config, input_size=(64, 96))
    rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    ours = torch.from_numpy(Preprocess.from_config(config)(rgb)[0].copy())[None]
    # detectron2's defaults: BGR, and its mean in that order.
    bgr = torch.from_numpy(rgb[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    theirs = bgr - torch.tensor([103.53, 116.28, 123.675]).view(1, 3, 1, 1)
    stem = {"stride": 2, "padding": 3}
    a = torch.nn.functional.conv2d(ours, imported.weights["backbone.body.conv1.weight"], **stem)
    b = torch.nn.functional.conv2d(theirs, state["backbone.bottom_up.stem.conv1.weight"], **stem)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4 * float(b.std()))


def test_channels_can_be_told(make_model, written_as) -> None:
    state = written_as(make_model(**ADELAIDET), "adelaidet")
    stem = "backbone.body.conv1.weight"
    turned = import_model(state, "file").weights[stem]
    kept = import_model(state, "file", Choices(channels="rgb")).weights[stem]
    assert torch.equal(turned.flip(1), kept)
    official = written_as(make_model(), "official")
    flipped = import_model(official, "file", Choices(channels="bgr")).weights[stem]
    assert torch.equal(flipped.flip(1), import_model(official, "file").weights[stem])


def test_what_trainings_leave_behind_is_left_out(make_model, written_as) -> None:
    model = make_model()
    state = written_as(model, "mmdetection")
    averaged = {f"ema_{key.replace('.', '_')}": tensor + 1 for key, tensor in state.items()}
    imported = import_model({**averaged, **state}, "file")
    kinds = set(imported.account.ignored.values())
    assert kinds == {"raw weights beside the averaged ones", "batch counters of the norms"}
    weight = "head.category_out.weight"
    assert torch.equal(imported.weights[weight], model.state_dict()[weight])


def test_offsets_under_the_names_of_old_files(make_model, written_as) -> None:
    model = make_model(conv="deformable")
    state = written_as(model, "official")
    old = {key.replace(".conv.conv_offset.", ".conv_offset."): state[key] for key in state}
    assert old.keys() != state.keys()
    imported = import_model(old, "file")
    name = "head.kernel_convs.1.conv.conv_offset.weight"
    assert torch.equal(imported.weights[name], model.state_dict()[name])


def test_halves_become_single_precision(make_model, written_as) -> None:
    state = {
        key: t.half() if t.is_floating_point() else t
        for key, t in written_as(make_model(), "official").items()
    }
    weights = import_weights(state, "file")[1]
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
