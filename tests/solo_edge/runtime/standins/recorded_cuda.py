"""A stand-in for `cuda.bindings.driver`, in the test's own process. `cuda.c` is one for what lies below."""

from __future__ import annotations

import types
from enum import IntEnum

CAPABILITY = (8, 7)


class RecordedBindings(types.ModuleType):
    """Succeeds at everything and records what was queued.

    Memory is addresses only. An image that begins with "?" is refused.
    """

    class CUresult(IntEnum):
        CUDA_SUCCESS = 0
        CUDA_ERROR_INVALID_IMAGE = 200

    class CUdevice_attribute:  # noqa: N801
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 0
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 1

    class CUfunction_attribute:  # noqa: N801
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8

    class CUstream_flags:  # noqa: N801
        CU_STREAM_NON_BLOCKING = 1

    class CUstreamCaptureMode:
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self):
        super().__init__("cuda.bindings.driver")
        self.calls = []
        self._next = 0x7F0000000000

    def cuDeviceGetCount(self):
        return 0, 1

    def cuDeviceGetName(self, size, device):
        return 0, b"Fake GPU\0"

    def cuDeviceGetAttribute(self, which, device):
        return 0, CAPABILITY[which]

    def cuGetErrorString(self, status):
        return 0, b"device kernel image is invalid"

    def cuStreamCreate(self, flags):
        return 0, 0x5678

    def cuMemAlloc(self, size):
        self._next += (size + 255) // 256 * 256
        return 0, self._next

    def cuModuleLoadData(self, image):
        return (200, None) if image.startswith(b"?") else (0, image)

    def cuModuleGetFunction(self, module, name):
        return 0, name.decode()

    def cuFuncSetAttribute(self, function, which, value):
        self.calls.append(("attribute", function, which, value))
        return (0,)

    def cuMemsetD8Async(self, address, value, size, stream):
        assert stream == 0x5678
        self.calls.append(("memset", address, value, size))
        return (0,)

    def cuLaunchKernel(self, function, *rest):
        (*sizes, shared, stream, (values, kinds), extra) = rest
        assert (stream, extra) == (0x5678, 0)
        for value, kind in zip(values, kinds, strict=True):
            kind(value)  # the types fit
        names = {"c_void_p": "pointer", "c_int": "int32", "c_float": "float32"}
        arguments = [(names[k.__name__], v) for k, v in zip(kinds, values, strict=True)]
        call = ("launch", function, tuple(sizes[:3]), tuple(sizes[3:]), shared, arguments)
        self.calls.append(call)
        return (0,)

    def cuStreamBeginCapture(self, stream, mode):
        self.calls.append(("begin capture",))
        return (0,)

    def cuStreamEndCapture(self, stream):
        self.calls.append(("end capture",))
        return 0, 0x9ABC

    def cuGraphLaunch(self, graph, stream):
        self.calls.append(("graph",))
        return (0,)

    def __getattr__(self, name):
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: (0, 1)
