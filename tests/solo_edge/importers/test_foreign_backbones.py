"""Residual networks built here as detectron2 and PaddleDetection build theirs compute what ours compute.

Only the names of their layers and their arithmetic are taken over; the names make the checkpoint.
"""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from solo_edge.errors import UsageError
from solo_edge.importers.adelaidet import ADELAIDET
from solo_edge.importers.layout import Layout
from solo_edge.importers.paddle import PADDLE
from solo_edge.models.backbone import Backbone

WIDTHS = (64, 128, 256, 512)
BLOCKS = (3, 4, 6, 3)


class Convolution(nn.Conv2d):
    """detectron2's: the norm is a part of the convolution."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1):
        super().__init__(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class CaffeBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.shortcut = Convolution(inputs, 4 * width, 1, stride) if inputs != 4 * width else None
        self.conv1 = Convolution(inputs, width, 1, stride)  # the stride is here
        self.conv2 = Convolution(width, width, 3)
        self.conv3 = Convolution(width, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(x).relu()).relu())
        return (out + (x if self.shortcut is None else self.shortcut(x))).relu()


class CaffeResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleDict({"conv1": Convolution(3, 64, 7, 2)})
        inputs = 64
        for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True), start=2):
            blocks = []
            for j in range(count):
                blocks.append(CaffeBlock(inputs, width, 2 if stage > 2 and j == 0 else 1))
                inputs = 4 * width
            self.add_module(f"res{stage}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.max_pool2d(self.stem["conv1"](x).relu(), 3, 2, 1)
        features = []
        for stage in (self.res2, self.res3, self.res4, self.res5):
            x = stage(x)
            features.append(x)
        return features


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(outputs)))


class PaddleBlock(nn.Module):
    """Variant b halves in the 3x3 convolution; d also pools in the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: bool, variant: str):
        super().__init__()
        if not shortcut:
            self.short: nn.Module = conv_norm(inputs, 4 * width, 1, stride)
            if variant == "d" and stride == 2:
                pool = nn.AvgPool2d(2, 2, 0, ceil_mode=True)
                conv = conv_norm(inputs, 4 * width, 1)
                self.short = nn.Sequential(OrderedDict(pool=pool, conv=conv))
        self.shortcut = shortcut
        self.branch2a = conv_norm(inputs, width, 1)
        self.branch2b = conv_norm(width, width, 3, stride)
        self.branch2c = conv_norm(width, 4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch2c(self.branch2b(self.branch2a(x).relu()).relu())
        return (out + (x if self.shortcut else self.short(x))).relu()


class PaddleResNet(nn.Module):
    def __init__(self, variant: str):
        super().__init__()
        stem = {"conv1": conv_norm(3, 64, 7, 2)}
        if variant != "b":
            stem = {
                "conv1_1": conv_norm(3, 32, 3, 2),
                "conv1_2": conv_norm(32, 32, 3),
                "conv1_3": conv_norm(32, 64, 3),
            }
        self.conv1 = nn.ModuleDict(stem)
        inputs = 64
        for stage, (width, count) in enumerate(zip(WIDTHS, BLOCKS, strict=True), start=2):
            blocks = nn.Sequential()
            for j in range(count):
                stride = 2 if j == 0 and stage != 2 else 1
                block = PaddleBlock(inputs, width, stride, j > 0, variant)
                blocks.add_module(f"res{stage}{chr(ord('a') + j)}", block)
                inputs = 4 * width
            self.add_module(f"res{stage}", blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        for layer in self.conv1.values():
            x = layer(x).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        features = []
        for stage in (self.res2, self.res3, self.res4, self.res5):
            x = stage(x)
            features.append(x)
        return features

    def state_in_paddles_words(self) -> dict[str, Tensor]:
        words = {".running_mean": "._mean", ".running_var": "._variance"}
        state = {}
        for key, tensor in self.state_dict().items():
            for ours, theirs in words.items():
                key = key.replace(ours, theirs)
            if not key.endswith("num_batches_tracked"):  # Paddle counts nothing
                state[key] = tensor
        return state


def randomise(model: nn.Module) -> None:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 0.8)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)


def assert_same_features(
    theirs: nn.Module, state: dict[str, Tensor], prefix: str, layout: Layout, ours: Backbone
) -> None:
    keys = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    account = layout.account(keys)
    assert not account.unknown
    weights = {
        name.removeprefix("backbone.body."): keys[key] for key, name in account.names.items()
    }
    result = ours.body.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours.eval()(images), theirs.eval()(images), strict=True):
            assert a.std() > 0.01
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.std()))


def test_stride_in_the_1x1_convolution_as_in_detectron2() -> None:
    theirs = CaffeResNet()
    randomise(theirs)
    ours = Backbone("resnet50", stride_in_1x1=True)
    assert_same_features(theirs, theirs.state_dict(), "backbone.bottom_up.", ADELAIDET, ours)


def test_the_stride_makes_a_difference() -> None:
    theirs = CaffeResNet()
    randomise(theirs)
    with pytest.raises(AssertionError):
        assert_same_features(
            theirs, theirs.state_dict(), "backbone.bottom_up.", ADELAIDET, Backbone("resnet50")
        )


@pytest.mark.parametrize(
    ("variant", "name"), [("b", "resnet50"), ("c", "resnet50c"), ("d", "resnet50d")]
)
def test_paddles_variants(variant: str, name: str) -> None:
    theirs = PaddleResNet(variant)
    randomise(theirs)
    state = theirs.state_in_paddles_words()
    assert_same_features(theirs, state, "backbone.", PADDLE, Backbone(name))


def test_basic_blocks_have_no_1x1_convolution() -> None:
    with pytest.raises(UsageError, match="no bottlenecks with a stride"):
        Backbone("resnet18", stride_in_1x1=True)
