"""CoordConv in the exported graph: the constants' share is computed beforehand, the result stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from solo_edge.export.coordinates import fold_coordinates

KIND = onnx.TensorProto.FLOAT


def run(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": image})


def make(nodes, constants, outputs):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("image", KIND, [1, 3, 6, 10])],
        [value(name, KIND, ["n", "c", "h", "w"]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def constants(**more):
    generator = np.random.default_rng(0)
    rows, columns = np.linspace(-1, 1, 6), np.linspace(-1, 1, 10)
    x, y = np.meshgrid(columns, rows)
    return {
        "x": x[None, None].astype(np.float32),
        "y": y[None, None].astype(np.float32),
        "weight": generator.standard_normal((4, 5, 3, 3)).astype(np.float32),
        "bias": generator.standard_normal(4).astype(np.float32),
        "sizes": np.array([1, 5, 4, 4]),
        "zero": np.array([0]),
        "end": np.array([-2]),
        "one": np.array([1]),
        **more,
    }


@pytest.fixture
def image():
    return np.random.default_rng(1).standard_normal((1, 3, 6, 10)).astype(np.float32)


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], output, **attributes)


JOIN = node("Concat", ["image", "x", "y"], "joined", axis=1)
PADS = {"pads": [1, 1, 1, 1]}


def kinds(model):
    return [each.op_type for each in model.graph.node]


def test_a_convolution_of_joined_coordinates_becomes_a_sum(image):
    nodes = [JOIN, node("Conv", ["joined", "weight", "bias"], "out", strides=[2, 2], **PADS)]
    model = make(nodes, constants(), ["out"])
    before = run(model, image)
    fold_coordinates(model)
    onnx.checker.check_model(model, full_check=True)
    assert kinds(model) == ["Conv", "Add"]
    assert {t.name: tuple(t.dims) for t in model.graph.initializer}["weight"] == (4, 3, 3, 3)
    np.testing.assert_allclose(run(model, image)[0], before[0], rtol=0, atol=2e-6)


def test_it_is_followed_through_resizes_slices_and_depthwise_convolutions(image):
    """As in SOLO's head: the grid's features with coordinates for one branch, without for the other."""
    generator = np.random.default_rng(2)
    more = {
        "deep": generator.standard_normal((5, 1, 3, 3)).astype(np.float32),
        "point": generator.standard_normal((4, 5, 1, 1)).astype(np.float32),
        "plain": generator.standard_normal((4, 3, 1, 1)).astype(np.float32),
    }
    nodes = [
        JOIN,
        node("Resize", ["joined", "", "", "sizes"], "grid", mode="linear"),
        node("Conv", ["grid", "deep"], "middle", group=5, **PADS),
        node("Conv", ["middle", "point", "bias"], "kernels"),
        node("Slice", ["grid", "zero", "end", "one", "one"], "features"),
        node("Conv", ["features", "plain"], "categories"),
    ]
    model = make(nodes, constants(**more), ["kernels", "categories"])
    before = run(model, image)
    fold_coordinates(model)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(kinds(model)) == ["Add", "Conv", "Conv", "Conv", "Resize"]
    for wanted, got in zip(before, run(model, image), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        # read by something that is not linear
        ([JOIN, node("Relu", ["joined"], "out")], ["out"]),
        # an output itself
        ([JOIN, node("Conv", ["joined", "weight"], "out")], ["out", "joined"]),
        # its weight also serves a tensor without constants
        (
            [
                JOIN,
                node("Concat", ["image", "image"], "twice", axis=1),
                node("Slice", ["twice", "zero", "five", "one", "one"], "part"),
                node("Conv", ["joined", "weight"], "out"),
                node("Conv", ["part", "weight"], "other"),
            ],
            ["out", "other"],
        ),
        # nothing constant
        ([node("Concat", ["image", "image"], "out", axis=1)], ["out"]),
        # another axis
        ([node("Concat", ["image", "rows"], "out", axis=2)], ["out"]),
    ],
)
def test_what_cannot_be_folded_stays_as_it_is(nodes, outputs):
    more = {"five": np.array([5]), "rows": np.zeros((1, 3, 2, 10), np.float32)}
    model = make(nodes, constants(**more), outputs)
    before = model.SerializeToString(deterministic=True)
    fold_coordinates(model)
    assert model.SerializeToString(deterministic=True) == before


def test_half_precision_stays_half(image):
    halves = {
        name: value.astype(np.float16) if value.dtype == np.float32 else value
        for name, value in constants().items()
    }
    nodes = [
        node("Cast", ["image"], "half", to=onnx.TensorProto.FLOAT16),
        node("Concat", ["half", "x", "y"], "joined", axis=1),
        node("Conv", ["joined", "weight"], "conv", **PADS),
        node("Cast", ["conv"], "out", to=KIND),
    ]
    model = make(nodes, halves, ["out"])
    before = run(model, image)[0]
    fold_coordinates(model)
    onnx.checker.check_model(model, full_check=True)
    assert all(t.data_type != KIND for t in model.graph.initializer)
    np.testing.assert_allclose(run(model, image)[0], before, rtol=0, atol=0.05)
