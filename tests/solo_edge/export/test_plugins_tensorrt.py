"""Our operators in TensorRT's own bindings, and what their kernels cost. Nothing here runs on a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import solo_edge
from solo_edge.config import PRESETS, PostprocessConfig
from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.export import tensorrt_plugins
from solo_edge.export.plugins import NAMESPACE, write_plugin_graph
from solo_edge.export.plugins_chain import PluginSpec, make_chain, plugin_spec, tensor_of
from solo_edge.export.tensorrt_builder import serialize_network
from solo_edge.export.tensorrt_plugins import (
    MAX_SHARED_BYTES,
    plugin_target,
    register_plugins,
    why_unsupported,
)
from solo_edge.export.tensorrt_rtx import load_tensorrt_rtx
from solo_edge.kernels.aot import assemble
from solo_edge.kernels.aot_targets import TARGETS
from solo_edge.kernels.plan import Sizes, Thresholds

BINDINGS = Path(__file__).with_name("plugin_bindings")
SMALL = PluginSpec(Sizes(2, 3, 100, 16, 9, 13, 16, 5), Thresholds(), "float16")
TRT_TYPES = {"float32": "FLOAT", "float16": "HALF", "int32": "INT32"}
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def tensorrt(version, **names):
    return SimpleNamespace(__version__=version, **names)


@pytest.mark.parametrize("version", ["10.9.0.34", "10.16.1.11", "11.4.0.106"])
def test_a_tensorrt_with_ahead_of_time_plugins_is_known(version):
    assert why_unsupported(tensorrt(version, QuickPluginCreationRequest=object)) is None


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (tensorrt("10.3.0"), "TensorRT 10.3.0 has no ahead-of-time plugins, which came with 10.9"),
        (tensorrt("10.8.0.43", QuickPluginCreationRequest=object), "came with 10.9"),
        (tensorrt("10.9.0.34"), "comes without"),
    ],
)
def test_a_tensorrt_without_them_is_refused(module, reason):
    assert reason in (why_unsupported(module) or "")
    with pytest.raises(ResourceError, match=reason):
        register_plugins(module, SMALL, TARGETS["sm_87"])


def test_a_gpu_without_kernels_is_refused():
    assert plugin_target("8.7") is TARGETS["sm_87"]
    assert plugin_target("11.0") is TARGETS["sm_110"]
    with pytest.raises(ResourceError, match=r"no kernels for compute capability 7\.5"):
        plugin_target("7.5")


@needs_triton
def test_kernels_that_need_more_shared_memory_than_every_launch_may_use_are_refused(monkeypatch):
    monkeypatch.setattr(tensorrt_plugins, "MAX_SHARED_BYTES", 1024)
    with pytest.raises(ResourceError, match=r"_kernel needs \d+ bytes of shared memory"):
        tensorrt_plugins._prepare(SMALL, TARGETS["sm_87"], None)


def check_kernels(spec, target):
    """Each kernel takes addresses alone, and assembles without spills into what a launch may use."""
    prepared = tensorrt_plugins._prepare(spec, target, None)
    for name, kernel in prepared.kernels.items():
        operator = prepared.chain.operators[name]
        buffers = [operator.launch.arguments[parameter] for parameter in kernel.parameters]
        assert buffers == [*operator.inputs, *operator.outputs]
        assert parameter_types(kernel.entry, kernel.ptx) == ["u64"] * len(buffers)
        assert "f64" not in kernel.ptx  # thresholds are Python's floats, but compared as float32
        made = assemble(kernel, kernel.target)
        numbers = (name, kernel.shared_bytes, made.registers, made.stack_bytes, made.spill_bytes)
        print(target.name, spec.dtype, *numbers)
        assert kernel.shared_bytes <= MAX_SHARED_BYTES, numbers
        assert made.spill_bytes == made.stack_bytes == 0, numbers


def parameter_types(entry, ptx):
    """Types in the order of an entry's parameters."""
    (declared,) = re.findall(rf"\.entry {entry}\(([^)]*)\)", ptx)
    return re.findall(r"\.param \.(\w+)", declared)


@needs_triton
def test_small_kernels_keep_within_the_limits():
    check_kernels(SMALL, TARGETS["sm_87"])


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("preset", "target"),
    [
        ("solov2-light-r18-448", "sm_87"),
        ("solov2-light-r18-448", "sm_89"),
        ("solov2-light-r18-448", "sm_110"),
        ("solov2-r50-800", "sm_87"),  # twice as many channels
    ],
)
def test_kernels_keep_within_the_limits(preset, target, dtype):
    check_kernels(plugin_spec(PRESETS[preset], PostprocessConfig(), dtype=dtype), TARGETS[target])


def test_nvidias_parser_takes_our_nodes_for_plugins(exported, lively_model, tmp_path):
    """It reads the network and wants our first operator. More it cannot do: this one has no such plugins."""
    try:
        trt = load_tensorrt_rtx()
    except ResourceError as error:
        pytest.skip(str(error))
    path, wanted = tmp_path / "plugins.onnx", []
    spec = write_plugin_graph(exported(), path, lively_model.config, PostprocessConfig())
    first = next(iter(make_chain(spec).operators))

    class Creator(trt.IPluginCreatorV3One):
        def __init__(self):
            trt.IPluginCreatorV3One.__init__(self)
            self.name, self.plugin_namespace, self.plugin_version = first, NAMESPACE, "1"
            self.field_names = trt.PluginFieldCollection([])

        def create_plugin(self, name, fields, phase):
            wanted.append((name, len(fields)))

    creator, registry = Creator(), trt.get_plugin_registry()
    registry.register_creator(creator, NAMESPACE)
    try:
        with pytest.raises(ArtifactError, match=rf"{first}.*Could not create the plugin"):
            serialize_network(trt, path)
    finally:
        registry.deregister_creator(creator)
    assert wanted == [("postprocess/collect_blocks", 0)]


@pytest.fixture(scope="module", params=["10.9.0.34", "10.13.3.9", "10.16.1.11", "11.4.0.106"])
def bindings(request, tmp_path_factory):
    """(version, folder) of TensorRT's bindings with stand-ins for most of the libraries."""
    folder = tmp_path_factory.mktemp("bindings") / request.param
    command = [sys.executable, BINDINGS / "make.py", request.param, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no bindings of TensorRT here: {done.stderr.strip().splitlines()[-1]}")
    return request.param, folder


@needs_triton
@pytest.mark.slow
def test_tensorrts_bindings_take_the_operators(bindings, tmp_path):
    version, folder = bindings
    paths = {
        "PYTHONPATH": f"{Path(solo_edge.__file__).parents[1]}:{folder / 'bindings'}",
        "LD_LIBRARY_PATH": str(folder / "lib"),
    }
    done = subprocess.run(
        [sys.executable, BINDINGS / "probe.py", "sm_87", tmp_path / "answers"],
        input=SMALL.to_text(),
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads((tmp_path / "answers").read_text())
    assert answers["version"] == version
    prepared = tensorrt_plugins._prepare(SMALL, TARGETS["sm_87"], None)
    chain = make_chain(SMALL)
    assert list(answers["operators"]) == list(chain.operators)
    for name, answer in answers["operators"].items():
        operator, kernel = chain.operators[name], prepared.kernels[name]
        inputs, outputs = (
            [tensor_of(chain.plan.buffers[each]) for each in names]
            for names in (operator.inputs, operator.outputs)
        )
        assert answer.pop("class") == "_TemplateAOTPlugin"
        assert answer.pop("fields") == 0
        assert answer.pop("outputs") == len(outputs)
        assert answer.pop("types") == [TRT_TYPES[tensor.dtype] for tensor in outputs]
        assert answer.pop("shapes") == [list(tensor.shape) for tensor in outputs]
        both = [[TRT_TYPES[tensor.dtype], "LINEAR"] for tensor in (*inputs, *outputs)]
        assert answer.pop("combination") == both
        assert answer.pop("tactic") == 1
        grid = zip(("grid_x", "grid_y", "grid_z"), operator.launch.grid, strict=True)
        block = {"block_x": kernel.threads, "block_y": 1, "block_z": 1}
        assert answer.pop("launch") == {**dict(grid), **block, "shared_mem": kernel.shared_bytes}
        assert answer.pop("arguments") == 0
        assert answer.pop("entry") == kernel.entry
        assert answer.pop("ptx") == kernel.ptx
        assert not answer
