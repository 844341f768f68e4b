"""TensorRT, 10.3 to 11.4: needs tensorrt, NumPy, and cuda-bindings or PyCUDA."""

from __future__ import annotations

import contextlib
import logging
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.manifest import REBUILD, Manifest, TensorSpec, verify
from solo_edge.runtime.base import Runner
from solo_edge.runtime.cuda_driver import CudaDriver, open_cuda
from solo_edge.runtime.device_kernels import DeviceArray, LoadedKernels
from solo_edge.runtime.frame_pipeline import PLANS, FramePipeline, why_not
from solo_edge.runtime.kernel_folder import KERNELS_FILE, KernelFolder, read_kernels

__all__ = [
    "TensorRTRunner",
    "check_fits",
    "import_tensorrt",
    "make_logger",
    "open_tensorrt",
]

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


def check_fits(manifest: Manifest, folder: Path) -> KernelFolder | None:
    """Refuse a plan or kernels of another TensorRT, GPU or processor before anybody loads them.

    Returns:
        The engine's kernels, if it has any.

    Raises:
        ResourceError: TensorRT or a GPU is missing here.
        ArtifactError: the engine was built for something else; the message names both.
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
    fix = f"on this machine, {REBUILD}"
    for name, value in here.items():
        if there.get(name) != value:
            what = f"built for {name} {there.get(name, 'unknown')}, but this machine has {value}"
            raise ArtifactError(what, where=folder, fix=fix)
    if manifest.machine.get("gpu") != driver.device_name:
        # Works, but the fastest implementations were chosen on the other one.
        built, now = manifest.machine.get("gpu"), driver.device_name
        log.warning(
            "%s: built on %s, runs on %s: may be slower than it could be", folder, built, now
        )
    if KERNELS_FILE not in manifest.files:
        return None
    kernels = read_kernels(folder, fix=fix)
    kernels.check_fit(driver.compute_capability, fix, plans=PLANS)
    return kernels


def open_tensorrt(folder: Path, manifest: Manifest, config: PostprocessConfig) -> TensorRTRunner:
    """The TensorRT engine in a folder; frames stay on the device if there are kernels for it.

    Raises:
        As `check_fits`, `solo_edge.manifest.verify` and `TensorRTRunner`.
    """
    kernels = check_fits(manifest, folder)
    runner = TensorRTRunner(verify(folder, manifest))
    if kernels is None or manifest.graph != "network":
        return runner
    if reason := why_not(kernels, config):
        log.warning("%s: post-processing runs on the CPU: %s", folder, reason)
        return runner
    try:
        runner.take_frames(kernels, config, manifest.cell_strides)
    except BaseException:
        runner.close()
        raise
    return runner


class _Plan:
    """A plan that is loaded once, for all runners that use it; the last of them lets it go."""

    def __init__(self, trt: Any, path: Path):
        self.trt, self.path, self.users = trt, path, 0
        # All three must live as long as any context.
        self.logger = make_logger(trt)
        self._runtime: Any = None
        self.engine: Any = None

    def context(self) -> Any:
        """A context of its own for a runner, which calls `leave` when it is gone."""
        self.users += 1
        if self.engine is None:
            self._runtime = self.trt.Runtime(self.logger)
            self.engine = self._runtime.deserialize_cuda_engine(self.path.read_bytes())
        if self.engine is None:
            what = f"TensorRT {self.trt.__version__} refuses this plan ({self.logger.last_error})"
            raise ArtifactError(what, where=self.path, fix=f"on this machine, {REBUILD}")
        context = self.engine.create_execution_context()
        if context is None:
            what = f"TensorRT cannot set the engine up ({self.logger.last_error})"
            raise ResourceError(what, where=self.path, fix="close other programs on the GPU")
        return context

    def leave(self) -> None:
        """One runner less."""
        self.users -= 1
        if self.users == 0:
            self.engine = None
            self._runtime = None


class _Binding(NamedTuple):
    spec: TensorSpec
    host: NDArray[Any]  # page-locked
    device: DeviceArray


class TensorRTRunner(Runner):
    """A plan on the first GPU. All memory is allocated at the start, but for frames of unknown size.

    The plan must be one that was checked: it is code as well as data. See `solo_edge.manifest.verify`.

    Args:
        plan: the file, or what `another` shares.

    Raises:
        ResourceError: TensorRT, a GPU, or enough of its memory is missing.
        ArtifactError: TensorRT refuses the plan.
    """

    capturable = True
    _context: Any = None
    _plan: _Plan | None = None

    def __init__(self, plan: Path | _Plan):
        trt = import_tensorrt()
        # First the device: without one, objects of trt.Runtime crash when they are touched.
        self._driver = open_cuda()
        try:
            with self._driver.active():
                self._plan = plan if isinstance(plan, _Plan) else _Plan(trt, plan)
                self._context = self._plan.context()
                self._bind(self._plan)
        except BaseException:
            self.close()
            raise

    def _bind(self, plan: _Plan) -> None:
        inputs: list[_Binding] = []
        outputs: list[_Binding] = []
        engine, trt = plan.engine, plan.trt
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            spec = TensorSpec(name, _dtype(trt, engine, name), shape)
            binding = _allocate(self._driver, spec, plan.path)
            if not self._context.set_tensor_address(name, binding.device.address):
                what = f"TensorRT has no tensor {name!r}"
                raise ArtifactError(what, where=plan.path, fix=REBUILD)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs).append(binding)
        self._bound_inputs, self._bound_outputs = inputs, outputs
        self.inputs = tuple(binding.spec for binding in inputs)
        self.outputs = tuple(binding.spec for binding in outputs)
        self.tensors = {binding.spec.name: binding.device for binding in (*inputs, *outputs)}

    def another(self) -> TensorRTRunner:
        """A second runner of the same engine, which may work at the same time, in another thread.

        It has a context, streams and memory of its own and shares the weights. The two are closed in
        any order. It takes no frames until `take_frames` is called.
        """
        if self._plan is None:
            raise RuntimeError("the runner is closed")
        return TensorRTRunner(self._plan)

    def take_frames(
        self, kernels: KernelFolder, config: PostprocessConfig, cell_strides: NDArray[np.float32]
    ) -> None:
        """From now on `frames` does everything from a frame to its instances on the device.

        Raises:
            ArtifactError: the kernels are for another network or device.
            ResourceError: not enough memory.
        """
        with self._driver.active():
            loaded = LoadedKernels(self._driver, kernels)
            self.frames = FramePipeline(self._driver, self, loaded, config, cell_strides)

    def queue(self) -> None:
        """Queue one run of the network, from and to `tensors`."""
        if not self._context.execute_async_v3(self._driver.stream):
            detail = self._plan.logger.last_error if self._plan else "the runner is closed"
            what = f"TensorRT failed to run ({detail})"
            raise ResourceError(what, fix="free GPU memory and start again")

    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        driver = self._driver
        with driver.active():
            for binding in self._bound_inputs:
                np.copyto(binding.host, inputs[binding.spec.name])
                driver.copy_to_device(binding.device.address, binding.host)
            try:
                self.queue()
            except ResourceError:
                driver.synchronize()  # what the device itself reports says more
                raise
            for binding in self._bound_outputs:
                driver.copy_from_device(binding.host, binding.device.address)
            driver.synchronize()
        return {binding.spec.name: binding.host for binding in self._bound_outputs}

    def close(self) -> None:
        frames, self.frames = self.frames, None
        if frames is not None:
            frames.discard()
        plan, self._plan = self._plan, None
        if plan is not None:
            # TensorRT frees its device memory when these go, so they go before the device does.
            with contextlib.nullcontext() if self._driver.lost else self._driver.active():
                self._context = None
                plan.leave()
        self._bound_inputs, self._bound_outputs, self.tensors = [], [], {}
        self._driver.close()


def _allocate(driver: CudaDriver, spec: TensorSpec, path: Path) -> _Binding:
    if min(spec.shape, default=1) < 1 or spec.dtype not in ("float32", "int64"):
        what = (
            f"tensor {spec.name!r} is {spec.dtype} {list(spec.shape)}, which our engines never have"
        )
        raise ArtifactError(what, where=path, fix=REBUILD)
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape)) * dtype.itemsize
    host = driver.host_memory(size, spec.name).view(dtype).reshape(spec.shape)
    device = DeviceArray(driver.allocate(size, f"{spec.name} of the network"), spec.shape, dtype)
    return _Binding(spec, host, device)


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
