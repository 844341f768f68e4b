"""Rounding in PyTorch is that of the Q/DQ graph: value by value, and for every backbone of the presets."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import solo_edge
from solo_edge import qat
from solo_edge.calibration import observers
from solo_edge.calibration.collect import collect
from solo_edge.calibration.qdq import insert_pairs, placement
from solo_edge.calibration.ranges import Ranges
from solo_edge.config import PRESETS, ModelConfig
from solo_edge.errors import ArtifactError
from solo_edge.export.onnx import export_onnx
from solo_edge.export.self_check import make_image
from solo_edge.models.solov2 import SOLOv2
from solo_edge.preprocess import Preprocess
from solo_edge.qat import FakeInt8, fake_quantize, freeze_batch_norms, weight_scales
from solo_edge.qat_plan import make_plan
from solo_edge.runtime.graphs import NetworkGraph

OUTPUTS = ("category_scores", "mask_kernels", "mask_features")
BACKBONES = {config.backbone: config for config in PRESETS.values()}


def test_rounding_by_hand():
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 127.4, 300.0, -127.6, -300.0])
    wanted = [0.0, 2.0, 2.0, 0.0, -2.0, 127.0, 127.0, 127.0, -128.0, -128.0]
    assert fake_quantize(x, torch.tensor(1.0)).tolist() == wanted
    assert fake_quantize(x * 0.25, torch.tensor(0.25)).tolist() == [0.25 * v for v in wanted]


def test_the_gradient_stops_where_values_are_clipped():
    x = torch.tensor([0.3, 126.9, 127.6, 200.0, -127.9, -128.6], requires_grad=True)
    fake_quantize(x, torch.tensor(1.0)).backward(torch.arange(1.0, 7.0))
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 0.0, 0.0, 5.0, 0.0]


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3))
def test_rounding_is_that_of_onnx_runtime(seed, size):
    x = np.random.default_rng(seed).normal(0, size, (4, 99)).astype(np.float32)
    scale = np.array(size * 2.5 / 127, np.float32)
    expected = pair_session().run(None, {"x": x, "scale": scale})[0]
    found = fake_quantize(torch.from_numpy(x), torch.from_numpy(scale)).numpy()
    assert np.array_equal(found, expected)


@functools.cache
def pair_session():
    make = onnx.helper.make_node
    nodes = [
        make("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        make("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "pair",
        [value("x", onnx.TensorProto.FLOAT, [4, 99]), value("scale", onnx.TensorProto.FLOAT, [])],
        [value("y", onnx.TensorProto.FLOAT, [4, 99])],
        [onnx.numpy_helper.from_array(np.int8(0), "zero")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 9
    return exact_session(model)


@pytest.mark.parametrize("factor", [1.0, 1e-30, 0.0])
def test_weights_get_the_scales_of_the_writer(factor):
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * factor
    weight[2] = 0
    expected = observers.weight_scales(weight.numpy())
    assert np.array_equal(weight_scales(weight).flatten().numpy(), expected)


def exact_session(model):
    """ONNX Runtime without its own kernels for INT8: it computes what the graph says, in float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def tiny(config: ModelConfig, **changes: str) -> SOLOv2:
    """The backbone of a preset with a small head, and statistics that keep the signal alive."""
    sizes = {"fpn_channels": 16, "head_channels": 16, "kernel_length": 16, "mask_channels": 16}
    grids = {"input_size": (64, 96), "grid_sizes": (8, 7, 6, 5, 4), "num_classes": 3}
    torch.manual_seed(0)
    model = SOLOv2(dataclasses.replace(config, **sizes, **grids, norm_groups=4, **changes))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # some start at 0, and so would their weights
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.cat([image_of(model, seed) for seed in range(3)]))
    return model.eval()


def image_of(model: SOLOv2, seed: int = 0) -> torch.Tensor:
    preprocess = Preprocess.from_config(model.config)
    return torch.from_numpy(preprocess.normalise(make_image(model.config.input_size, seed))[None])


def measured(model: SOLOv2, folder: Path) -> tuple[onnx.ModelProto, Ranges]:
    """The float graph, and ranges that clip the largest values."""
    path = folder / "model.onnx"
    export_onnx(model, path)
    graph = onnx.load(path)
    where = placement(graph)
    histograms = collect(graph, where.activations, [image_of(model).numpy()], threads=1)
    limits = {
        where.sites[name]: max(0.8 * found.maximum, 1e-6) for name, found in histograms.items()
    }
    return graph, Ranges("0" * 64, {}, "max", 99.99, (), limits)


class Forced(qat._Run):
    """Compares what every pair makes with ONNX Runtime's, and goes on with that of ONNX Runtime."""

    def __init__(self, plan, model, expected):
        super().__init__(plan, model, torch.device("cpu"))
        self.expected = expected
        self.seen: set[str] = set()

    def rounded(self, x, pair):
        found, expected = super().rounded(x, pair), self.expected[pair.output]
        self.seen.add(pair.output)
        steps = ((found - expected) / pair.scale).abs()
        # The sums of a convolution come in another order: a value between two steps may flip.
        assert steps.max() < 1.01, pair
        assert (steps > 0.01).float().mean() < 1e-3, pair
        return expected


def require_equal_at_every_pair(model, graph, ranges):
    """From the same rounded inputs, both make the same values for the next pair and at the end."""
    quantised = insert_pairs(graph, ranges.limits, ranges.excluded)
    plan = make_plan(model, quantised)
    pairs = [pair for call in plan.convolutions if (pair := call.input)]
    pairs += [pair for call in plan.additions for pair in call.inputs if pair]
    names = list(dict.fromkeys(pair.output for pair in pairs))
    for name in names:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        quantised.graph.output.append(value)
    image = image_of(model, seed=1)
    outputs = exact_session(quantised).run([*OUTPUTS, *names], {"image": image.numpy()})
    expected = dict(zip([*OUTPUTS, *names], map(torch.from_numpy, outputs), strict=True))
    run = Forced(plan, model, expected)

    class Rounded(nn.Module):
        def forward(self, images):
            with run:
                return model(images)

    with torch.no_grad():
        found = NetworkGraph(Rounded())(image)
    run.finish()
    assert run.seen == set(names)
    for name, values in zip(OUTPUTS, found, strict=True):
        wanted = expected[name]
        if (
            name == "category_scores"
        ):  # points NMS sets scores to 0; of two equal ones either may stay
            kept = (values > 0) & (wanted > 0)
            assert kept.sum() > 0.99 * (wanted > 0).sum()
            values, wanted = values[kept], wanted[kept]
        assert (values - wanted).abs().max() < 1e-4 * wanted.abs().max(), name
    return plan


def test_every_pair_equals_the_graphs(tmp_path):
    model = tiny(BACKBONES["resnet18"])
    graph, ranges = measured(model, tmp_path)
    plan = require_equal_at_every_pair(model, graph, ranges)
    where = placement(graph)
    assert sum(each.input is not None for each in plan.convolutions) == len(where.convolutions)
    assert sum(any(each.inputs) for each in plan.additions) > 5


@pytest.mark.slow
@pytest.mark.parametrize("backbone", sorted(BACKBONES.keys() - {"resnet18"}))
def test_every_pair_equals_the_graphs_for_the_other_backbones(backbone, tmp_path):
    model = tiny(BACKBONES[backbone])
    require_equal_at_every_pair(model, *measured(model, tmp_path))


@pytest.mark.slow
def test_every_pair_equals_the_graphs_where_the_head_has_batch_norms_and_depthwise_convolutions(
    tmp_path,
):
    model = tiny(BACKBONES["mobilenetv4_conv_small_050"], norm="batch", conv="separable")
    plan = require_equal_at_every_pair(model, *measured(model, tmp_path))
    depthwise = "mask_feature_branch.levels.3.0.conv.0.weight"
    assert [call.coordinates for call in plan.convolutions if call.weight == depthwise] == [2]


@pytest.fixture(scope="module")
def shipped():
    return solo_edge.load_model(
        Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
    )


@pytest.fixture(scope="module")
def shipped_ranges(shipped, tmp_path_factory):
    return measured(shipped, tmp_path_factory.mktemp("shipped"))


def test_every_pair_of_the_shipped_model_equals_the_graphs(shipped, shipped_ranges):
    require_equal_at_every_pair(shipped, *shipped_ranges)


def test_excluded_layers_stay_in_float(shipped, shipped_ranges):
    graph, ranges = shipped_ranges
    # One behind a residual addition, one that five levels share.
    weights = placement(graph).weights
    skip = next(w for w in weights if ("blocks" in w and "conv_pwl" in w) or "pw_proj" in w)
    shared = next(w for w in weights if "category_convs" in w)
    excluded = dataclasses.replace(ranges, excluded=(skip, shared))
    plan = require_equal_at_every_pair(shipped, graph, excluded)
    named = {f"model.{each.weight}" for each in plan.convolutions if each.input is None}
    assert {skip, shared} <= named


@pytest.fixture(scope="module")
def shipped_int8(shipped, shipped_ranges):
    graph, ranges = shipped_ranges
    return FakeInt8(make_plan(shipped, insert_pairs(graph, ranges.limits)))


def test_the_model_stays_as_it_is(shipped, shipped_int8):
    image = image_of(shipped)
    before = {name: value.clone() for name, value in shipped.state_dict().items()}
    with torch.no_grad():
        exact = shipped(image).mask_features
        rounded = shipped_int8(shipped, image).mask_features
        assert torch.equal(shipped(image).mask_features, exact)
    assert not torch.equal(rounded, exact)
    after = shipped.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_log_says_what_is_on(shipped_int8, shipped_ranges):
    where = placement(shipped_ranges[0])
    assert f"{len(where.convolutions)} of 91 convolutions and 10 residual" in str(shipped_int8)


def test_gradients_reach_every_weight_and_statistics_stay(shipped, shipped_int8):
    model = copy.deepcopy(shipped).train().requires_grad_(True)
    freeze_batch_norms(model)
    before = {name: value.clone() for name, value in model.named_buffers()}
    output = shipped_int8(model, torch.cat([image_of(model, seed) for seed in range(2)]))
    maps = (*output.category_logits, *output.mask_kernels, output.mask_features)
    sum(x.square().mean() for x in maps).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())


def test_mixed_precision_rounds_at_nearly_the_same_places(shipped, shipped_int8):
    image = image_of(shipped)
    with torch.no_grad():
        exact = shipped_int8(shipped, image).mask_features
        with torch.autocast("cpu", torch.bfloat16):
            found = shipped_int8(shipped, image).mask_features.float()
    assert torch.linalg.norm(found - exact) < 0.1 * torch.linalg.norm(exact)


def test_a_copy_with_other_weights_runs_by_the_same_plan(shipped, shipped_int8):
    other, image = copy.deepcopy(shipped), image_of(shipped)
    with torch.no_grad():
        other.head.kernel_out.weight.mul_(2)
        a, b = (shipped_int8(model, image) for model in (shipped, other))
    assert torch.equal(a.mask_features, b.mask_features)
    assert not torch.equal(a.mask_kernels[0], b.mask_kernels[0])


def test_a_network_that_computes_in_another_order_is_refused(shipped, shipped_int8):
    changed = copy.deepcopy(shipped)
    changed.head.category_convs = changed.head.category_convs[:1]
    with torch.no_grad(), pytest.raises(ArtifactError, match="in the order of its export"):
        shipped_int8(changed, image_of(shipped))


def test_a_graph_of_other_weights_is_refused(shipped, shipped_ranges):
    graph, ranges = shipped_ranges
    quantised, changed = insert_pairs(graph, ranges.limits), copy.deepcopy(shipped)
    with torch.no_grad():
        changed.backbone.body.bn1.weight[0] *= 1.01
    with pytest.raises(ArtifactError, match=r"other values of backbone.body.conv_stem.weight"):
        make_plan(changed, quantised)
    for node in quantised.graph.node:
        if node.op_type == "Add" and node.input[1].endswith(".dequantized"):
            node.input[1] = node.input[1].removesuffix(".dequantized")
            node.input[0], node.input[1] = node.input[1], node.input[0]
            break
    with pytest.raises(ArtifactError, match="adds other maps than the graph"):
        make_plan(shipped, quantised)
