"""NVIDIA's own parser and builder (TensorRT for RTX, on the CPU) on our graphs."""

from __future__ import annotations

import pytest

from solo_edge.config import PRESETS, preset
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.export import tensorrt_rtx
from solo_edge.export.tensorrt_builder import serialize_network
from solo_edge.export.tensorrt_options import TensorRTOptions
from solo_edge.export.tensorrt_parser import parse_onnx
from solo_edge.export.tensorrt_rtx import build_for_rtx, load_tensorrt_rtx
from solo_edge.runtime.tensorrt_runner import make_logger


def test_without_it_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(tensorrt_rtx, "_LIBRARIES", "no_such_package")
    load_tensorrt_rtx.cache_clear()
    with pytest.raises(tensorrt_rtx.ResourceError, match="pip install --no-deps tensorrt-rtx"):
        load_tensorrt_rtx()


GRAPHS = [
    ("network", "fp32"),
    ("full", "fp32"),
    ("network", "fp16"),
    pytest.param("full", "fp16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("graph", "precision"), GRAPHS)
def test_it_takes_our_graphs(rtx, exported, graph, precision):
    assert len(build_for_rtx(exported(graph, precision))) > 1_000_000


@pytest.fixture(scope="module")
def preset_onnx(tmp_path_factory):
    """preset_onnx(name, graph, precision) -> ONNX file of a network with random weights."""
    folder, models = tmp_path_factory.mktemp("presets"), {}

    def export(name, graph, precision):
        from solo_edge.export.onnx import export_onnx
        from solo_edge.models.solov2 import SOLOv2

        if name not in models:
            models.clear()  # one at a time: the largest has hundreds of megabytes
            models[name] = SOLOv2(preset(name)).eval()
        path = folder / "preset.onnx"
        export_onnx(models[name], path, graph=graph, precision=precision)
        return path

    return export


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", ["network", "full"])
@pytest.mark.parametrize(
    "name", sorted(name for name in PRESETS if preset(name).conv != "deformable")
)
def test_it_takes_every_preset(rtx, preset_onnx, name, graph, precision):
    assert len(build_for_rtx(preset_onnx(name, graph, precision))) > 1_000_000


def test_half_precision_is_what_the_file_says(rtx, exported):
    """The parsed network holds half weights, though no flag asks for them."""
    logger = make_logger(rtx)
    builder = rtx.Builder(logger)
    network, _parser = parse_onnx(rtx, builder, logger, exported("network", "fp16"))
    convolutions = [
        layer
        for layer in (network.get_layer(i) for i in range(network.num_layers))
        if layer.type == rtx.LayerType.CONVOLUTION
    ]
    assert len(convolutions) == 91
    assert {layer.get_output(0).dtype for layer in convolutions} == {rtx.DataType.HALF}
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert {output.dtype for output in outputs} == {rtx.DataType.FLOAT}


def shapes(rtx, path):
    logger = make_logger(rtx)
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = rtx.OnnxParser(network, logger)
    assert parser.parse(path.read_bytes())
    inputs = [tuple(network.get_input(i).shape) for i in range(network.num_inputs)]
    return inputs, [tuple(network.get_output(i).shape) for i in range(network.num_outputs)]


def test_an_open_batch_would_silently_compute_one_image(rtx, exported, tmp_path):
    """Why the builder refuses it: the reshapes of our graphs hold the batch.

    NVIDIA's parser takes the open size, and the outputs keep a batch of 1.
    """
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    path = tmp_path / "open.onnx"
    onnx.save(model, path)
    inputs, outputs = shapes(rtx, path)
    assert inputs == [(-1, 3, 256, 256)]
    assert {shape[0] for shape in outputs} == {1}
    with pytest.raises(ArtifactError, match="has the open shape"):
        build_for_rtx(path)


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["network", "full"])
def test_a_fixed_batch(rtx, lively_model, tmp_path, graph):
    from solo_edge.export.onnx import export_onnx

    path = tmp_path / "batch.onnx"
    export_onnx(lively_model, path, graph=graph, batch=3)
    inputs, outputs = shapes(rtx, path)
    assert {shape[0] for shape in (*inputs, *outputs)} == {3}
    assert len(build_for_rtx(path)) > 1_000_000


@pytest.mark.parametrize(
    "values",
    [
        {"workspace_mib": 64, "optimization_level": 0, "aux_streams": 0, "tf32": True},
        {"sparsity": True, "timing_cache": False, "profiling_verbosity": "detailed"},
    ],
)
def test_its_builder_takes_our_options(rtx, tiny_onnx, values):
    assert len(build_for_rtx(tiny_onnx(), options=TensorRTOptions(**values))) > 1000


def test_it_has_no_deep_learning_accelerator(rtx, tiny_onnx):
    with pytest.raises(UsageError, match=r"finds 0 deep learning accelerators \(DLA\) here"):
        build_for_rtx(tiny_onnx(), options=TensorRTOptions(dla_core=0))


def small_onnx(path, nodes, inputs, outputs, weights=(), domain="", opset=19):
    """A file of (operator, inputs, outputs, name) with float tensors; `inputs`, `outputs`: name -> shape."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(*node[:3], name=node[3], domain=domain) for node in nodes],
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in dict(weights).items()],
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_a_node_without_operator_or_plugin_is_named(rtx, tmp_path):
    node = ("SoloNotThere", ["x"], ["y"], "the_culprit")
    path = small_onnx(tmp_path / "a.onnx", [node], {"x": [1, 4]}, {"y": [1, 4]}, domain="solo")
    with pytest.raises(ArtifactError) as caught:
        serialize_network(rtx, path)
    assert "node the_culprit (SoloNotThere): " in str(caught.value)
    assert "TensorRT has no such operator, nor a plugin for it" in str(caught.value)


def test_quantisation_that_it_does_not_take_is_explained(rtx, tmp_path):
    import numpy as np

    scale = {"s": np.float32(1)}
    pair = [("QuantizeLinear", ["x", "s", "z"], ["q"], "asymmetric")]
    pair += [("DequantizeLinear", ["q", "s", "z"], ["y"], "back")]
    weights = {**scale, "z": np.int8(3)}
    path = small_onnx(tmp_path / "a.onnx", pair, {"x": [1, 4]}, {"y": [1, 4]}, weights)
    with pytest.raises(ArtifactError, match=r"node asymmetric .*; quantise symmetrically"):
        serialize_network(rtx, path)

    bias = [("DequantizeLinear", ["b", "s"], ["bias"], "bias_pair")]
    bias += [("Conv", ["x", "w", "bias"], ["y"], "conv")]
    weights = {**scale, "b": np.zeros(4, np.int32), "w": np.zeros((4, 3, 1, 1), np.float32)}
    shape = {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}
    path = small_onnx(tmp_path / "b.onnx", bias, *shape, weights)
    with pytest.raises(ArtifactError, match=r"node bias_pair .*Int32.*; quantise without biases"):
        serialize_network(rtx, path)


def test_too_large_a_selection_is_explained(rtx, tmp_path):
    import numpy as np

    onnx = pytest.importorskip("onnx")
    node = ("TopK", ["x", "k"], ["values", "indices"], "selection")
    weights = {"k": np.array([4000], np.int64)}
    path = small_onnx(tmp_path / "a.onnx", [node], {"x": [1, 8000]}, {"values": [1, 4000]}, weights)
    onnx.checker.check_model(onnx.load(path))
    with pytest.raises(ArtifactError, match="lower max_candidates, or use the graph network"):
        build_for_rtx(path)


def test_what_is_no_whole_onnx_file_is_refused(rtx, exported, tmp_path):
    (tmp_path / "text.onnx").write_text("no graph")
    (tmp_path / "cut.onnx").write_bytes(exported().read_bytes()[:-1000])
    for name in ("text.onnx", "cut.onnx"):
        with pytest.raises(ArtifactError, match="the file is cut off or no ONNX file"):
            serialize_network(rtx, tmp_path / name)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match="the graph has no output"):
        serialize_network(rtx, tmp_path / "empty.onnx")
