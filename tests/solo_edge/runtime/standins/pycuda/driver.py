"""Device memory is host memory; it is checked that a context is current and that everything is given back.

`calls` records what was queued. A module's image is the name of its one kernel.
"""

from __future__ import annotations

import os
import struct

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):
    pass


live = {"device": 0, "host": 0, "contexts": 0}
stack: list[Context] = []
calls: list[tuple] = []


def _need_context():
    if not stack:
        raise LogicError("no context is current")


def init():
    if os.environ.get("FAKE_CUDA_NO_DEVICE"):
        raise LogicError("cuInit failed: no CUDA-capable device is detected")


class Context:
    def __init__(self):
        live["contexts"] += 1

    def push(self):
        stack.append(self)

    @staticmethod
    def pop():
        stack.pop()

    def detach(self):
        live["contexts"] -= 1


class Device:
    def __init__(self, index):
        assert index == 0

    @staticmethod
    def count():
        return 1

    def name(self):
        return "Fake GPU"

    def compute_capability(self):
        return (8, 7)

    def retain_primary_context(self):
        return Context()


class Stream:
    def __init__(self, flags=0):
        _need_context()
        assert flags == 1
        self.handle = 0x5678

    def synchronize(self):
        _need_context()


class DeviceAllocation:
    def __init__(self, size):
        _need_context()
        if size > 1 << 30:
            raise MemoryError("cuMemAlloc failed: out of memory")
        self.array = np.empty(size, np.uint8)
        live["device"] += 1

    def __int__(self):
        return self.array.ctypes.data

    def free(self):
        _need_context()
        live["device"] -= 1


mem_alloc = DeviceAllocation


class PagelockedHostAllocation:
    def __init__(self, shape, dtype):
        _need_context()
        live["host"] += 1
        self.array = np.empty(shape, dtype)
        self.__array_interface__ = self.array.__array_interface__

    def free(self):
        _need_context()
        live["host"] -= 1


def pagelocked_empty(shape, dtype):
    return np.asarray(PagelockedHostAllocation(shape, dtype))  # .base is the allocation


def _at(address, size):
    import ctypes

    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def memcpy_htod_async(target, source, stream):
    _need_context()
    assert stream.handle == 0x5678
    _at(target, source.nbytes)[:] = source.reshape(-1).view(np.uint8)


def memcpy_dtoh_async(target, source, stream):
    _need_context()
    assert stream.handle == 0x5678
    target.reshape(-1).view(np.uint8)[:] = _at(source, target.nbytes)


def memset_d8_async(address, value, size, stream):
    _need_context()
    assert stream.handle == 0x5678
    calls.append(("memset", address, value, size))
    _at(address, size)[:] = value


class function_attribute:  # noqa: N801  # as PyCUDA calls it
    MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


class Function:
    def __init__(self, name):
        self.name = name

    def set_attribute(self, attribute, value):
        calls.append(("attribute", self.name, attribute, value))

    def prepare(self, arg_types):
        self.format = "".join(arg_types)

    def prepared_async_call(self, grid, block, stream, *values, shared_size=0):
        _need_context()
        assert isinstance(block, tuple)
        assert stream.handle == 0x5678
        struct.pack(self.format, *values)  # the types fit
        kinds = [{"P": "pointer", "i": "int32", "f": "float32"}[code] for code in self.format]
        arguments = list(zip(kinds, values, strict=True))
        calls.append(("launch", self.name, grid, block, shared_size, arguments))


class Module:
    def __init__(self, name):
        self.name = name

    def get_function(self, name):
        if name != self.name:
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return Function(name)


def module_from_buffer(buffer):
    _need_context()
    if buffer.startswith(b"?"):
        raise LogicError("cuModuleLoadDataEx failed: device kernel image is invalid")
    return Module(bytes(buffer).rstrip(b"\0").decode())


class Event:
    def __init__(self):
        _need_context()

    def record(self, stream):
        assert stream.handle == 0x5678
        return self

    def synchronize(self):
        return self

    def time_since(self, start):
        return 0.0 if start is self else 1.5
