"""A stand-in for TensorRT: a plan is the ONNX file that was parsed, ONNX Runtime executes it on host memory.

Only the names of the real one that we use, with the real one's manners: calls that fail return None or False.
"""

from __future__ import annotations

import ctypes
import enum
import os

import numpy as np
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity


class DataType(enum.Enum):
    FLOAT, HALF, INT64 = range(3)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class OnnxParserFlag(enum.Enum):
    NATIVE_INSTANCENORM = 0


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class BuilderFlag(enum.Enum):
    TF32 = 0


class Config:
    builder_optimization_level = 5

    def __init__(self):
        self.flags = {BuilderFlag.TF32}

    def clear_flag(self, flag):
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool, size):
        assert pool is MemoryPoolType.WORKSPACE
        assert size > 0

    def create_timing_cache(self, content):
        return TimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.cache = cache
        return cache.content in (b"", b"measurements")


class TimingCache:
    def __init__(self, content):
        self.content = bytes(content)

    def serialize(self):
        return bytearray(b"measurements")


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return []

    def create_builder_config(self):
        return Config()

    def build_serialized_network(self, network, config):
        assert not config.flags
        assert config.builder_optimization_level == 3
        if not network:
            self.logger.log(ILogger.ERROR, "the network is empty")
            return None
        return bytearray(network[0])


class Problem:
    def __init__(self, text):
        self.text = text

    def node(self):
        return -1

    def desc(self):
        return self.text


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.problems = network, []

    def set_flag(self, flag):
        assert flag is OnnxParserFlag.NATIVE_INSTANCENORM

    def parse(self, content):
        try:
            onnxruntime.InferenceSession(content)
        except Exception as error:
            self.problems.append(Problem(f"no model ({type(error).__name__})"))
            return False
        self.network.append(content)
        return True

    @property
    def num_errors(self):
        return len(self.problems)

    def get_error(self, index):
        return self.problems[index]


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        try:
            return Engine(onnxruntime.InferenceSession(plan))
        except Exception:
            self.logger.log(ILogger.ERROR, "magic tag does not match")
            return None


class Engine:
    def __init__(self, session):
        self.session = session
        inputs = {value.name: (TensorIOMode.INPUT, value) for value in session.get_inputs()}
        outputs = {value.name: (TensorIOMode.OUTPUT, value) for value in session.get_outputs()}
        self.values = inputs | outputs

    @property
    def num_io_tensors(self):
        return len(self.values)

    def get_tensor_name(self, index):
        return list(self.values)[index]

    def get_tensor_mode(self, name):
        return self.values[name][0]

    def get_tensor_shape(self, name):
        return self.values[name][1].shape

    def get_tensor_dtype(self, name):
        kinds = {"tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64}
        return kinds[self.values[name][1].type]

    def create_execution_context(self):
        return None if os.environ.get("FAKE_TENSORRT_NO_MEMORY") else Context(self)


class Context:
    def __init__(self, engine):
        self.engine, self.addresses = engine, {}

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in self.engine.values

    def execute_async_v3(self, stream):
        if stream != 0x5678:
            return False
        session = self.engine.session
        feeds = {value.name: self._at(value) for value in session.get_inputs()}
        outputs = session.get_outputs()
        results = session.run([value.name for value in outputs], feeds)
        for value, result in zip(outputs, results, strict=True):
            self._at(value)[...] = result
        return True

    def _at(self, value):
        dtype = np.dtype({"tensor(float)": np.float32, "tensor(int64)": np.int64}[value.type])
        size = int(np.prod(value.shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self.addresses[value.name])
        return np.frombuffer(memory, dtype).reshape(value.shape)
