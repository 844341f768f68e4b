"""What quantising one layer, or one tensor in one way, does to a small graph that can be checked by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from solo_edge.calibration.automatic import candidates, choose_by_output
from solo_edge.calibration.collect import collect
from solo_edge.calibration.histogram import Histogram
from solo_edge.calibration.layers import layer_noise, multiply_adds
from solo_edge.calibration.qdq import insert_pairs, placement


def small_graph(second_weight=1.0):
    """image [1, 3, 8, 8] -> conv a -> ReLU -> conv b (1x1, 4 -> 2) -> sigmoid -> max pool."""
    generator = np.random.default_rng(0)
    a = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    b = (second_weight * generator.standard_normal((2, 4, 1, 1))).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "a.weight"], ["a"], "a", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["relu"], "relu"),
        node("Conv", ["relu", "b.weight"], ["b"], "b"),
        node("Sigmoid", ["b"], ["sigmoid"], "sigmoid"),
        node("MaxPool", ["sigmoid"], ["category_scores"], "pool", kernel_shape=[2, 2]),
    ]
    value, kind = helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "small",
        [value("image", kind, [1, 3, 8, 8])],
        [value("category_scores", kind, [1, 2, 7, 7])],
        [numpy_helper.from_array(a, "a.weight"), numpy_helper.from_array(b, "b.weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def images():
    generator = np.random.default_rng(1)
    return [generator.standard_normal((1, 3, 8, 8)).astype(np.float32) for _ in range(3)]


def histograms_of(model, images):
    return collect(model, placement(model).activations, images, threads=1)


def ranges_of(model, images):
    sites = placement(model).sites
    return {sites[name]: h.maximum for name, h in histograms_of(model, images).items()}


def test_multiply_adds_are_counted_by_hand():
    assert multiply_adds(small_graph()) == {"a.weight": 4 * 64 * 27, "b.weight": 2 * 64 * 4}


def test_noise_of_one_layer_is_that_of_the_graph_with_its_pairs_alone(images):
    import onnxruntime

    model = small_graph()
    ranges = ranges_of(model, images)
    found = {each.layer: each for each in layer_noise(model, ranges, images, threads=1)}
    assert set(found) == {"a.weight", "b.weight"}

    def run(graph):  # up to before the max pool
        graph.graph.output.append(
            helper.make_tensor_value_info("sigmoid", onnx.TensorProto.FLOAT, None)
        )
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        return np.concatenate([session.run(["sigmoid"], {"image": image})[0] for image in images])

    alone = insert_pairs(model, ranges, {"b.weight"})
    wanted, got = run(small_graph()), run(alone)
    expected = float(((got - wanted) ** 2).sum() / (wanted**2).sum())
    assert found["a.weight"].noise == {"category_scores": pytest.approx(expected, rel=1e-4)}
    assert 1e-6 < expected < 1e-2


def test_a_narrow_range_makes_its_layer_the_noisiest(images):
    model = small_graph()
    ranges = ranges_of(model, images)
    ranges["b.weight[0]"] /= 20
    assert layer_noise(model, ranges, images, threads=1)[0].layer == "b.weight"
    left = layer_noise(model, ranges, images, excluded=["b.weight"], threads=1)
    assert [each.layer for each in left] == ["a.weight"]


def test_candidates_are_the_methods_ranges_equal_ones_once():
    histogram = Histogram()
    histogram.update(np.random.default_rng(0).standard_normal(100_000).astype(np.float32))
    found = candidates(histogram)
    assert found["max"] == histogram.maximum
    assert found["percentile 99.9"] < found["percentile 99.99"] < found["max"]
    assert len(set(found.values())) == len(found)
    flat = Histogram()
    flat.update(np.ones(10, dtype=np.float32))
    assert set(candidates(flat).values()) == {1.0} or len(candidates(flat)) <= 3
    dead = Histogram()
    dead.update(np.zeros(10, dtype=np.float32))
    assert candidates(dead) == {}


def test_auto_takes_what_gives_the_output_the_least_error(images):
    """Against the definition: every candidate tried in the whole graph's first layer."""
    model = small_graph()
    # One pixel a hundred times as bright: keeping it costs all the others their steps.
    images[0][0, :, 0, 0] = 300.0
    histograms = histograms_of(model, images)
    chosen = choose_by_output(model, histograms, images, threads=1)
    assert set(chosen) == {"image", "relu"}
    weight = numpy_helper.to_array(model.graph.initializer[1])
    scale = (np.abs(weight).reshape(2, -1).max(axis=1) / 127).reshape(-1, 1, 1, 1)
    rounded = np.rint(weight / scale) * scale
    import onnxruntime

    model.graph.output.append(helper.make_tensor_value_info("relu", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    errors = dict.fromkeys(candidates(histograms["relu"]), 0.0)
    for image in images:
        value = session.run(["relu"], {"image": image})[0]
        wanted = np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], value)
        for name, limit in candidates(histograms["relu"]).items():
            step = np.float32(limit / 127)
            taken = np.rint(value / step).clip(-127, 127) * step
            got = np.einsum("oc,nchw->nohw", rounded[:, :, 0, 0], taken)
            errors[name] += float(((got - wanted) ** 2).sum() / (wanted**2).sum())
    assert chosen["relu"] == min(errors, key=errors.__getitem__)
    assert len(set(errors.values())) > 1


def test_tensors_that_are_always_zero_are_left_out(images):
    model = small_graph()
    weights = next(t for t in model.graph.initializer if t.name == "a.weight")
    weights.CopyFrom(numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "a.weight"))
    chosen = choose_by_output(model, histograms_of(model, images), images, threads=1)
    assert set(chosen) == {"image"}
