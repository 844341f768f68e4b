"""TensorRT's names in all supported versions, and NVIDIA's parser and builder on our graphs."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.export import tensorrt_builder, tensorrt_rtx
from solo_edge.export.tensorrt_builder import build_plan, serialize_network
from solo_edge.export.tensorrt_rtx import build_for_rtx, load_tensorrt_rtx
from solo_edge.runtime import tensorrt_runner

FILES = [Path(module.__file__) for module in (tensorrt_builder, tensorrt_runner)]
# What TensorRT's versions have of the names that these files use: version -> class -> members.
KNOWN = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())

# How objects of TensorRT's classes are called in these files.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "problem": "ParserError",
    "config": "IBuilderConfig",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}


def used_names() -> set[tuple[str, str]]:
    """(class, member) of everything of TensorRT's in the files; ("Builder", "") for the class itself."""
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Attribute):
                continue
            text = ast.unparse(node)
            if match := re.fullmatch(r"trt\.(\w+)\.(\w+)", text):
                found.add(match.groups())
            elif match := re.fullmatch(r"trt\.(\w+)", text):
                found.add((match[1], ""))
            elif match := re.fullmatch(rf"({'|'.join(CLASSES)})\.(\w+)", text):
                found.add((CLASSES[match[1]], match[2]))
    return {name for name in found if name[0] != "__version__" and name[1] != "__init__"}


def test_the_search_sees_classes_members_and_methods():
    names = used_names()
    assert ("Builder", "") in names
    assert ("TensorIOMode", "INPUT") in names
    assert ("IExecutionContext", "execute_async_v3") in names
    assert len(names) > 35


@pytest.mark.parametrize("version", sorted(KNOWN))
def test_every_name_exists_in_every_version(version):
    missing = {
        f"{kind}.{member}".rstrip(".")
        for kind, member in used_names()
        if kind not in KNOWN[version] or (member and member not in KNOWN[version][kind])
    }
    assert not missing


def test_the_versions_are_those_that_we_promise():
    assert sorted(KNOWN, key=lambda v: [int(part) for part in v.split(".")]) == [
        "10.3.0",
        "10.13.3.9",
        "10.16.1.11",
        "11.4.0.106",
    ]


def test_the_kept_names_are_those_of_the_bindings(shared):
    """The lists here are cut from complete ones."""
    for version, classes in KNOWN.items():
        full = json.loads((shared / f"prototypes/tensorrt_names/{version}.json").read_text())
        for kind, members in classes.items():
            assert set(members) <= set(full[kind] or [])
        for kind, member in used_names():  # and nothing that is used was left out by mistake
            assert (member in classes[kind]) == (member in (full[kind] or [])) or not member


def test_without_tensorrt_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ResourceError, match="JetPack"):
        build_plan(tmp_path / "a.onnx", tmp_path / "a.plan")
    assert list(tmp_path.iterdir()) == []


def test_without_tensorrt_for_rtx_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(tensorrt_rtx, "_LIBRARIES", "no_such_package")
    load_tensorrt_rtx.cache_clear()
    with pytest.raises(ResourceError, match="pip install --no-deps tensorrt-rtx"):
        load_tensorrt_rtx()


@pytest.fixture(scope="module")
def rtx():
    load_tensorrt_rtx.cache_clear()
    try:
        return load_tensorrt_rtx()
    except ResourceError as error:
        pytest.skip(str(error))


GRAPHS = [
    ("network", "fp32"),
    ("full", "fp32"),
    ("network", "fp16"),
    pytest.param("full", "fp16", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("graph", "precision"), GRAPHS)
def test_nvidias_parser_and_builder_take_our_graphs(rtx, exported, graph, precision):
    assert len(build_for_rtx(exported(graph, precision))) > 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", ["network", "full"])
def test_nvidias_parser_and_builder_take_a_light_preset(rtx, tmp_path, graph, precision):
    from solo_edge.config import preset
    from solo_edge.export.onnx import export_onnx
    from solo_edge.models.solov2 import SOLOv2

    model = SOLOv2(preset("solov2-light-r18-448")).eval()
    export_onnx(model, tmp_path / "light.onnx", graph=graph, precision=precision)
    assert len(build_for_rtx(tmp_path / "light.onnx")) > 10_000_000


def test_half_precision_halves_the_weights_of_the_network(rtx, exported):
    """The types are obeyed: the parsed network holds half weights, though no flag asks for them."""
    trt = rtx
    logger = tensorrt_runner.make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(exported("network", "fp16").read_bytes())
    convolutions = [
        layer
        for layer in (network.get_layer(i) for i in range(network.num_layers))
        if layer.type == trt.LayerType.CONVOLUTION
    ]
    assert len(convolutions) == 91
    assert {layer.get_output(0).dtype for layer in convolutions} == {trt.DataType.HALF}
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert {output.dtype for output in outputs} == {trt.DataType.FLOAT}


def test_a_refused_node_is_named(rtx, tmp_path):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("SoloNotThere", ["image"], ["out"], name="the_culprit", domain="solo")
    values = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in ("image", "out")]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("solo", 1)]
    path = tmp_path / "a.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(ArtifactError, match=r"node the_culprit \(SoloNotThere\)"):
        serialize_network(rtx, path)


def test_what_is_no_onnx_file_is_refused(rtx, tmp_path):
    (tmp_path / "a.onnx").write_text("no graph")
    with pytest.raises(ArtifactError, match="cannot read this graph"):
        serialize_network(rtx, tmp_path / "a.onnx")
