"""PyCUDA's interface to the simulated device; it is checked that a context is current."""

from __future__ import annotations

import os
import struct

import numpy as np
from simulated_device import CAPABILITY, FREE_BYTES, NAME
from simulated_device import Device as Simulated
from simulated_device import Event as Mark


class Error(Exception):
    pass


class LogicError(Error):
    pass


class LaunchError(Error):
    pass


class MemoryError(Error):
    pass


device = Simulated()
live, calls = device.live, device.calls
stack: list[Context] = []


def _need_context():
    if not stack:
        raise LogicError("no context is current")
    if device.broken:
        raise LaunchError(f"cuLaunch failed: {device.broken}")


def init():
    if os.environ.get("FAKE_CUDA_NO_DEVICE"):
        raise LogicError("cuInit failed: no CUDA-capable device is detected")


def mem_get_info():
    return FREE_BYTES, 2 * FREE_BYTES


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
        return NAME

    def compute_capability(self):
        return CAPABILITY

    def retain_primary_context(self):
        return Context()


class Stream:
    def __init__(self, flags=0):
        _need_context()
        assert flags == 1
        self.handle = device.new_stream()

    def __del__(self):
        device.drop_stream(self.handle)

    def synchronize(self):
        _need_context()
        device.synchronize(self.handle)

    def wait_for_event(self, event):
        _need_context()
        device.wait(event.mark, self.handle)


class DeviceAllocation:
    def __init__(self, size):
        _need_context()
        self.address = device.allocate(size)
        if self.address is None:
            raise MemoryError("cuMemAlloc failed: out of memory")

    def __int__(self):
        return self.address

    def free(self):
        _need_context()
        device.free(self.address)


mem_alloc = DeviceAllocation


class PagelockedHostAllocation:
    def __init__(self, shape, dtype):
        _need_context()
        assert dtype is np.uint8
        self.address = device.allocate_host(shape)
        if self.address is None:
            raise MemoryError("cuMemHostAlloc failed: out of memory")
        self.__array_interface__ = device.host[self.address].__array_interface__

    def free(self):
        _need_context()
        device.free_host(self.address)


def pagelocked_empty(shape, dtype):
    return np.asarray(PagelockedHostAllocation(shape, dtype))  # .base is the allocation


def memcpy_htod_async(target, source, stream):
    _need_context()
    device.copy_to_device(target, source.ctypes.data, source.nbytes, stream.handle)


def memcpy_dtoh_async(target, source, stream):
    _need_context()
    device.copy_from_device(target.ctypes.data, source, target.nbytes, stream.handle)


def memset_d8_async(address, value, size, stream):
    _need_context()
    device.fill(address, value, size, stream.handle)


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
        struct.pack(self.format, *values)  # the types fit
        kinds = [{"P": "pointer", "i": "int32", "f": "float32"}[code] for code in self.format]
        arguments = list(zip(kinds, values, strict=True))
        device.launch(self.name, grid, block, shared_size, arguments, stream.handle)


class Module:
    def __init__(self, image):
        self.image = image

    def get_function(self, name):
        # A short image is the name of its one kernel.
        if len(self.image) < 40 and name != self.image.rstrip(b"\0").decode():
            raise LogicError("cuModuleGetFunction failed: named symbol not found")
        return Function(name)


def module_from_buffer(buffer):
    _need_context()
    if buffer.startswith(b"?"):
        raise LogicError("cuModuleLoadDataEx failed: device kernel image is invalid")
    return Module(bytes(buffer))


class Event:
    def __init__(self):
        _need_context()
        self.mark = Mark()

    def record(self, stream):
        _need_context()
        device.record(self.mark, stream.handle)
        return self

    def synchronize(self):
        _need_context()
        device.wait_here(self.mark)
        return self

    def time_since(self, start):
        assert start.mark.reached
        assert self.mark.reached
        return 0.0 if start is self else 1.5
