"""TensorRT, 10.3 to 11.4: needs tensorrt, NumPy, and cuda-bindings or PyCUDA."""

from __future__ import annotations

import logging
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.manifest import REBUILD, Manifest, TensorSpec
from solo_edge.runtime.base import Runner
from solo_edge.runtime.cuda_driver import CudaDriver, open_cuda

__all__ = ["TensorRTRunner", "check_fits", "import_tensorrt", "make_logger"]

log = logging.getLogger(__name__)


def import_tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        ResourceError: it is not installed, or too old for strongly typed networks and int64.
    """
    fix = "on a Jetson it comes with JetPack; elsewhere: pip install tensorrt"
    try:
        import tensorrt as trt
    except ImportError as error:  # also when its libraries are missing
        raise ResourceError(f"TensorRT is not installed ({error})", fix=fix) from error
    release = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if release < (10, 3):
        what = f"TensorRT {trt.__version__} is too old; 10.3 is the oldest that works"
        raise ResourceError(what, fix="install JetPack 6.1 or later")
    return trt


def check_fits(manifest: Manifest, folder: Path) -> None:
    """Refuse a plan of another TensorRT, GPU or processor before TensorRT sees it.

    Raises:
        ResourceError: TensorRT or a GPU is missing here.
        ArtifactError: the plan was built for something else; the message names both.
    """
    trt = import_tensorrt()
    driver = open_cuda()
    driver.close()
    here = {
        "tensorrt": trt.__version__,
        "architecture": platform.machine(),
        "compute_capability": driver.compute_capability,
    }
    there = {**manifest.machine, **manifest.versions}
    for name, value in here.items():
        if there.get(name) != value:
            what = f"built for {name} {there.get(name, 'unknown')}, but this machine has {value}"
            raise ArtifactError(what, where=folder, fix=f"on this machine, {REBUILD}")
    if manifest.machine.get("gpu") != driver.device_name:
        # Works, but the fastest implementations were chosen on the other one.
        built, now = manifest.machine.get("gpu"), driver.device_name
        log.warning(
            "%s: built on %s, runs on %s: may be slower than it could be", folder, built, now
        )


class _Binding(NamedTuple):
    spec: TensorSpec
    host: NDArray[Any]  # page-locked
    address: int  # on the device


class TensorRTRunner(Runner):
    """A plan on the first GPU. All memory is allocated at the start.

    The plan must be one that was checked: it is code as well as data. See `solo_edge.manifest.verify`.

    Raises:
        ResourceError: TensorRT, a GPU, or enough of its memory is missing.
        ArtifactError: TensorRT refuses the plan.
    """

    def __init__(self, path: Path):
        trt = import_tensorrt()
        # First the device: without one, objects of trt.Runtime crash when they are touched.
        self._driver = open_cuda()
        try:
            with self._driver.active():
                self._open(trt, path)
        except BaseException:
            self.close()
            raise

    def _open(self, trt: Any, path: Path) -> None:
        # All three must live as long as the context.
        self._logger = make_logger(trt)
        self._runtime = runtime = trt.Runtime(self._logger)
        self._engine = engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            what = f"TensorRT {trt.__version__} refuses this plan ({self._logger.last_error})"
            raise ArtifactError(what, where=path, fix=f"on this machine, {REBUILD}")
        self._context = context = engine.create_execution_context()
        if context is None:
            what = f"TensorRT cannot set the engine up ({self._logger.last_error})"
            raise ResourceError(what, where=path, fix="close other programs on the GPU")
        inputs: list[_Binding] = []
        outputs: list[_Binding] = []
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            binding = _bind(self._driver, TensorSpec(name, _dtype(trt, engine, name), shape), path)
            if not context.set_tensor_address(name, binding.address):
                raise ArtifactError(f"TensorRT has no tensor {name!r}", where=path, fix=REBUILD)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(binding)
        self._bound_inputs, self._bound_outputs = inputs, outputs
        self.inputs = tuple(binding.spec for binding in inputs)
        self.outputs = tuple(binding.spec for binding in outputs)

    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        context = self._context
        with self._driver.active():
            for binding in self._bound_inputs:
                np.copyto(binding.host, inputs[binding.spec.name])
                self._driver.copy_to_device(binding.address, binding.host)
            if not context.execute_async_v3(self._driver.stream):
                what = f"TensorRT failed to run ({self._logger.last_error})"
                raise ResourceError(what, fix="free GPU memory and start again")
            for binding in self._bound_outputs:
                self._driver.copy_from_device(binding.host, binding.address)
            self._driver.synchronize()
        return {binding.spec.name: binding.host for binding in self._bound_outputs}

    def close(self) -> None:
        # TensorRT frees its device memory when these go, so they go before the device does.
        for name in ("_context", "_engine", "_runtime", "_bound_inputs", "_bound_outputs"):
            self.__dict__.pop(name, None)
        self._driver.close()


def _bind(driver: CudaDriver, spec: TensorSpec, path: Path) -> _Binding:
    if min(spec.shape, default=1) < 1 or spec.dtype not in ("float32", "int64"):
        what = (
            f"tensor {spec.name!r} is {spec.dtype} {list(spec.shape)}, which our engines never have"
        )
        raise ArtifactError(what, where=path, fix=REBUILD)
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape)) * dtype.itemsize
    host = driver.host_memory(size).view(dtype).reshape(spec.shape)
    return _Binding(spec, host, driver.allocate(size))


def _dtype(trt: Any, engine: Any, name: str) -> Any:
    kind = engine.get_tensor_dtype(name)
    return {trt.DataType.FLOAT: "float32", trt.DataType.INT64: "int64"}.get(kind, str(kind))


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that writes to Python's `logging` and keeps the last error in `last_error`.

    Errors are no louder than the rest: whoever called TensorRT raises an exception with `last_error`.
    """
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
    worth_reading = (*errors, trt.ILogger.WARNING)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self.last_error = message
            level = logging.INFO if severity in worth_reading else logging.DEBUG
            log.log(level, "TensorRT: %s", message)

    return Logger()
