"""Planted mistakes: ours are found before NVIDIA's parser sees them, and it refuses none that we let pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from solo_edge.calibration.qdq_rules import problems
from solo_edge.errors import ArtifactError

make = onnx.helper.make_node


def constant(model, name):
    return next(each for each in model.graph.initializer if each.name == name)


def set_constant(model, name, value):
    each = constant(model, name)
    each.CopyFrom(numpy_helper.from_array(np.asarray(value), name))


def add_constant(model, name, value):
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def pair_of(model, of_weight=False):
    """The third pair on an activation or a weight."""
    names = {each.name for each in model.graph.initializer}
    first = [
        node
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and (node.input[0] in names) == of_weight
    ][2]
    return first, next(node for node in model.graph.node if first.output[0] in node.input)


def a_bias(model):
    node = next(n for n in model.graph.node if n.op_type == "Conv" and len(n.input) > 2)
    return node, numpy_helper.to_array(constant(model, node.input[2]))


def zero_point(value):
    return lambda model: set_constant(model, pair_of(model)[0].input[2], value)


def no_zero_point(model):
    for node in pair_of(model):
        node.input.pop()


def zero_point_of_another_shape(model):
    set_constant(model, pair_of(model, of_weight=True)[0].input[2], np.int8(0))


def scale(value, of_weight=False):
    def spoil(model):
        name = pair_of(model, of_weight)[0].input[1]
        scales = numpy_helper.to_array(constant(model, name)).copy()
        scales[(0,) * scales.ndim] = value
        set_constant(model, name, scales)

    return spoil


def scale_of_another_type(of_weight):
    def spoil(model):
        name = pair_of(model, of_weight)[0].input[1]
        scales = numpy_helper.to_array(constant(model, name))
        other = np.float32 if scales.dtype == np.float16 else np.float16
        set_constant(model, name, scales.astype(other))
        model.opset_import[0].version = 19

    return spoil


def computed_scale(model):
    pair = pair_of(model)
    model.graph.node.insert(0, make("Abs", [pair[0].input[1]], ["computed"], "abs"))
    for node in pair:
        node.input[1] = "computed"


def two_scales(model):
    first, second = pair_of(model)
    add_constant(model, "other", numpy_helper.to_array(constant(model, first.input[1])))
    second.input[1] = "other"


def scale_for_each_channel_of_an_activation(model):
    pair = pair_of(model)
    set_constant(model, pair[0].input[1], np.full(16, constant_of(model, pair[0].input[1])))
    set_constant(model, pair[0].input[2], np.zeros(16, np.int8))
    for node in pair:
        node.attribute.append(onnx.helper.make_attribute("axis", 1))


def constant_of(model, name):
    return numpy_helper.to_array(constant(model, name))


def one_scale_for_a_weight(model):
    pair = pair_of(model, of_weight=True)
    set_constant(model, pair[0].input[1], constant_of(model, pair[0].input[1]).max())
    set_constant(model, pair[0].input[2], np.int8(0))
    for node in pair:
        del node.attribute[:]


def scales_for_input_channels(model):
    for first in model.graph.node:
        names = {each.name for each in model.graph.initializer}
        if first.op_type == "QuantizeLinear" and first.input[0] in names:
            outputs, inputs = constant(model, first.input[0]).dims[:2]
            if outputs == inputs:
                second = next(node for node in model.graph.node if first.output[0] in node.input)
                first.attribute[0].i = second.attribute[0].i = 1
                return


def no_pair(of_weight):
    def spoil(model):
        first, second = pair_of(model, of_weight)
        redirect(model, second.output[0], first.input[0])
        model.graph.node.remove(first)
        model.graph.node.remove(second)

    return spoil


def redirect(model, old, new):
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def no_dequantize(model):
    first, second = pair_of(model)
    redirect(model, second.output[0], first.output[0])
    model.graph.node.remove(second)


def no_quantize(model):
    first, second = pair_of(model)
    second.input[0] = first.input[0]
    model.graph.node.remove(first)


def int32_bias(model):
    node, values = a_bias(model)
    add_constant(model, "bias.int32", np.round(values * 1e3).astype(np.int32))
    add_constant(model, "bias.scale", values.dtype.type(1e-3))
    add_constant(model, "bias.zero", np.int32(0))
    names = ["bias.int32", "bias.scale", "bias.zero"]
    model.graph.node.insert(0, make("DequantizeLinear", names, ["bias.float"], "bias"))
    node.input[2] = "bias.float"


def int8_bias(model):
    node, values = a_bias(model)
    add_constant(model, "bias.scales", np.full(len(values), 0.01, values.dtype))
    add_constant(model, "bias.zero", np.zeros(len(values), np.int8))
    constants = ["bias.scales", "bias.zero"]
    nodes = [
        make("QuantizeLinear", [node.input[2], *constants], ["bias.int8"], "bias.quantize", axis=0),
        make("DequantizeLinear", ["bias.int8", *constants], ["bias.float"], "bias", axis=0),
    ]
    node.input[2] = "bias.float"
    for each in reversed(nodes):
        model.graph.node.insert(0, each)


# What is wrong, what we say, and whether TensorRT for RTX refuses it too. What it takes instead:
# uint8 as int8 (of which half the numbers are others); a pair with two scales, as if 1 were 1;
# infinite and subnormal scales; convolutions with half a pair, in floating point.
MISTAKES = [
    (zero_point(np.int8(3)), "the zero point is not 0", True),
    (zero_point(np.uint8(0)), "uint8 instead of int8", False),
    (zero_point(np.int16(0)), "int16 instead of int8", True),
    (no_zero_point, "the zero point is no constant", False),
    (zero_point_of_another_shape, "not the shape of the scale", True),
    (scale(-0.1), "a scale is not positive", True),
    (scale(-0.1, of_weight=True), "a scale is not positive", True),
    (scale(0.0), "a scale is not positive", True),
    (scale(np.nan), "a scale is not positive", True),
    (scale(np.inf), "a scale is not positive", False),
    (scale_of_another_type(False), "not the type of the tensor", True),
    (scale_of_another_type(True), "not the type of the tensor", True),
    (computed_scale, "the scale is no constant", False),
    (two_scales, "the pair has two scales", False),
    (scale_for_each_channel_of_an_activation, "an activation has more than one scale", False),
    (one_scale_for_a_weight, "has not one scale for each output channel", False),
    (scales_for_input_channels, "has not one scale for each output channel", False),
    (no_pair(True), "the weight has no pair", False),
    (no_pair(False), "the activation has no pair", False),
    (no_dequantize, "no DequantizeLinear behind it", True),
    (no_quantize, "no QuantizeLinear before it", True),
    (int32_bias, "the bias has a pair", True),
    (int8_bias, "the bias has a pair", False),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("spoil", "words", "nvidia_refuses"), MISTAKES)
def test_a_planted_mistake_is_found(int8_graph, precision, spoil, words, nvidia_refuses):
    model = spoilt(int8_graph("network", precision), spoil)
    assert any(words in each for each in problems(model)), problems(model)


@pytest.mark.parametrize(("precision", "smallest"), [("fp32", 2.0**-127), ("fp16", 2.0**-15)])
def test_a_scale_that_is_no_normal_number_is_found(int8_graph, precision, smallest):
    for of_weight in (False, True):
        model = spoilt(int8_graph("network", precision), scale(smallest, of_weight))
        assert any("no normal number" in each for each in problems(model))
        model = spoilt(int8_graph("network", precision), scale(2 * smallest, of_weight))
        assert problems(model) == []


def test_float16_in_opset_18_is_found(int8_graph):
    def lower(model):
        model.opset_import[0].version = 18

    assert problems(spoilt(int8_graph("network", "fp16"), lower))
    assert problems(spoilt(int8_graph(), lower)) == []


def test_weights_that_are_stored_in_int8_are_fine(int8_graph):
    def store(model):
        first, second = pair_of(model, of_weight=True)
        weight, scales = (constant_of(model, name) for name in first.input[:2])
        levels = np.rint(weight / scales.reshape(-1, 1, 1, 1)).astype(np.int8)
        set_constant(model, first.input[0], levels)
        second.input[0] = first.input[0]
        model.graph.node.remove(first)

    assert problems(spoilt(int8_graph(), store)) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("spoil", "words", "nvidia_refuses"), MISTAKES)
def test_what_nvidia_makes_of_the_mistakes(
    nvidia, int8_graph, tmp_path, precision, spoil, words, nvidia_refuses
):
    path = tmp_path / "bad.onnx"
    path.write_bytes(spoilt(int8_graph("network", precision), spoil).SerializeToString())
    if nvidia_refuses:
        with pytest.raises(ArtifactError, match="cannot read this graph"):
            nvidia(path)
    else:
        assert len(nvidia(path)) > 500_000


def test_an_int32_bias_and_a_zero_point_are_refused_by_nvidia(nvidia, int8_graph, tmp_path):
    for spoil in (int32_bias, zero_point(np.int8(3))):
        path = tmp_path / "bad.onnx"
        path.write_bytes(spoilt(int8_graph(), spoil).SerializeToString())
        with pytest.raises(ArtifactError, match="cannot read this graph"):
            nvidia(path)


def spoilt(model, spoil):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    spoil(copy)
    return copy
