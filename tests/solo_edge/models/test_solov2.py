from __future__ import annotations

import pytest
import torch

from solo_edge.config import PRESETS, preset
from solo_edge.errors import UsageError
from solo_edge.models.backbone import Backbone
from solo_edge.models.layers import append_coordinates
from solo_edge.models.solov2 import SOLOv2

# Millions of parameters, counted from the authors' layer list (80 classes).
PARAMETERS = {
    "solov2-light-r18-448": 18.27,
    "solov2-light-r34-448": 28.38,
    "solov2-light-r50-448": 31.34,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_size_of_the_official_presets(name: str) -> None:
    model = SOLOv2(preset(name))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        PARAMETERS[name], abs=0.01
    )


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_shapes(name: str) -> None:
    """Every preset, at a small size: the grids and the stride-4 map do not depend on the class count."""
    model = SOLOv2(preset(name, num_classes=3)).eval()
    with torch.no_grad():
        output = model(torch.randn(1, 3, 128, 192))
    config = model.config
    for logits, mask_kernels, size in zip(
        output.category_logits, output.mask_kernels, config.grid_sizes, strict=True
    ):
        assert logits.shape == (1, 3, size, size)
        assert mask_kernels.shape == (1, config.kernel_length, size, size)
    assert output.mask_features.shape == (1, config.kernel_length, 32, 48)


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "batch"},
        {"conv": "separable"},
        {"conv": "deformable"},
        {"head_depth": 4},
        {"grid_sizes": (9,), "levels": (3,), "scale_ranges": ((1, 1e5),)},
        {"grid_sizes": (13, 7), "levels": (2, 6), "scale_ranges": ((1, 64), (32, 1e5))},
        {"backbone": "resnet10t"},
    ],
)
def test_fields_of_the_configuration(fields: dict) -> None:
    model = SOLOv2(preset("solov2-nano-256", num_classes=2, **fields)).train()
    output = model(torch.randn(2, 3, 96, 64))
    assert len(output.category_logits) == len(model.config.grid_sizes)
    torch.cat(
        [x.flatten() for x in (*output.category_logits, *output.mask_kernels)]
    ).sum().backward()


@pytest.mark.parametrize("size", [(97, 131), (64, 33), (199, 261)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    with torch.no_grad():
        output = SOLOv2(preset("solov2-nano-256")).eval()(torch.randn(1, 3, *size))
    assert output.mask_features.shape[-2:] == (-(-size[0] // 4), -(-size[1] // 4))


def test_coordinates_run_x_then_y() -> None:
    x = append_coordinates(torch.zeros(1, 1, 3, 5))[0]
    assert torch.equal(x[1], torch.linspace(-1, 1, 5).expand(3, 5))
    assert torch.equal(x[2], torch.linspace(-1, 1, 3)[:, None].expand(3, 5))


def test_unknown_backbone_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="resnet18"):
        Backbone("resnet-18")
    with pytest.raises(UsageError, match="strides 4, 8, 16 and 32"):
        Backbone("vit_tiny_patch16_224")


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        SOLOv2(preset("solov2-nano-256"))(torch.zeros(3, 64, 64))
