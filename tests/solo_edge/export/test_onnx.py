"""ONNX files: names, types and shapes, and that two runtimes compute the same as PyTorch."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from solo_edge.config import PostprocessConfig, preset
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.export.onnx import OPSET, export_onnx
from solo_edge.export.self_check import make_image
from solo_edge.instances import Instances
from solo_edge.manifest import cell_strides, describe_tensors
from solo_edge.models.solov2 import SOLOv2
from solo_edge.postprocess import instances_from_slots, postprocess_arrays
from solo_edge.preprocess import Preprocess
from solo_edge.runtime.graphs import FullGraph, NetworkGraph
from solo_edge.runtime.onnx_runner import OnnxRunner
from solo_edge.runtime.openvino_runner import OpenVINORunner

GRAPHS = ("network", "full")
# Each file takes seconds to export.
FILES = [
    ("network", "fp32"),
    ("full", "fp32"),
    ("network", "fp16"),
    pytest.param("full", "fp16", marks=pytest.mark.slow),
]
NAMES = tuple(f"thing {i}" for i in range(5))


def runner_for(name, path):
    if name == "openvino":
        pytest.importorskip("openvino")
        return OpenVINORunner(path, precision="fp32", threads=1)
    return OnnxRunner(path, threads=1)


def prepared(model, seed=0, size=(180, 256)):
    preprocess = Preprocess.from_config(model.config)
    array, geometry = preprocess(make_image(size, seed))
    return array[np.newaxis], geometry


def torch_outputs(module, image):
    with torch.inference_mode():
        return [tensor.numpy() for tensor in module.eval()(torch.from_numpy(image))]


def instances(graph, outputs, model, config, geometry) -> Instances:
    arrays = [array[0] for array in outputs]
    if graph == "full":
        return instances_from_slots(*arrays[:3], int(arrays[3]), config, geometry, NAMES)
    return postprocess_arrays(*arrays, cell_strides(model.config), config, geometry, NAMES)


def unmatched(found: Instances, expected: Instances, tolerance: float) -> int:
    """Instances of `expected` without one of the same class, score and mask (IoU 0.999) in `found`."""
    missing = 0
    for label, score, mask in zip(expected.labels, expected.scores, expected.masks, strict=True):
        alike = np.flatnonzero((found.labels == label) & (abs(found.scores - score) <= tolerance))
        overlaps = [(m & mask).sum() / max((m | mask).sum(), 1) for m in found.masks[alike]]
        missing += max(overlaps, default=0.0) < 0.999
    return missing


@pytest.mark.parametrize(("graph", "precision"), FILES)
def test_the_file_is_what_it_promises(exported, lively_model, graph, precision):
    proto = onnx.load(exported(graph, precision), load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)]
    assert not proto.functions
    assert {node.domain for node in proto.graph.node} == {""}
    inputs, outputs = describe_tensors(lively_model.config, graph, PostprocessConfig())
    session = onnxruntime.InferenceSession(exported(graph, precision).read_bytes())
    for specs, arguments in ((inputs, session.get_inputs()), (outputs, session.get_outputs())):
        assert [(a.name, tuple(a.shape)) for a in arguments] == [(s.name, s.shape) for s in specs]
        kinds = {"float32": "tensor(float)", "int64": "tensor(int64)"}
        assert [a.type for a in arguments] == [kinds[s.dtype] for s in specs]
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    for value in inferred.graph.value_info:
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_file_tells_nothing_about_this_machine(exported, graph):
    content = exported(graph).read_bytes()
    for trace in (b"/solo_edge/", b"site-packages", b".py", b"stack_trace", b"torch.nn"):
        assert trace not in content


def test_batch_norms_are_folded_and_group_norms_are_one_kernel(exported):
    counts = Counter(node.op_type for node in onnx.load(exported()).graph.node)
    assert counts["BatchNormalization"] == 0
    assert counts["InstanceNormalization"] == 28
    assert counts["Shape"] == counts["Loop"] == counts["If"] == 0


def test_indices_are_divided_as_integers(exported):
    graph = onnx.shape_inference.infer_shapes(onnx.load(exported("full"))).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    divisions = [kinds[n.output[0]] for n in graph.node if n.op_type == "Div"]
    assert onnx.TensorProto.INT64 in divisions
    assert not {"Floor", "Mod", "Sign"} & {node.op_type for node in graph.node}


@pytest.mark.parametrize("graph", ["network", pytest.param("full", marks=pytest.mark.slow)])
def test_half_precision_is_written_into_the_types(exported, graph):
    proto = onnx.shape_inference.infer_shapes(onnx.load(exported(graph, "fp16")))
    kinds = {v.name: v.type.tensor_type.elem_type for v in proto.graph.value_info}
    kinds |= {
        v.name: v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)
    }
    kinds |= {t.name: t.data_type for t in proto.graph.initializer}
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    by_operator = {}
    for node in proto.graph.node:
        by_operator.setdefault(node.op_type, []).append(
            {kinds[name] for name in node.input if name}
        )
    assert all(types == {half} for types in by_operator["Conv"])
    assert all(types == {single} for types in by_operator["InstanceNormalization"])
    # Everything behind the network compares or sums what 16 bits would merge.
    for operator in ("Sigmoid", "Equal", "ReduceSum", "MatMul", "Exp"):
        assert not any(half in types for types in by_operator.get(operator, []))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_instances_equal_those_of_the_model(exported, lively_model, graph, backend):
    config = PostprocessConfig()
    image, geometry = prepared(lively_model)
    module = NetworkGraph(lively_model) if graph == "network" else FullGraph(lively_model, config)
    expected = instances(graph, torch_outputs(module, image), lively_model, config, geometry)
    with runner_for(backend, exported(graph)) as runner:
        outputs = runner.infer({"image": image})
        outputs = [outputs[spec.name].copy() for spec in runner.outputs]
    found = instances(graph, outputs, lively_model, config, geometry)
    assert (
        len(expected) == config.max_instances
    )  # a hundred, so that the comparison means something
    # One near tie in points NMS or at the last free slot may go the other way. One pixel at the edge
    # of a mask, too, and then the scores of all that it overlaps move a little.
    for one, other in ((found, expected), (expected, found)):
        assert unmatched(one, other, 0.01) <= 1
        assert unmatched(one, other, 1e-4) <= 30


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_scores_before_points_nms_equal_those_of_the_model(exported, lively_model, backend):
    image, _ = prepared(lively_model, seed=1)
    with torch.inference_mode():
        output = lively_model(torch.from_numpy(image))
    before = torch.cat([x.sigmoid().flatten(2) for x in output.category_logits], dim=2).numpy()
    with runner_for(backend, exported()) as runner:
        found = runner.infer({"image": image})
        kept = found["category_scores"] > 0
        assert 0.05 < kept.mean() < 0.9
        np.testing.assert_allclose(found["category_scores"][kept], before[kept], atol=1e-4)
        features = output.mask_features.numpy()
        worst = abs(found["mask_features"] - features).max() / abs(features).max()
        assert worst < 1e-3


def test_half_precision_stays_close_to_single(exported, lively_model):
    image, _ = prepared(lively_model)
    with (
        OnnxRunner(exported(), threads=1) as single,
        OnnxRunner(exported("network", "fp16")) as half,
    ):
        expected, found = single.infer({"image": image}), half.infer({"image": image})
    for name in ("mask_kernels", "mask_features"):
        error = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        assert 1e-5 < error < 0.03  # half, but not less
    both = (found["category_scores"] > 0) & (expected["category_scores"] > 0)
    assert abs(found["category_scores"] - expected["category_scores"])[both].max() < 0.05


def quiet_and_busy(model):
    """Images with few and many high scores, and a threshold that only the busy one passes."""
    blank = np.zeros((1, 3, *model.config.input_size), dtype=np.float32)
    images = [prepared(model, seed)[0] for seed in range(6)]
    best = [float(torch_outputs(NetworkGraph(model), x)[0].max()) for x in [blank, *images]]
    ranked = sorted((score, i) for i, score in enumerate(best))
    quiet, busy = ([blank, *images][i] for i in (ranked[0][1], ranked[-1][1]))
    return quiet, busy, (ranked[0][0] + ranked[-1][0]) / 2


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_nothing_found_and_more_candidates_than_slots(exported, lively_model, backend):
    quiet, busy, between = quiet_and_busy(lively_model)
    config = PostprocessConfig(score_threshold=between, max_candidates=2, max_instances=4)
    scores = torch_outputs(NetworkGraph(lively_model), busy)[0]
    with runner_for(backend, exported("full", "fp32", config)) as runner:
        none = {k: v.copy() for k, v in runner.infer({"image": quiet}).items()}
        some = {k: v.copy() for k, v in runner.infer({"image": busy}).items()}
    assert all(not array.any() for array in none.values())
    expected = torch_outputs(FullGraph(lively_model, config), busy)
    assert (scores > between).sum() > config.max_candidates
    assert 1 <= int(some["valid_count"][0]) == int(expected[3][0]) <= config.max_candidates
    np.testing.assert_array_equal(some["labels"], expected[0])
    np.testing.assert_allclose(some["scores"], expected[1], atol=1e-4)
    assert not some["masks"][0, int(some["valid_count"][0]) :].any()


def tiny_model():
    levels = {"levels": (2, 5), "grid_sizes": (12, 4), "scale_ranges": ((1, 64), (32, 256))}
    changes = {"backbone": "test_resnet", "num_classes": 1, "head_depth": 1, "input_size": (64, 96)}
    return SOLOv2(preset("solov2-nano-256", **changes, **levels)).eval()


def test_exporting_says_nothing_and_changes_nothing(tmp_path, capfd, caplog):
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        export_onnx(model, tmp_path / "a.onnx", precision="fp16", batch=2)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]
    with OnnxRunner(tmp_path / "a.onnx") as runner:
        assert [spec.shape[0] for spec in (*runner.inputs, *runner.outputs)] == [2, 2, 2, 2]


def test_impossible_requests_are_refused(lively_model, tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(UsageError, match="use fp32 or fp16"):
        export_onnx(lively_model, path, precision="bf16")
    config = preset("solov2-nano-256", conv="deformable")
    with pytest.raises(UsageError, match="--backend torch"):
        export_onnx(SOLOv2(config).eval(), path)
    assert not path.exists()


class Dynamic(torch.nn.Module):
    """A backbone whose sizes depend on the values of the image."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        count = images.gt(1e9).sum().item()
        torch._check(count >= 0)
        torch._check(count < 5)
        return [feature + torch.zeros(count).sum() for feature in self.inner(images)]


def test_sizes_known_at_run_time_only_are_refused(tmp_path):
    model = tiny_model()
    model.backbone = Dynamic(model.backbone)
    with pytest.raises(ArtifactError, match="run time"):
        export_onnx(model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []
