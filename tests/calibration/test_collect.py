"""Watching the activations of a graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from solo_edge.calibration.collect import collect
from solo_edge.calibration.histogram import Histogram
from solo_edge.errors import ArtifactError


def graph() -> onnx.ModelProto:
    """image -> twice -> root, where a negative number has no root."""
    shape = [1, 3, 4, 5]
    nodes = [
        helper.make_node("Add", ["image", "image"], ["twice"]),
        helper.make_node("Sqrt", ["twice"], ["root"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("image", "root")]
    model = helper.make_graph(nodes, "test", ends[:1], ends[1:])
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((1, 3, 4, 5), dtype=np.float32) for _ in range(count)]


def test_the_histograms_are_those_of_all_images():
    given = images(5)
    found = collect(graph(), ["image", "twice", "root"], iter(given), threads=1)
    wanted = Histogram()
    for image in given:
        wanted.update(2 * image)
    assert list(found) == ["image", "twice", "root"]
    np.testing.assert_array_equal(found["twice"].counts, wanted.counts)
    assert found["twice"].maximum == pytest.approx(2 * max(map(np.max, given)))
    assert found["root"].maximum == pytest.approx(np.sqrt(found["twice"].maximum))


def test_the_graph_is_left_as_it_was():
    model = graph()
    before = model.SerializeToString()
    collect(model, ["twice"], images(1), threads=1)
    assert model.SerializeToString() == before


def test_an_activation_that_is_not_finite_is_named():
    with pytest.raises(ArtifactError, match="the activation root is not finite"):
        collect(graph(), ["twice", "root"], [-image for image in images(1)], threads=1)
