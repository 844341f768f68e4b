"""What both halves of the stand-in for TensorRT use, and the classes that users derive from."""

from __future__ import annotations

import enum
import os
from pathlib import Path

from tensorrt_rules import Rules

MAGIC = b"plan of the stand-in "
__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")
rules = Rules(__version__)

BuilderFlag = rules.enumeration("BuilderFlag")
DataType = rules.enumeration("DataType")
DeviceType = rules.enumeration("DeviceType")
ErrorCode = rules.enumeration("ErrorCode")
HardwareCompatibilityLevel = rules.enumeration("HardwareCompatibilityLevel")
LayerInformationFormat = rules.enumeration("LayerInformationFormat")
MemoryPoolType = rules.enumeration("MemoryPoolType")
NetworkDefinitionCreationFlag = rules.enumeration("NetworkDefinitionCreationFlag")
OnnxParserFlag = rules.enumeration("OnnxParserFlag")
ProfilingVerbosity = rules.enumeration("ProfilingVerbosity")
TensorIOMode = rules.enumeration("TensorIOMode")
Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


def setting(name, default=""):
    return os.environ.get(f"FAKE_TENSORRT_{name}", default)


def write_log(line):
    if path := setting("LOG"):
        with Path(path).open("a") as file:
            file.write(line + "\n")


class Made:
    """Base of what users derive from: as with pybind11, its own constructor must have run."""

    _made = False

    def __init__(self):
        self._made = True


@rules.like_the_real
class ILogger(Made):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self):
        super().__init__()

    def log(self, severity, msg):
        raise NotImplementedError


@rules.like_the_real
class IProgressMonitor(Made):
    def __init__(self):
        super().__init__()

    def phase_start(self, phase_name, parent_phase, num_steps):
        raise NotImplementedError

    def step_complete(self, phase_name, step):
        raise NotImplementedError

    def phase_finish(self, phase_name):
        raise NotImplementedError


@rules.like_the_real
class IProfiler(Made):
    def __init__(self):
        super().__init__()

    def report_layer_time(self, layer_name, ms):
        raise NotImplementedError
