"""The graphs as PyTorch modules, and what fewer bits change in them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from solo_edge.config import PostprocessConfig, preset
from solo_edge.manifest import cell_strides, describe_tensors
from solo_edge.models.solov2 import SOLOv2
from solo_edge.runtime.graphs import FullGraph, NetworkGraph, _fold_batch_norms, graph_module


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1, 3, 256, 256, generator=generator)


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_outputs_are_as_described(lively_model, image):
    config = PostprocessConfig()
    for graph in ("network", "full"):
        with torch.inference_mode():
            outputs = graph_module(lively_model, graph, "fp32", config)(image)
        _, specs = describe_tensors(lively_model.config, graph, config)
        assert [tuple(t.shape) for t in outputs] == [spec.shape for spec in specs]
        assert [str(t.dtype).removeprefix("torch.") for t in outputs] == [s.dtype for s in specs]


def test_float32_takes_the_model_itself(lively_model):
    assert NetworkGraph(lively_model).model is lively_model


def test_strides_of_the_manifest_are_those_of_the_network(lively_model, image):
    with torch.inference_mode():
        strides = FullGraph(lively_model, PostprocessConfig())._tensors(image)[3]
    assert strides.tolist() == cell_strides(lively_model.config).tolist()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_fewer_bits_are_close_and_norms_stay_in_float32(lively_model, image, precision):
    before = {name: tensor.clone() for name, tensor in lively_model.state_dict().items()}
    graph = NetworkGraph(lively_model, precision)
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for module in graph.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.dtype == kind
        if isinstance(module, nn.GroupNorm):
            assert module.weight.dtype == torch.float32
    assert not any(isinstance(m, nn.BatchNorm2d) for m in graph.modules())
    with torch.inference_mode():
        found, expected = graph(image), NetworkGraph(lively_model)(image)
    limit = {"bf16": 0.15, "fp16": 0.03}[precision]
    for name, a, b in zip(("kernels", "features"), found[1:], expected[1:], strict=True):
        assert a.dtype == torch.float32
        assert 1e-5 < relative_error(a, b) < limit, name
    after = lively_model.state_dict()  # the model itself is as it was
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_folding_batch_norms_changes_nothing_else(norm):
    torch.manual_seed(0)
    model = SOLOv2(
        preset(
            "solov2-nano-256",
            num_classes=2,
            norm=norm,
            levels=(2, 3),
            grid_sizes=(8, 6),
            scale_ranges=((1, 64), (32, 256)),
        )
    )
    image = torch.randn(2, 3, 128, 128)
    model.train()(image)  # statistics that are not 0 and 1
    model.eval()
    folded = _fold_batch_norms(copy.deepcopy(model))
    before = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert before > 20
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.inference_mode():
        expected, found = model(image), folded(image)
    pairs = [*zip(found.category_logits, expected.category_logits, strict=True)]
    pairs += [*zip(found.mask_kernels, expected.mask_kernels, strict=True)]
    for a, b in [*pairs, (found.mask_features, expected.mask_features)]:
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Awkward(nn.Module):
    """Batch norms that may not be folded: one convolution for two of them, and one behind a sum."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Conv2d(3, 4, 3, padding=1)
        self.first, self.second, self.sum = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.plain = nn.Conv2d(4, 4, 1, bias=False)
        self.foldable = nn.BatchNorm2d(4, affine=False)

    def forward(self, x):
        y = self.shared(x)
        y = self.first(y) + self.second(y)
        return self.foldable(self.plain(self.sum(y)))


def test_only_a_norm_that_owns_its_convolution_is_folded():
    torch.manual_seed(0)
    model = Awkward()
    image = torch.randn(1, 3, 64, 64)
    model.train()(image)
    model.eval()
    with torch.inference_mode():
        expected = model(image)
        found = _fold_batch_norms(model)(image)
    assert isinstance(model.first, nn.BatchNorm2d)
    assert isinstance(model.sum, nn.BatchNorm2d)
    assert not isinstance(model.foldable, nn.BatchNorm2d)
    torch.testing.assert_close(found, expected)
