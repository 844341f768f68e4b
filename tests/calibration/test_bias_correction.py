"""Rounding shifts means; the bias takes the shift back, where the convolution is INT8."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from solo_edge.calibration.bias_correction import bias_shifts
from solo_edge.calibration.qdq import insert_pairs, placement
from solo_edge.errors import ArtifactError

KIND = onnx.TensorProto.FLOAT


@pytest.fixture
def images():
    generator = np.random.default_rng(1)
    return [generator.uniform(0, 1, (1, 3, 9, 11)).astype(np.float32) for _ in range(4)]


@pytest.fixture
def model():
    """image -> conv with stride, padding and bias -> ReLU -> depthwise without bias -> sigmoid."""
    generator = np.random.default_rng(0)
    constants = {
        "a.weight": generator.uniform(-0.2, 1, (4, 3, 3, 3)),
        "a.bias": generator.standard_normal(4),
        "b.weight": generator.uniform(-0.2, 1, (4, 1, 3, 3)),
    }
    node = helper.make_node
    nodes = [
        node(
            "Conv", ["image", "a.weight", "a.bias"], ["a"], "a", strides=[2, 2], pads=[1, 1, 0, 2]
        ),
        node("Relu", ["a"], ["relu"], "relu"),
        node("Conv", ["relu", "b.weight"], ["b"], "b", group=4, dilations=[2, 2], pads=[2] * 4),
        node("Sigmoid", ["b"], ["out"], "sigmoid"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "small",
        [value("image", KIND, [1, 3, 9, 11])],
        [value("out", KIND, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def outputs(model, name, images):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.append(helper.make_tensor_value_info(name, KIND, None))
    session = onnxruntime.InferenceSession(copy.SerializeToString())
    return np.stack([session.run([name], {"image": image})[0] for image in images])


RANGES = {"a.weight[0]": 0.5, "b.weight[0]": 6.0}  # the first one clips half of the pixels


def test_the_mean_of_every_channel_comes_back(model, images):
    shifts = bias_shifts(model, RANGES, images)
    assert set(shifts) == {"a.weight[0]", "b.weight[0]"}
    wanted = outputs(model, "a", images).mean(axis=(0, 1, 3, 4))
    plain = outputs(insert_pairs(model, RANGES), "a", images).mean(axis=(0, 1, 3, 4))
    corrected = insert_pairs(model, RANGES, (), shifts)
    found = outputs(corrected, "a", images).mean(axis=(0, 1, 3, 4))
    assert np.abs(plain - wanted).min() > 0.05
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


def test_a_convolution_without_bias_gets_one_and_excluded_ones_stay(model, images):
    shifts = bias_shifts(model, RANGES, images)
    graph = insert_pairs(model, RANGES, ["a.weight"], shifts).graph
    inputs = {node.name: list(node.input) for node in graph.node if node.op_type == "Conv"}
    assert inputs["a"] == ["image", "a.weight", "a.bias"]
    assert len(inputs["b"]) == 3
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    np.testing.assert_array_equal(constants[inputs["b"][2]], shifts["b.weight[0]"])


def test_the_same_shifts_give_the_same_bytes(model, images):
    shifts = bias_shifts(model, RANGES, images)
    lists = {call: [float(x) for x in row] for call, row in shifts.items()}
    one, other = (insert_pairs(model, RANGES, (), each) for each in (shifts, lists))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("shift", [[0.0] * 3, [np.nan] * 4, [[0.0] * 4]])
def test_shifts_that_do_not_fit_are_refused(model, shift):
    with pytest.raises(ArtifactError, match="bias shift"):
        insert_pairs(model, RANGES, (), {"a.weight[0]": shift})


def test_calls_are_those_of_the_graph(model):
    assert placement(model).calls == {"a": "a.weight[0]", "b": "b.weight[0]"}
