"""A stand-in for `cuda.bindings.driver`, in the test's own process. `cuda.c` is one for what lies below."""

from __future__ import annotations

import types
from enum import IntEnum

from simulated_device import CAPABILITY, FREE_BYTES, NAME, Device, Event

TEXTS = {
    2: b"out of memory",
    200: b"device kernel image is invalid",
    700: b"an illegal memory access was encountered",
    900: b"operation not permitted when stream is capturing",
}


class RecordedBindings(types.ModuleType):
    """Succeeds at everything, unless `device.broken` names an error.

    An image that begins with "?" is refused.
    """

    class CUresult(IntEnum):
        CUDA_SUCCESS = 0
        CUDA_ERROR_OUT_OF_MEMORY = 2
        CUDA_ERROR_INVALID_IMAGE = 200
        CUDA_ERROR_ILLEGAL_ADDRESS = 700
        CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900

    class CUdevice_attribute:  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 0
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 1

    class CUfunction_attribute:  # noqa: N801
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    class CUstream_flags:  # noqa: N801
        CU_STREAM_NON_BLOCKING = 1

    class CUstreamCaptureMode:
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    class CUevent_record_flags:  # noqa: N801
        CU_EVENT_RECORD_EXTERNAL = 1

    def __init__(self):
        super().__init__("cuda.bindings.driver")
        self.device = Device()
        self.calls = self.device.calls

    def _status(self, *values):
        name = self.device.broken
        return (self.CUresult[name] if name else self.CUresult.CUDA_SUCCESS, *values)

    def cuDeviceGetCount(self):
        return self._status(1)

    def cuDeviceGetName(self, size, device):
        return self._status(NAME.encode() + b"\0")

    def cuDeviceGetAttribute(self, which, device):
        return self._status(CAPABILITY[which])

    def cuGetErrorString(self, status):
        return 0, TEXTS[int(status)]

    def cuMemGetInfo(self):
        return self._status(FREE_BYTES, 2 * FREE_BYTES)

    def cuStreamCreate(self, flags):
        return self._status(self.device.new_stream())

    def cuStreamDestroy(self, stream):
        self.device.drop_stream(stream)
        return self._status()

    def cuStreamSynchronize(self, stream):
        self.device.synchronize(stream)
        return self._status()

    def cuStreamWaitEvent(self, stream, event, flags):
        assert flags == 0
        self.device.wait(event, stream)
        return self._status()

    def cuMemAlloc(self, size):
        address = self.device.allocate(size)
        return self._status(address) if address else (self.CUresult(2), None)

    def cuMemHostAlloc(self, size, flags):
        address = self.device.allocate_host(size)
        return self._status(address) if address else (self.CUresult(2), None)

    def cuMemFree(self, address):
        self.device.free(address)
        return self._status()

    def cuMemFreeHost(self, address):
        self.device.free_host(address)
        return self._status()

    def cuModuleLoadData(self, image):
        return (self.CUresult(200), None) if image.startswith(b"?") else self._status(image)

    def cuModuleGetFunction(self, module, name):
        return self._status(name.decode())

    def cuFuncSetAttribute(self, function, which, value):
        self.calls.append(("attribute", function, which, value))
        return self._status()

    def cuMemcpyHtoDAsync(self, address, source, size, stream):
        self.device.copy_to_device(address, source, size, stream)
        return self._status()

    def cuMemcpyDtoHAsync(self, target, address, size, stream):
        self.device.copy_from_device(target, address, size, stream)
        return self._status()

    def cuMemsetD8Async(self, address, value, size, stream):
        self.device.fill(address, value, size, stream)
        return self._status()

    def cuLaunchKernel(self, function, *rest):
        (*sizes, shared, stream, (values, kinds), extra) = rest
        assert extra == 0
        for value, kind in zip(values, kinds, strict=True):
            kind(value)  # the types fit
        names = {"c_void_p": "pointer", "c_int": "int32", "c_float": "float32"}
        arguments = [(names[k.__name__], v) for k, v in zip(kinds, values, strict=True)]
        self.device.launch(function, tuple(sizes[:3]), tuple(sizes[3:]), shared, arguments, stream)
        return self._status()

    def cuStreamBeginCapture(self, stream, mode):
        assert mode == 1
        self.device.begin_capture()
        return self._status()

    def cuStreamEndCapture(self, stream):
        return self._status(self.device.end_capture())

    def cuGraphInstantiate(self, graph, flags):
        return self._status(graph)

    def cuGraphLaunch(self, graph, stream):
        self.device.launch_graph(graph, stream)
        return self._status()

    def cuGraphExecDestroy(self, graph):
        self.calls.append(("destroy graph",))
        return self._status()

    def cuEventCreate(self, flags):
        return self._status(Event())

    def cuEventRecord(self, event, stream):
        self.device.record(event, stream)
        return self._status()

    def cuEventRecordWithFlags(self, event, stream, flags):
        self.device.record(event, stream, external=flags == 1)
        return self._status()

    def cuEventSynchronize(self, event):
        self.device.wait_here(event)
        return self._status()

    def cuEventElapsedTime(self, start, end):
        assert start.reached
        assert end.reached
        return self._status(0.0 if start is end else 1.5)

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: self._status(1)
