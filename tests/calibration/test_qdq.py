"""The pairs in the graph: where they stand, in which type, and that NVIDIA's parser takes them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from solo_edge.calibration.observers import LEVELS
from solo_edge.calibration.qdq import insert_pairs, placement, problems
from solo_edge.calibration.session import open_session
from solo_edge.errors import ArtifactError

GRAPHS = [("network", "fp32"), ("full", "fp32"), ("network", "fp16"), ("full", "fp16")]
PRESETS = ["nano-256", "light-mbv2-448", "light-r18-448", "light-r34-448", "light-r50-448"]


@pytest.fixture(scope="module")
def graph(float_graph):
    return float_graph()


@pytest.fixture(scope="module")
def quantised(int8_graph):
    return int8_graph()


def makers(model):
    return {name: node for node in model.graph.node for name in node.output}


def constants(model):
    return {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}


def test_every_chosen_convolution_reads_pairs_and_no_bias_has_one(graph, quantised):
    where = placement(graph)
    assert len(where.convolutions) > 60
    made = makers(quantised)
    for node in quantised.graph.node:
        if node.op_type == "Conv" and node.name in where.convolutions:
            assert [made[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert not node.input[2:] or node.input[2] not in made
        elif node.op_type == "Conv":
            assert all(made.get(n) is None or "Quantize" not in made[n].op_type for n in node.input)
    assert problems(quantised) == []


def test_what_stays_in_floating_point(graph):
    where = placement(graph)
    float_weights = {
        node.input[1]
        for node in graph.graph.node
        if node.op_type == "Conv" and node.name not in where.convolutions
    }
    predictions = ("category_out", "kernel_out", "mask_feature_branch.out")
    assert len(float_weights) == 3
    assert all(any(part in name for part in predictions) for name in float_weights)


def test_a_convolution_that_reads_coordinates_stays_in_floating_point():
    """The exporter folds them in; what it cannot fold has a concatenation."""
    make, info, kind = (
        onnx.helper.make_node,
        onnx.helper.make_tensor_value_info,
        onnx.TensorProto.FLOAT,
    )
    nodes = [
        make("Concat", ["image", "coordinates"], ["joined"], "joined", axis=1),
        make("Conv", ["joined", "a.weight"], ["a"], "a"),
        make("Conv", ["a", "b.weight"], ["b"], "b"),
    ]
    values = {
        "coordinates": np.zeros((1, 2, 4, 4), np.float32),
        "a.weight": np.ones((3, 5, 1, 1), np.float32),
        "b.weight": np.ones((1, 3, 1, 1), np.float32),
    }
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [info("image", kind, [1, 3, 4, 4])],
        [info("b", kind, [1, 1, 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    assert placement(onnx.helper.make_model(graph)).weights == ("b.weight",)


def test_a_residual_addition_gets_its_pair_on_the_skip_alone(graph, quantised):
    made, where = makers(quantised), placement(graph)
    kinds = Counter()
    for node in quantised.graph.node:
        if node.op_type == "Add" and all(name in made for name in node.input):
            sources = [made[name] for name in node.input]
            if any(source.name in where.convolutions for source in sources):
                kinds[tuple(sorted(source.op_type for source in sources))] += 1
                assert (node.name in where.skips) == (sources[-1].op_type == "DequantizeLinear")
    assert kinds == {("Conv", "DequantizeLinear"): 10, ("Conv", "Resize"): 3}


def test_shared_weights_and_inputs_have_one_pair(graph, quantised):
    where = placement(graph)
    assert len(where.convolutions) > len(where.weights)  # the head is the same on every level
    count = Counter(node.op_type for node in quantised.graph.node)
    assert count["QuantizeLinear"] == len(where.weights) + len(where.activations)
    assert count["DequantizeLinear"] == count["QuantizeLinear"]


def test_float32_scales_are_range_over_127(graph, quantised, limits):
    values, where = constants(quantised), placement(graph)
    for name, site in where.sites.items():
        assert values[f"{name}.scale"] == np.float32(limits[site]) / np.float32(LEVELS)


def test_in_float16_pairs_have_float16_scales_that_clip_nothing_more(float_graph, int8_graph):
    exact, model = constants(int8_graph()), int8_graph("network", "fp16")
    assert [each.version for each in model.opset_import] == [19]
    assert problems(model) == []
    names32 = {site: name for name, site in placement(float_graph()).sites.items()}
    values = constants(model)
    for name, site in placement(float_graph("network", "fp16")).sites.items():
        half, single = values[f"{name}.scale"], exact[f"{names32[site]}.scale"]
        assert half.dtype == np.float16
        assert 1 <= half / single <= 1 + 2**-10
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in values:
            weight, scale = values[node.input[0]], values[node.input[1]].astype(np.float64)
            largest = np.abs(weight.astype(np.float64)).reshape(len(weight), -1).max(axis=1)
            assert (largest <= LEVELS * scale).all()


def test_tiny_weights_and_ranges_get_a_normal_float16_scale(float_graph, limits):
    model = onnx.ModelProto()
    model.CopyFrom(float_graph("network", "fp16"))
    where = placement(model)
    weight = next(each for each in model.graph.initializer if each.name == where.weights[3])
    values = numpy_helper.to_array(weight).copy()
    values[0], values[1] = 1e-4, 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    tensor, site = next(iter(where.sites.items()))
    result = insert_pairs(model, {**limits, site: 1e-5})
    found = constants(result)
    assert found[f"{weight.name}.scale"][:2].tolist() == [2**-14, 2**-14]
    assert found[f"{tensor}.scale"] == 2**-14
    assert problems(result) == []
    with pytest.raises(ArtifactError, match="too large for float16"):
        insert_pairs(model, {**limits, site: 1e7})


@pytest.mark.slow
def test_opset_19_means_the_same_for_all_operators_of_the_graphs(float_graph):
    for kind in GRAPHS:
        model = float_graph(*kind)
        converted = onnx.version_converter.convert_version(model, 19)
        assert list(model.graph.node) == list(converted.graph.node)


def test_an_operator_that_changed_with_opset_19_is_refused(float_graph, limits):
    model = onnx.ModelProto()
    model.CopyFrom(float_graph("network", "fp16"))
    extra = onnx.helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[2, 2])
    model.graph.node.append(extra)
    with pytest.raises(ArtifactError, match=r"opset 18 graph with AveragePool.* is no opset 19"):
        insert_pairs(model, limits)


def test_sites_are_the_same_tensors_in_float16_and_float32(float_graph, scenes):
    single, half = float_graph(), float_graph("network", "fp16")
    ours, theirs = placement(single).sites, placement(half).sites
    assert list(ours.values()) == list(theirs.values())
    assert ours != theirs  # the tensors themselves have other names
    exact = dict(zip(ours.values(), watched(single, ours, scenes[0]), strict=True))
    for site, value in zip(theirs.values(), watched(half, theirs, scenes[0]), strict=True):
        assert np.abs(exact[site] - value).max() < 0.01 * np.abs(exact[site]).max(), site


def watched(model, tensors, image):
    """Values of tensors of any type, as float32."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {name: name if name == "image" else f"{name}.watched" for name in tensors}
    for name, new in names.items():
        if new != name:
            cast = onnx.helper.make_node("Cast", [name], [new], to=onnx.TensorProto.FLOAT)
            copy.graph.node.append(cast)
    session = open_session(copy, 1, watched=list(names.values()))
    return session.run(list(names.values()), {"image": image})


@pytest.mark.parametrize(("kind", "precision"), GRAPHS)
def test_one_set_of_ranges_serves_every_graph(float_graph, limits, kind, precision):
    model = insert_pairs(float_graph(kind, precision), limits)
    assert problems(model) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_int8_computes_nearly_the_same(graph, int8_graph, render, precision):
    image = render(1, "val")[0]
    names = ["mask_kernels", "mask_features"]
    exact, rounded = (
        open_session(model, 1).run(names, {"image": image})
        for model in (graph, int8_graph("network", precision))
    )
    for wanted, found in zip(exact, rounded, strict=True):
        error = np.sqrt(np.mean((wanted - found) ** 2) / np.mean(wanted**2))
        assert 1e-4 < error < 0.08


def test_exclusions_need_no_other_ranges(graph, limits):
    every = placement(graph)
    for name in every.weights:
        less = placement(graph, [name])
        assert less.sites.items() < every.sites.items() or less.sites == every.sites
        model = insert_pairs(graph, limits, [name])
        assert f"{name}.int8" not in makers(model)
        assert problems(model) == []


def test_an_excluded_name_that_is_none_is_refused(graph):
    with pytest.raises(ArtifactError, match="no convolution has the weight 'nothing'"):
        placement(graph, ["nothing"])


@pytest.mark.parametrize("limit", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(graph, limits, limit):
    tensor, site = next(iter(placement(graph).sites.items()))
    with pytest.raises(ArtifactError, match=f"the range of {tensor} is"):
        insert_pairs(graph, {**limits, site: limit})


def test_a_quantised_graph_is_not_quantised_again(quantised):
    with pytest.raises(ArtifactError, match="quantised already"):
        placement(quantised)


def test_the_same_ranges_give_the_same_file(graph, limits, quantised):
    again = insert_pairs(graph, dict(reversed(limits.items())))
    assert file_of(again) == file_of(quantised)


PROGRAM = """
import hashlib, json, sys
import onnx
from solo_edge.calibration.qdq import insert_pairs
model = insert_pairs(onnx.load(sys.argv[1]), json.load(open(sys.argv[2])))
print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
"""


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_another_process_writes_the_same_file(float_graph, int8_graph, limits, tmp_path, precision):
    path, ranges = tmp_path / "model.onnx", tmp_path / "ranges.json"
    path.write_bytes(file_of(float_graph("network", precision)))
    ranges.write_text(json.dumps(limits))
    expected = hashlib.sha256(file_of(int8_graph("network", precision))).hexdigest()
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path), str(ranges)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == expected


def file_of(model):
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(("kind", "precision"), GRAPHS)
def test_nvidias_parser_and_builder_take_int8(nvidia, int8_graph, tmp_path, kind, precision):
    path = tmp_path / "int8.onnx"
    path.write_bytes(file_of(int8_graph(kind, precision)))
    assert len(nvidia(path)) > 500_000


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_quantised_from_one_set_of_ranges(nvidia, tmp_path, name):
    from solo_edge.config import preset
    from solo_edge.export.onnx import export_onnx
    from solo_edge.models.solov2 import SOLOv2

    model = SOLOv2(preset(f"solov2-{name}")).eval()
    limits = None
    for kind, precision in GRAPHS:
        path = tmp_path / "model.onnx"
        export_onnx(model, path, graph=kind, precision=precision)
        graph = onnx.load(path)
        limits = limits or dict.fromkeys(placement(graph).sites.values(), 4.0)
        assert list(placement(graph).sites.values()) == list(limits)
        quantised = insert_pairs(graph, limits)
        assert problems(quantised) == []
        path.write_bytes(file_of(quantised))
        assert len(nvidia(path)) > 500_000
