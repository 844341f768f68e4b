"""A stand-in for TensorRT: a plan holds the ONNX file, and ONNX Runtime executes it on host memory.

It has the names and parameters of a real version (`tensorrt_rules`), and the real one's manners: calls that
fail return None or False and log why. What it shall be like is said in the environment:

    FAKE_TENSORRT_VERSION      "10.3.0" if unset
    FAKE_TENSORRT_GPU          name of the GPU, as timing caches remember it
    FAKE_TENSORRT_NO_GPU       nothing can be built
    FAKE_TENSORRT_NO_MEMORY    engines cannot be set up
    FAKE_TENSORRT_FAILURE      what building logs before it fails
    FAKE_TENSORRT_DLA_CORES    how many there are; 0 if unset
    FAKE_TENSORRT_WAIT_FOR     file for which a build waits
    FAKE_TENSORRT_LOG          file that gets a line for each build and each measured layer
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from tensorrt_engine import EngineInspector as EngineInspector
from tensorrt_engine import ICudaEngine as ICudaEngine
from tensorrt_engine import IExecutionContext as IExecutionContext
from tensorrt_engine import Runtime as Runtime
from tensorrt_parts import *  # noqa: F403  (all are names of TensorRT)
from tensorrt_parts import (
    MAGIC,
    BuilderFlag,
    DeviceType,
    ErrorCode,
    HardwareCompatibilityLevel,
    ILogger,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParserFlag,
    ProfilingVerbosity,
    __version__,
    rules,
    setting,
    write_log,
)
from tensorrt_rules import CALLS as CALLS


@rules.like_the_real
class ITimingCache:
    def __init__(self, content):
        self._facts = content

    def serialize(self):
        return bytearray(json.dumps(self._facts).encode())

    def combine(self, input_cache, ignore_mismatch):
        if not ignore_mismatch and input_cache._facts["machine"] != self._facts["machine"]:
            return False
        self._facts["layers"] = input_cache._facts["layers"] | self._facts["layers"]
        return True


def _machine():
    return [__version__, setting("GPU", "Fake GPU")]


@rules.like_the_real
class IBuilderConfig:
    builder_optimization_level = 3
    default_device_type = DeviceType.GPU
    DLA_core = -1
    hardware_compatibility_level = HardwareCompatibilityLevel.NONE
    max_aux_streams = -1
    profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
    progress_monitor = None

    def __init__(self, logger):
        self._logger, self._cache, self._pools = logger, None, {}
        self._flags = {BuilderFlag.TF32}

    def set_flag(self, flag):
        self._flags.add(BuilderFlag(flag))

    def clear_flag(self, flag):
        self._flags.discard(BuilderFlag(flag))

    def get_flag(self, flag):
        return flag in self._flags

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[MemoryPoolType(pool)] = int(pool_size)

    def get_memory_pool_limit(self, pool):
        return self._pools[pool]

    def create_timing_cache(self, serialized_timing_cache):
        empty = {"machine": _machine(), "layers": {}}
        if not memoryview(serialized_timing_cache).nbytes:
            return ITimingCache(empty)
        try:
            facts = json.loads(bytes(serialized_timing_cache))
            return ITimingCache({"machine": facts["machine"], "layers": facts["layers"]})
        except (ValueError, KeyError, TypeError):
            self._logger.log(ILogger.WARNING, "Failed to deserialize timing cache.")
            return None

    def set_timing_cache(self, cache, ignore_mismatch):
        if not ignore_mismatch and cache._facts["machine"] != _machine():
            return False
        self._cache = cache
        return True

    def can_run_on_DLA(self, layer):
        return layer._node.op_type == "Conv"


@rules.like_the_real
class ITensor:
    def __init__(self, value):
        self._value = value

    @property
    def name(self):
        return self._value.name

    @property
    def shape(self):
        sizes = self._value.type.tensor_type.shape.dim
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in sizes)


@rules.like_the_real
class ILayer:
    def __init__(self, node):
        self._node = node

    @property
    def name(self):
        return self._node.name


@rules.like_the_real
class INetworkDefinition:
    def __init__(self):
        self._content, self._inputs, self._outputs, self._layers = b"", [], [], []

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))
    num_layers = property(lambda self: len(self._layers))

    def get_input(self, index):
        return self._inputs[index]

    def get_output(self, index):
        return self._outputs[index]

    def get_layer(self, index):
        return self._layers[index]


@rules.like_the_real
class ParserError:
    def __init__(self, text, code, number=-1, node=None):
        self._text, self._code, self._number, self._node = text, code, number, node

    def code(self):
        return ErrorCode[self._code]

    def node(self):
        return self._number

    def node_name(self):
        return "" if self._node is None else self._node.name

    def node_operator(self):
        return "" if self._node is None else self._node.op_type

    def desc(self):
        return self._text


@rules.like_the_real
class OnnxParser:
    def __init__(self, network, logger):
        self._network, self._problems, self._flags = network, [], set()

    def set_flag(self, flag):
        self._flags.add(OnnxParserFlag(flag))

    def parse(self, model, path=None):
        import onnx

        assert OnnxParserFlag.NATIVE_INSTANCENORM in self._flags
        content = bytes(model)
        try:
            graph = onnx.load_from_string(content).graph
        except Exception:
            text = "Assertion failed: Failed to parse the ONNX model."
            self._problems.append(ParserError(text, "MODEL_DESERIALIZE_FAILED"))
            return False
        for number, node in enumerate(graph.node):
            if node.domain not in ("", "ai.onnx"):
                text = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
                self._problems.append(ParserError(text, "INVALID_NODE", number, node))
        self._network._content = content
        self._network._inputs = list(map(ITensor, graph.input))
        self._network._outputs = list(map(ITensor, graph.output))
        self._network._layers = list(map(ILayer, graph.node))
        return not self._problems

    num_errors = property(lambda self: len(self._problems))

    def get_error(self, index):
        return self._problems[index]


@rules.like_the_real
class Builder:
    def __init__(self, logger):
        assert logger._made
        if setting("NO_GPU"):
            logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    @property
    def num_DLA_cores(self):
        return int(setting("DLA_CORES", "0"))

    def create_network(self, flags=0):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig(self._logger)

    def build_serialized_network(self, network, config):
        write_log("build")
        while (gate := setting("WAIT_FOR")) and not Path(gate).exists():
            time.sleep(0.01)
        if not network._outputs:
            return self._fail("Network must have at least one output.")
        if not _measure(network, config):
            return self._fail("Error Code 7: BuildCanceled (Build canceled by user)")
        if failure := setting("FAILURE"):
            return self._fail(failure)
        names = [layer.name for layer in network._layers]
        detailed = config.profiling_verbosity is ProfilingVerbosity.DETAILED
        layers = [{"Name": name, "LayerType": "stand-in"} for name in names] if detailed else names
        if config.profiling_verbosity is ProfilingVerbosity.NONE:
            layers = []
        flags = sorted(flag.name for flag in config._flags)
        header = json.dumps({"Layers": layers, "flags": flags, "names": names})
        return bytearray(MAGIC + header.encode() + b"\n" + network._content)

    def _fail(self, text):
        self._logger.log(ILogger.ERROR, text)


def _measure(network, config):
    """Fill the timing cache as the real builder does; False if the monitor stops it."""
    monitor = config.progress_monitor
    cache = {} if config._cache is None else config._cache._facts["layers"]
    if monitor is not None:
        assert monitor._made
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Timing layers", "Building engine", len(network._layers))
    goes_on = True
    for step, layer in enumerate(network._layers):
        if layer.name not in cache:
            write_log(f"measure {layer.name}")
            cache[layer.name] = os.getpid()
        if monitor is not None and not monitor.step_complete("Timing layers", step):
            goes_on = False
            break
    if monitor is not None:
        monitor.phase_finish("Timing layers")
        goes_on = goes_on and monitor.step_complete("Building engine", 0)
        monitor.phase_finish("Building engine")
    return goes_on
