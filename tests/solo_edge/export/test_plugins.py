"""Post-processing as a chain of operators, run here as TensorRT would: each kernel on its own memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import solo_edge
from solo_edge import kernels
from solo_edge.checkpoint import load_checkpoint
from solo_edge.config import PRESETS, PostprocessConfig
from solo_edge.data.synthetic.scene import render_scene
from solo_edge.errors import ArtifactError, UsageError
from solo_edge.export.onnx import export_onnx
from solo_edge.export.plugins import NAMESPACE, write_plugin_graph
from solo_edge.export.plugins_chain import PluginSpec, make_chain, plugin_spec, tensor_of
from solo_edge.export.self_check import make_image
from solo_edge.kernels.plan import Sizes, Thresholds, postprocess_plan
from solo_edge.kernels.tiles import Tiles, tiles_from_dict
from solo_edge.kernels.unzeroed import without_zeroed_memory
from solo_edge.manifest import OUTPUTS, cell_strides, describe_tensors
from solo_edge.postprocess import static_postprocess
from solo_edge.preprocess import Preprocess

MODEL = Path(solo_edge.__file__).parent / "assets/solov2-nano-256-scenes.safetensors"
# The interpreter's time goes by operations, not by their sizes.
LARGE = tiles_from_dict(
    {
        "dynamic_conv_pack": {"constants": {"BLOCK_N": 64, "BLOCK_P": 2048, "BLOCK_E": 64}},
        "instance_probabilities": {"constants": {"BLOCK_N": 64, "BLOCK_P": 2048, "BLOCK_E": 64}},
        "mask_overlap": {
            "constants": {"BLOCK_I": 64, "BLOCK_J": 64, "BLOCK_W": 32, "METHOD": "popc"}
        },
        "decay_scores": {"constants": {"BLOCK_I": 64, "BLOCK_J": 64}},
    }
)
TORCH_TYPES = {"float32": torch.float32, "float16": torch.float16, "int32": torch.int32}


def poisoned(shape, dtype):
    """Memory that holds NaN, or large numbers."""
    tensor = torch.empty(shape, dtype=TORCH_TYPES[dtype])
    return tensor.fill_(float("nan" if tensor.is_floating_point() else 0xA5A5A5))


def run_operator(chain, operator, arguments):
    """The outputs of one operator for tensors in the order of its inputs."""
    from solo_edge.kernels._triton import kernel

    buffers = chain.plan.buffers
    tensors = list(arguments)
    for name, tensor in zip(operator.inputs, arguments, strict=True):
        expected = tensor_of(buffers[name])
        assert (tuple(tensor.shape), tensor.dtype) == (expected.shape, TORCH_TYPES[expected.dtype])
    for name in operator.outputs:
        tensor = tensor_of(buffers[name])
        tensors.append(poisoned(tensor.shape, tensor.dtype))
    before = [tensor.clone() for tensor in arguments]
    names = (*operator.inputs, *operator.outputs)
    seen = [t.view(getattr(torch, buffers[n].dtype)) for n, t in zip(names, tensors, strict=True)]
    function, launch = kernel(operator.launch.kernel), operator.launch
    # By position, as TensorRT does: a kernel's addresses are its first parameters but for the numbers.
    addresses = [name for name in function.arg_names if name not in launch.constants]
    numbers = {**launch.constants, "num_warps": launch.num_warps}
    with np.errstate(over="ignore"):  # e**1000 in a sigmoid is infinite, and its inverse 0
        function[launch.grid](**dict(zip(addresses, seen, strict=True)), **numbers)
    for tensor, old in zip(arguments, before, strict=True):
        torch.testing.assert_close(tensor, old, rtol=0, atol=0, equal_nan=True)
    return tensors[len(operator.inputs) :]


def run_chain(chain, inputs):
    """The plan's outputs: instance_labels, instance_scores, probabilities, instance_count."""
    tensors = dict(inputs)
    for operator in chain.operators.values():
        found = run_operator(chain, operator, [tensors[name] for name in operator.inputs])
        tensors |= zip(operator.outputs, found, strict=True)
    return [tensors[name] for name in chain.plan.outputs]


def network_outputs(spec, seed, *, threshold=0.0):
    """Category scores, mask kernels, mask features and strides: a few masks, each found many times."""
    sizes, generator = spec.sizes, torch.Generator().manual_seed(seed)
    dtype = TORCH_TYPES[spec.dtype]

    def random(*shape):
        return torch.randn(shape, generator=generator)

    coarse = random(sizes.batch, sizes.channels, 3, 4)
    features = torch.nn.functional.interpolate(
        coarse, size=(sizes.height, sizes.width), mode="bicubic"
    )
    few = random(sizes.batch, sizes.channels, 6) * 0.3
    chosen = torch.randint(0, 6, (sizes.batch, 1, sizes.cells), generator=generator)
    mask_kernels = few.gather(2, chosen.expand(-1, sizes.channels, -1))
    mask_kernels = mask_kernels + 0.02 * random(*mask_kernels.shape)
    scores = torch.rand(sizes.batch, sizes.classes, sizes.cells, generator=generator) ** 3
    return {
        "category_scores": torch.where(scores > threshold, scores, 0.0),
        "mask_kernels": mask_kernels.to(dtype),
        "mask_features": features.to(dtype),
        "cell_strides": torch.full((sizes.cells,), 4.0),
    }


def expected_slots(spec, inputs):
    """The definition's answer to the same question."""
    thresholds = spec.thresholds
    return kernels.postprocess(
        inputs["category_scores"],
        inputs["mask_kernels"].float(),
        inputs["mask_features"].float(),
        inputs["cell_strides"],
        score_threshold=thresholds.score,
        mask_threshold=float(torch.sigmoid(torch.tensor(thresholds.mask_logit))),
        update_threshold=thresholds.update,
        max_candidates=spec.sizes.max_candidates,
        max_instances=spec.sizes.max_instances,
        decay=thresholds.decay,
        sigma=thresholds.sigma,
        backend="torch",
    )


SIZES = Sizes(2, 3, 700, 32, 13, 19, 40, 12)
SPECS = {
    "more candidates than wanted": (PluginSpec(SIZES, Thresholds(), "float32"), 0.0),
    "half": (PluginSpec(SIZES, Thresholds(decay="linear"), "float16"), 0.0),
    "fewer than wanted": (PluginSpec(SIZES, Thresholds(mask_logit=0.4), "float32"), 0.97),
    "nothing": (PluginSpec(SIZES, Thresholds(), "float32"), 2.0),
    "one of everything": (
        PluginSpec(Sizes(1, 1, 1, 16, 1, 1, 1, 1), Thresholds(0.0), "float32"),
        0.0,
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_the_chain_equals_the_definition(name):
    spec, threshold = SPECS[name]
    inputs = network_outputs(spec, seed=3, threshold=threshold)
    chain = make_chain(spec, LARGE)
    labels, scores, probabilities, count = run_chain(chain, inputs)
    expected = expected_slots(spec, inputs)
    assert torch.equal(count, expected.valid_count.int())
    assert torch.equal(labels, expected.labels.int())
    tolerance = 1e-4 if spec.dtype == "float32" else 1e-3
    torch.testing.assert_close(scores, expected.scores, atol=tolerance, rtol=0)
    torch.testing.assert_close(probabilities, expected.probabilities, atol=tolerance, rtol=0)
    if name.startswith("more"):
        assert (count > 5).all()


def test_the_number_of_blocks_does_not_matter():
    """Keys of many blocks, of which the last is not full, come to the same as those of one."""
    spec = SPECS["more candidates than wanted"][0]
    inputs = network_outputs(spec, seed=5)
    found = []
    for block in (64, 4096):
        collect = dataclasses.replace(LARGE.collect_candidates, constants={"BLOCK": block})
        tiles = dataclasses.replace(LARGE, collect_candidates=collect)
        chain = make_chain(spec, tiles)
        assert next(iter(chain.operators.values())).launch.grid[0] == -(-2100 // block)
        found.append(run_chain(chain, inputs))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_operators_are_launches_with_inputs_before_outputs():
    spec = plugin_spec(PRESETS["solov2-light-r18-448"], PostprocessConfig())
    chain = make_chain(spec)
    assert len(chain.operators) == 12
    made = set(chain.plan.inputs)
    for name, operator in chain.operators.items():
        assert f"{operator.launch.kernel.removesuffix('_kernel')}_{spec.digest}" == name
        assert list(operator.launch.arguments.values()) == [*operator.inputs, *operator.outputs]
        assert made.issuperset(operator.inputs)
        assert made.isdisjoint(operator.outputs)
        made.update(operator.outputs)
        assert {type(value) for value in operator.launch.constants.values()} <= {
            int,
            float,
            bool,
            str,
        }
    assert set(chain.plan.outputs) < made
    assert not any(buffer.zeroed for buffer in chain.plan.buffers.values())


def test_what_needs_zeroed_memory_is_refused():
    spec = SPECS["nothing"][0]
    plan = postprocess_plan(spec.sizes, spec.thresholds, Tiles(), suppress=True)
    with pytest.raises(ValueError, match="than to zero key_count"):
        without_zeroed_memory(plan)


def test_a_spec_survives_being_written():
    spec = plugin_spec(PRESETS["solov2-light-r18-448"], PostprocessConfig(score_threshold=0.07))
    assert PluginSpec.from_text(spec.to_text()) == spec
    assert "\n" not in spec.to_text()
    assert spec.thresholds.mask_logit == 0.0
    assert spec.digest != dataclasses.replace(spec, dtype="float16").digest
    assert (spec.sizes.height, spec.sizes.width, spec.sizes.cells) == (112, 192, 3872)


def test_more_than_the_kernels_sort_is_refused():
    with pytest.raises(
        UsageError, match="max_candidates is 5000, the kernels take 4096; lower --max-c"
    ):
        plugin_spec(PRESETS["solov2-nano-256"], PostprocessConfig(max_candidates=5000))


# The graph


def run_graph(path, image):
    """The outputs of a plugin graph: ONNX Runtime for standard nodes, the interpreter for ours."""
    proto = onnx.load(path)
    nodes = list(proto.graph.node)
    ours = [i for i, node in enumerate(nodes) if node.domain == NAMESPACE]
    assert ours == list(range(ours[0], ours[-1] + 1))
    made = {name for i in ours for name in nodes[i].output}
    wanted = {name for i in ours for name in nodes[i].input} - made
    network = part_of(proto, nodes[: ours[0]], proto.graph.input, sorted(wanted))
    found = onnxruntime.InferenceSession(network).run(sorted(wanted), {"image": image})
    tensors = dict(zip(sorted(wanted), map(torch.from_numpy, found), strict=True))
    for i in ours:
        chain = make_chain(PluginSpec.from_text(attributes_of(nodes[i])["spec"].decode()), LARGE)
        arguments = [tensors[name] for name in nodes[i].input]
        results = run_operator(chain, chain.operators[nodes[i].op_type], arguments)
        tensors |= zip(nodes[i].output, results, strict=True)
    arrays = {name: tensors[name].numpy() for name in made}
    infos = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in arrays.items()
    ]
    names = [value.name for value in proto.graph.output]
    direct = {name: arrays[name] for name in names if name in arrays}
    cast = [name for name in names if name not in direct]
    rest = onnxruntime.InferenceSession(part_of(proto, nodes[ours[-1] + 1 :], infos, cast))
    direct |= zip(cast, rest.run(cast, arrays), strict=True)
    return {name: direct[name] for name in names}


def attributes_of(node):
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def part_of(proto, nodes, inputs, outputs):
    """A model of some of the nodes."""
    empty = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "part", inputs, empty, proto.graph.initializer)
    opset = onnx.helper.make_opsetid("", proto.opset_import[0].version)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=proto.ir_version)
    return model.SerializeToString()


def check_equal(found, expected, config):
    """Two graphs' outputs are the same; the number of instances compared."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found["valid_count"], expected["valid_count"])
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4, rtol=0)
    count = int(expected["valid_count"][0])
    masks, wanted = (graph["masks"][0] > config.mask_threshold for graph in (found, expected))
    for mask, other in zip(masks[:count], wanted[:count], strict=True):
        assert (mask & other).sum() >= 0.999 * (mask | other).sum()
    assert not found["masks"][0, count:].any()
    return count


def run_onnx(path, image):
    session = onnxruntime.InferenceSession(path)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def test_the_graph_equals_the_definition(exported, lively_model, tmp_path):
    config = PostprocessConfig(max_candidates=60, max_instances=12)
    path, image = tmp_path / "plugins.onnx", picture(lively_model, make_image((256, 256)))
    write_plugin_graph(exported(), path, lively_model.config, config)
    arrays = [torch.from_numpy(array) for array in run_onnx(exported(), image).values()]
    strides = torch.from_numpy(cell_strides(lively_model.config))
    slots = [tensor.numpy() for tensor in static_postprocess(*arrays, strides, config)]
    expected = dict(zip(OUTPUTS["full"], slots, strict=True))
    assert check_equal(run_graph(path, image), expected, config) == 12


@pytest.fixture(scope="module")
def demo():
    """The shipped model."""
    return load_checkpoint(MODEL).model.eval()


def picture(model, image):
    return Preprocess.from_config(model.config)(image)[0][np.newaxis]


def compare_demo(model, config, folder, images, precision="fp32"):
    """The numbers of instances of the plugin graph, which equal those of the graph `full`."""
    network, full, path = (folder / f"{name}.onnx" for name in ("network", "full", "plugins"))
    export_onnx(model, network, precision=precision)
    export_onnx(model, full, graph="full", precision=precision, postprocess_config=config)
    write_plugin_graph(network, path, model.config, config)
    return [
        check_equal(run_graph(path, image), run_onnx(full, image), config)
        for image in (picture(model, image) for image in images)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [PostprocessConfig(), PostprocessConfig(0.02, 0.4, 0.01, decay="linear")]
)
def test_the_graph_equals_the_standard_one(demo, config, tmp_path):
    scenes = [render_scene(np.random.default_rng(seed)).image for seed in range(3)]
    counts = compare_demo(demo, config, tmp_path, [*scenes, np.zeros_like(scenes[0])])
    assert min(counts[:3]) >= 3


@pytest.mark.slow
def test_half_precision_goes_into_the_kernels_as_it_is(demo, tmp_path):
    config = PostprocessConfig(max_candidates=60, max_instances=12)
    scene = render_scene(np.random.default_rng(1)).image
    assert compare_demo(demo, config, tmp_path, [scene], "fp16")[0] >= 3
    ours = [n for n in onnx.load(tmp_path / "plugins.onnx").graph.node if n.domain == NAMESPACE]
    assert all('"dtype":"float16"' in str(attributes_of(node)["spec"]) for node in ours)


def test_the_file_says_all_that_tensorrt_asks_for(exported, lively_model, tmp_path):
    path, config = tmp_path / "plugins.onnx", PostprocessConfig()
    spec = write_plugin_graph(exported(), path, lively_model.config, config)
    proto = onnx.load(path)
    assert {(o.domain, o.version) for o in proto.opset_import} == {("", 18), (NAMESPACE, 1)}
    _, outputs = describe_tensors(lively_model.config, "full", config)
    assert [value.name for value in proto.graph.output] == [each.name for each in outputs]
    ours = [node for node in proto.graph.node if node.domain == NAMESPACE]
    chain = make_chain(spec)
    assert [node.op_type for node in ours] == list(chain.operators)
    assert not {node.op_type for node in ours} & {
        schema.name for schema in onnx.defs.get_all_schemas()
    }
    for node in ours:
        assert attributes_of(node) == {
            "plugin_namespace": b"solo_edge",
            "plugin_version": b"1",
            "aot": 1,
            "spec": spec.to_text().encode(),
        }
        operator = chain.operators[node.op_type]
        assert (len(node.input), len(node.output)) == (len(operator.inputs), len(operator.outputs))


def test_another_graph_is_refused(exported, lively_model, tmp_path):
    path, other = tmp_path / "a.onnx", dataclasses.replace(lively_model.config, num_classes=6)
    with pytest.raises(ArtifactError, match="not the graph 'network' of solov2-nano-256"):
        write_plugin_graph(exported(), path, other, PostprocessConfig())
    assert not path.exists()
    write_plugin_graph(exported(), path, lively_model.config, PostprocessConfig())
    with pytest.raises(ArtifactError, match="not the graph 'network' of solov2-nano-256"):
        write_plugin_graph(path, path, lively_model.config, PostprocessConfig())
