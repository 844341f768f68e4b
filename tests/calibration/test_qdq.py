"""The pairs in the graph: where they stand, and that NVIDIA's parser takes them and refuses wrong ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import solo_edge
from solo_edge.calibration.collect import collect
from solo_edge.calibration.qdq import insert_pairs, placement, problems
from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.export.onnx import export_onnx
from solo_edge.export.self_check import make_image
from solo_edge.preprocess import Preprocess


@pytest.fixture(scope="module")
def model():
    return solo_edge.load_model(
        Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
    )


@pytest.fixture(scope="module")
def graph(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    export_onnx(model, path)
    return onnx.load(path)


@pytest.fixture(scope="module")
def images(model):
    preprocess = Preprocess.from_config(model.config)
    return [preprocess.normalise(make_image((256, 256), seed))[None] for seed in range(3)]


@pytest.fixture(scope="module")
def limits(graph, images):
    histograms = collect(graph, placement(graph).activations, images, threads=1)
    return {name: max(histogram.maximum, 1e-6) for name, histogram in histograms.items()}


@pytest.fixture(scope="module")
def quantised(graph, limits):
    return insert_pairs(graph, limits)


def makers(model):
    return {name: node for node in model.graph.node for name in node.output}


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
    made = makers(graph)
    for node in graph.graph.node:
        if node.op_type != "Conv" or node.name in placement(graph).convolutions:
            continue
        source = made.get(node.input[0])
        while source is not None and source.op_type == "Resize":
            source = made.get(source.input[0])
        coordinates = source is not None and source.op_type == "Concat"
        assert coordinates or "_out." in node.input[1] or ".out." in node.input[1]


def test_a_residual_addition_gets_its_pair_on_the_skip_alone(graph, quantised):
    made, chosen = makers(quantised), set(placement(graph).convolutions)
    kinds = Counter()
    for node in quantised.graph.node:
        if node.op_type == "Add" and all(name in made for name in node.input):
            sources = [made[name] for name in node.input]
            if any(source.name in chosen for source in sources):
                kinds[tuple(sorted(source.op_type for source in sources))] += 1
    assert kinds == {("Conv", "DequantizeLinear"): 10, ("Conv", "Resize"): 3}


def test_shared_weights_and_inputs_have_one_pair(graph, quantised):
    where = placement(graph)
    assert len(where.convolutions) > len(where.weights)  # the head is the same on every level
    count = Counter(node.op_type for node in quantised.graph.node)
    assert count["QuantizeLinear"] == len(where.weights) + len(where.activations)
    assert count["DequantizeLinear"] == count["QuantizeLinear"]


def test_the_same_ranges_give_the_same_file(graph, limits, quantised):
    again = insert_pairs(graph, dict(reversed(limits.items())))
    assert again.SerializeToString(deterministic=True) == quantised.SerializeToString(
        deterministic=True
    )


def test_int8_computes_nearly_the_same(graph, quantised, images):
    def run(model):
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return session.run(["mask_kernels", "mask_features"], {"image": images[0]})

    for exact, rounded in zip(run(graph), run(quantised), strict=True):
        error = np.sqrt(np.mean((exact - rounded) ** 2) / np.mean(exact**2))
        assert 1e-4 < error < 0.2


def test_excluded_layers_stay_as_they_are(graph, limits):
    name = placement(graph).weights[0]
    model = insert_pairs(graph, limits, [name])
    assert f"{name}.int8" not in makers(model)
    with pytest.raises(ArtifactError, match="no convolution has the weight 'nothing'"):
        placement(graph, ["nothing"])


@pytest.mark.parametrize("limit", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_none_is_refused(graph, limits, limit):
    name = next(iter(limits))
    with pytest.raises(ArtifactError, match=f"the range of {name} is"):
        insert_pairs(graph, {**limits, name: limit})


def test_a_quantised_graph_is_not_quantised_again(quantised):
    with pytest.raises(ArtifactError, match="quantised already"):
        placement(quantised)


def test_nvidias_parser_and_builder_take_int8(quantised, tmp_path):
    path = tmp_path / "int8.onnx"
    path.write_bytes(quantised.SerializeToString())
    assert len(build(path)) > 500_000


def with_zero_point(model):
    for each in model.graph.initializer:
        if each.name.endswith(".zero_point"):
            each.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), each.name))
            return


def with_int32_bias(model):
    node = next(n for n in model.graph.node if n.op_type == "Conv" and len(n.input) > 2)
    bias = next(i for i in model.graph.initializer if i.name == node.input[2])
    values = numpy_helper.to_array(bias)
    for name, value in (
        ("bias.int32", np.round(values * 1e4).astype(np.int32)),
        ("bias.scale", np.array(1e-4, np.float32)),
        ("bias.zero_point", np.array(0, np.int32)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    pair = onnx.helper.make_node(
        "DequantizeLinear", ["bias.int32", "bias.scale", "bias.zero_point"], ["bias.float"], "bias"
    )
    model.graph.node.insert(0, pair)
    node.input[2] = "bias.float"


@pytest.mark.parametrize("spoil", [with_zero_point, with_int32_bias])
def test_what_nvidia_refuses_is_found_before(quantised, tmp_path, spoil):
    model = onnx.ModelProto()
    model.CopyFrom(quantised)
    spoil(model)
    assert problems(model)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError):
        build(path)


def build(path):
    from solo_edge.export.tensorrt_rtx import build_for_rtx, load_tensorrt_rtx

    try:
        load_tensorrt_rtx()
    except ResourceError as error:
        pytest.skip(str(error))
    return build_for_rtx(path)
