"""The half of the stand-in for TensorRT that runs plans."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import onnxruntime
from tensorrt_parts import (
    MAGIC,
    DataType,
    ILogger,
    LayerInformationFormat,
    TensorIOMode,
    __version__,
    rules,
    setting,
)


@rules.like_the_real
class Runtime:
    DLA_core = -1
    engine_host_code_allowed = False

    def __init__(self, logger):
        assert logger._made
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine):
        plan, header = bytes(serialized_engine), b"{}"
        if plan.startswith(MAGIC):
            header, _, plan = plan.removeprefix(MAGIC).partition(b"\n")
        facts = json.loads(header)
        host_code = "VERSION_COMPATIBLE" in facts.get("flags", [])
        try:
            if host_code and not self.engine_host_code_allowed:
                raise ValueError("plan holds host code, which is not allowed")
            return ICudaEngine(onnxruntime.InferenceSession(plan), facts)
        except Exception as error:
            text = str(error) if host_code else "magic tag does not match"
            self._logger.log(ILogger.ERROR, text)
            return None


@rules.like_the_real
class ICudaEngine:
    def __init__(self, session, facts):
        self._session, self._facts = session, facts
        inputs = {value.name: (TensorIOMode.INPUT, value) for value in session.get_inputs()}
        outputs = {value.name: (TensorIOMode.OUTPUT, value) for value in session.get_outputs()}
        self._values = inputs | outputs

    num_io_tensors = property(lambda self: len(self._values))
    num_layers = property(lambda self: len(self._facts.get("Layers", [])))

    def get_tensor_name(self, index):
        return list(self._values)[index]

    def get_tensor_mode(self, name):
        return self._values[name][0]

    def get_tensor_shape(self, name):
        return self._values[name][1].shape

    def get_tensor_dtype(self, name):
        kinds = {"tensor(float)": DataType.FLOAT, "tensor(int64)": DataType.INT64}
        return kinds[self._values[name][1].type]

    def create_execution_context(self, strategy=None):
        return None if setting("NO_MEMORY") else IExecutionContext(self)

    def create_engine_inspector(self):
        return EngineInspector(self)


@rules.like_the_real
class EngineInspector:
    def __init__(self, engine):
        self._engine = engine

    def get_engine_information(self, format):
        assert format is LayerInformationFormat.JSON
        tensors = "I/O Tensors" if __version__.startswith("11.") else "Bindings"
        facts = {"Layers": self._engine._facts["Layers"], tensors: list(self._engine._values)}
        return json.dumps(facts)


@rules.like_the_real
class IExecutionContext:
    profiler = None
    enqueue_emits_profile = True

    def __init__(self, engine):
        self._engine, self._addresses = engine, {}

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return name in self._engine._values

    def execute_async_v3(self, stream_handle):
        if stream_handle != 0x5678:
            return False
        session = self._engine._session
        feeds = {value.name: self._at(value) for value in session.get_inputs()}
        outputs = session.get_outputs()
        results = session.run([value.name for value in outputs], feeds)
        for value, result in zip(outputs, results, strict=True):
            self._at(value)[...] = result
        if self.profiler is not None and self.enqueue_emits_profile:
            assert self.profiler._made
            for number, name in enumerate(self._engine._facts["names"]):
                self.profiler.report_layer_time(name, 0.5 * (number + 1))
        return True

    def _at(self, value):
        dtype = np.dtype({"tensor(float)": np.float32, "tensor(int64)": np.int64}[value.type])
        size = int(np.prod(value.shape)) * dtype.itemsize
        memory = (ctypes.c_uint8 * size).from_address(self._addresses[value.name])
        return np.frombuffer(memory, dtype).reshape(value.shape)
