"""From frames in host memory to masks in host memory, with everything between on the device.

A frame's bytes go up, the preprocessing kernel, the network and the post-processing kernels run on one
stream as one CUDA graph, and what was found comes down. While one frame is computed, the next is on
its way up and the one before it on its way down:

    copies of slot 0    up 0 ────────── down 0, up 2 ─────────
    computing                compute 0, compute 1, compute 2
    copies of slot 1         up 1 ───────────── down 1, up 3

Every slot has a stream for its copies. Computing waits for the frame, the way down waits for the
computing, and the next frame's way up stands behind that in the same stream: nothing overwrites what is
still to be read.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.kernels.preprocess import LAYOUT_FIELDS, MAX_SIDE, frame_layout
from solo_edge.manifest import REBUILD
from solo_edge.preprocess import Geometry
from solo_edge.runtime.base import FrameResult, StageTimes
from solo_edge.runtime.cuda_driver import Captured, CudaDriver
from solo_edge.runtime.device_kernels import DeviceArray, DeviceKernels, LoadedKernels
from solo_edge.runtime.kernel_folder import KernelFolder

__all__ = ["PLANS", "DeviceNetwork", "FramePipeline", "why_not"]

log = logging.getLogger(__name__)

PLANS = ("preprocess", "postprocess")  # what runs before and after the network
DEPTH = 2  # frames under way
HEADER_BYTES = 64  # the layout lies before the pixels: one copy takes both up
STEP_BYTES = 1 << 20  # frames of slightly different sizes share their memory
# What is small comes down in one copy, before it is known how much else there is.
SMALL_OUTPUTS = ("instance_count", "instance_labels", "instance_scores")
ALIGNMENT = 64


class DeviceNetwork(Protocol):
    """A network whose inputs and outputs stay where they are on the device."""

    capturable: bool  # a CUDA graph can hold it

    @property
    def tensors(self) -> Mapping[str, DeviceArray]:
        """image, category_scores, mask_kernels, mask_features."""

    def queue(self) -> None:
        """Queue one run on the driver's stream for computing."""


def why_not(content: KernelFolder, config: PostprocessConfig) -> str:
    """Why these kernels cannot do this post-processing; "" if they can.

    Thresholds are arguments of the kernels. The sizes and the kind of decay are compiled in; of the
    instances fewer than compiled may be wanted.
    """
    plan = content.plans["postprocess"]
    candidates, instances = (plan.buffers[name].shape[1] for name in ("scores", "instance_scores"))
    decay = "gaussian" if content.kernels["decay_scores"].constants["GAUSSIAN"] else "linear"
    compiled = {"max_candidates": candidates, "decay": decay}
    for name, value in compiled.items():
        if getattr(config, name) != value:
            return f"the kernels have {name} {value}, wanted is {getattr(config, name)}"
    if config.max_instances > instances:
        return f"the kernels have max_instances {instances}, wanted are {config.max_instances}"
    return ""


class FramePipeline:
    """Buffers, kernels and graphs for frames of any size. A `FrameRunner`.

    Make it inside `with driver.active():`. Its memory is the driver's. One thread may submit while
    another collects.

    Args:
        network: runs between the kernels.
        kernels: with the plans "preprocess" and "postprocess".
        config: for which `why_not` says nothing.
        cell_strides: [T] float32.

    Raises:
        ArtifactError: the kernels are for another network, or for another device.
        ResourceError: not enough memory.
    """

    depth = DEPTH

    def __init__(
        self,
        driver: CudaDriver,
        network: DeviceNetwork,
        kernels: LoadedKernels,
        config: PostprocessConfig,
        cell_strides: NDArray[np.float32],
    ):
        _check_network(kernels.content, network)
        self._driver, self._network = driver, network
        self._max_instances = config.max_instances
        probability = config.mask_threshold
        numbers = {
            "score_threshold": config.score_threshold,
            "mask_logit": math.log(probability / (1.0 - probability)),
            "update_threshold": config.update_threshold,
            "sigma": config.sigma,
        }
        self._idle: deque[_Slot] = deque()
        self._under_way: deque[_Slot] = deque()
        scratch: dict[str, int] = {}
        for _ in range(DEPTH):
            slot = _Slot(driver, network, kernels, numbers, scratch)
            if not scratch:  # computing is one frame after the other, so the slots share it
                slot.finish.write("cell_strides", cell_strides)
                driver.synchronize()
                names = (*slot.finish.scratch, "cell_strides")
                scratch = slot.finish.addresses(names)
            self._idle.append(slot)

    def segment(
        self, image: NDArray[np.uint8], geometry: Geometry
    ) -> tuple[FrameResult, StageTimes]:
        """One frame all the way.

        Raises:
            RuntimeError: frames are under way; collect them first.
            ResourceError: the device fails.
        """
        if self._under_way:
            raise RuntimeError(f"{len(self._under_way)} frames are under way: collect them first")
        self.submit(image, geometry)
        return self.collect()

    def submit(self, image: NDArray[np.uint8], geometry: Geometry) -> None:
        """Send a frame on its way; returns before it is computed, and keeps nothing of `image`.

        Args:
            image: [H, W, 3] uint8 RGB; rows and pixels may have gaps.

        Raises:
            ValueError: a side of it is longer than MAX_SIDE.
            RuntimeError: `depth` frames are under way; collect one first.
            ResourceError: the device fails, or has not enough memory for a frame of this size.
        """
        if max(image.shape[:2]) > MAX_SIDE:
            raise ValueError(f"a frame has sides of at most {MAX_SIDE}, got {image.shape[:2]}")
        if not self._idle:
            raise RuntimeError(f"{DEPTH} frames are under way: collect one first")
        with self._driver.active():
            slot = self._idle[0]
            try:
                slot.upload(image, geometry)
                self._compute(slot)
            except ResourceError:
                # An error from inside a library says less than what the device itself reports.
                if not self._driver.lost:
                    self._driver.synchronize()
                raise
            self._under_way.append(self._idle.popleft())

    def collect(self) -> tuple[FrameResult, StageTimes]:
        """Wait for the oldest frame under way.

        Returns:
            What was found, in memory that is used again `depth` frames later: copy what must last.
            And the device's times: copies up and preprocessing, network, post-processing and copies
            down. What a frame waits for another is no part of them.

        Raises:
            RuntimeError: no frame is under way.
            ResourceError: the device failed.
        """
        if not self._under_way:
            raise RuntimeError("no frame is under way")
        slot = self._under_way.popleft()
        try:
            with self._driver.active():
                return slot.download(self._max_instances), slot.times()
        finally:  # only now: another thread may be waiting for it to submit a frame
            self._idle.append(slot)

    def _compute(self, slot: _Slot) -> None:
        driver = self._driver
        driver.wait(slot.uploaded)
        if slot.replay is None:
            slot.replay = self._capture(slot)
        driver.record(slot.begun)
        slot.replay()
        driver.record(slot.finished)
        driver.wait(slot.finished, stream=slot.stream)

    def _capture(self, slot: _Slot) -> Captured:
        """All launches of a frame, as one graph if possible."""

        def queue() -> None:
            slot.prepare.queue()
            self._driver.record(slot.prepared)
            self._network.queue()
            self._driver.record(slot.inferred)
            slot.finish.queue()

        if not (self._network.capturable and self._driver.has_graphs):
            return Captured(queue)
        try:
            return self._driver.capture(queue)
        except ResourceError as error:
            if self._driver.lost:
                raise
            log.warning("no CUDA graph, every launch is queued by itself: %s", error)
            return Captured(queue)

    def discard(self) -> None:
        """Wait for the frames that are under way, and forget them."""
        if not self._under_way:
            return
        self._idle += self._under_way
        self._under_way.clear()
        # Whatever is wrong with the device, whoever uses it next is told.
        with contextlib.suppress(ResourceError), self._driver.active():
            self._driver.synchronize()


class _Slot:
    """What one frame occupies on its way: memory at both ends, a stream for the copies, marks in time."""

    _device: int  # the frame's memory
    _host: NDArray[np.uint8]
    finish: DeviceKernels

    def __init__(
        self,
        driver: CudaDriver,
        network: DeviceNetwork,
        kernels: LoadedKernels,
        numbers: Mapping[str, float],
        scratch: Mapping[str, int],
    ):
        self._driver = driver
        self.stream = driver.new_stream()
        self.start, self.uploaded, self.begun = driver.event(), driver.event(), driver.event()
        self.prepared, self.inferred, self.finished = driver.event(), driver.event(), driver.event()
        self.small, self.counted, self.downloaded = driver.event(), driver.event(), driver.event()
        self.replay: Captured | None = None
        self._capacity, self._staging_ms = 0, 0.0
        self._reserve(1)
        tensors = {name: array.address for name, array in network.tensors.items()}
        memory = {**self._frame_memory(), "image": tensors.pop("image")}
        self.prepare = DeviceKernels(driver, kernels, "preprocess", memory=memory)

        buffers = kernels.content.plans["postprocess"].buffers
        offsets, size = {}, 0
        for name in SMALL_OUTPUTS:
            offsets[name] = size
            size += -(-4 * math.prod(buffers[name].shape) // ALIGNMENT) * ALIGNMENT
        self._small_device = driver.allocate(size, "results")
        self._small_host = driver.host_memory(size, "results")
        given = {name: self._small_device + offset for name, offset in offsets.items()}
        self.finish = DeviceKernels(
            driver, kernels, memory={**scratch, **tensors, **given}, numbers=numbers
        )
        self._small = {
            name: _view(self._small_host, offset, self.finish.arrays[name])
            for name, offset in offsets.items()
        }
        self._masks = self.finish.outputs["probabilities"]
        self._masks_host = _view(driver.host_memory(self._masks.size, "masks"), 0, self._masks)[0]

    def _reserve(self, size: int) -> None:
        """Memory for a larger frame, of that many bytes. Nothing of this slot is under way."""
        driver, capacity = self._driver, -(-size // STEP_BYTES) * STEP_BYTES
        if self.replay is not None:  # it reads the old memory
            self.replay.close()
            self.replay = None
        if self._capacity:
            self._capacity = 0
            driver.free(self._device)
            driver.free_host(self._host)
        device = driver.allocate(HEADER_BYTES + capacity, "a frame")
        try:
            self._host = driver.host_memory(HEADER_BYTES + capacity, "a frame")
        except ResourceError:
            driver.free(device)
            raise
        self._device, self._capacity = device, capacity

    def _frame_memory(self) -> dict[str, int]:
        """Where the preprocessing kernel finds the frame."""
        return {"layout": self._device, "frame": self._device + HEADER_BYTES}

    def upload(self, image: NDArray[np.uint8], geometry: Geometry) -> None:
        """Queue the way up. The way down of this slot's last frame was waited for."""
        started = time.perf_counter()
        height, width = image.shape[:2]
        size = height * width * 3
        if size > self._capacity:
            self._reserve(size)
            self.prepare.bind(self._frame_memory())
        layout = frame_layout((height, width), 3 * width, geometry.resized_size)
        self._host[: 4 * len(LAYOUT_FIELDS)].view(np.int32)[:] = layout
        used = HEADER_BYTES + size
        np.copyto(self._host[HEADER_BYTES:used].reshape(height, width, 3), image)
        self._staging_ms = 1000.0 * (time.perf_counter() - started)
        driver = self._driver
        driver.record(self.start, stream=self.stream)
        driver.copy_to_device(self._device, self._host[:used], stream=self.stream)
        driver.record(self.uploaded, stream=self.stream)

    def download(self, max_instances: int) -> FrameResult:
        """Wait for the computing; then only the masks that there are come down."""
        driver, stream = self._driver, self.stream
        driver.record(self.small, stream=stream)
        driver.copy_from_device(self._small_host, self._small_device, stream=stream)
        driver.record(self.counted, stream=stream)
        driver.wait_here(self.counted)
        count = min(int(self._small["instance_count"][0]), max_instances)
        masks = self._masks_host[:count]
        if count:
            driver.copy_from_device(masks, self._masks.address, stream=stream)
        driver.record(self.downloaded, stream=stream)
        driver.wait_here(self.downloaded)
        labels, scores = (
            self._small[f"instance_{name}"][0, :count] for name in ("labels", "scores")
        )
        return FrameResult(labels, scores, masks)

    def times(self) -> StageTimes:
        """Of the frame that was downloaded last."""
        elapsed = self._driver.elapsed_ms
        up = elapsed(self.start, self.uploaded) + elapsed(self.begun, self.prepared)
        down = elapsed(self.inferred, self.finished) + elapsed(self.small, self.downloaded)
        network = elapsed(self.prepared, self.inferred)
        return StageTimes(self._staging_ms + up, network, down)


def _view(memory: NDArray[np.uint8], offset: int, array: DeviceArray) -> NDArray[Any]:
    """The part of host memory that is like an array on the device."""
    return memory[offset : offset + array.size].view(array.dtype).reshape(array.shape)


def _check_network(content: KernelFolder, network: DeviceNetwork) -> None:
    """Raise ArtifactError unless the kernels read and write exactly what the network has."""
    buffers = {name: each for plan in PLANS for name, each in content.plan(plan).buffers.items()}
    for name, array in network.tensors.items():
        there = buffers.get(name)
        if there is None or (there.shape, there.dtype) != (array.shape, array.dtype.name):
            made_for = "none" if there is None else f"{there.dtype} {list(there.shape)}"
            has = f"{array.dtype} {list(array.shape)}"
            what = f"the kernels are for {name} {made_for}, the network has {has}"
            raise ArtifactError(what, where=content.folder, fix=REBUILD)
