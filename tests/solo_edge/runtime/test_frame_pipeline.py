"""Frames on a simulated device: what is queued where, what waits for what, and what goes wrong how.

The kernels here are a few lines that carry a frame's first byte through to the results; so a result that
belongs to another frame, or to half of one, is seen. `test_tensorrt_frames` runs the real ones.
"""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import numpy as np
import pytest

from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.manifest import describe_tensors, read_manifest
from solo_edge.preprocess import Preprocess
from solo_edge.runtime.device_kernels import DeviceArray, LoadedKernels
from solo_edge.runtime.frame_pipeline import DEPTH, FramePipeline, why_not
from solo_edge.runtime.kernel_folder import read_kernels

COMPUTING = 0x5678
MASK_BYTES = 64 * 64 * 4


class Network:
    """Adds one to the first number of the image and hands it on."""

    capturable = True

    def __init__(self, driver, simulated, manifest):
        self.driver, self.simulated = driver, simulated
        inputs, outputs = describe_tensors(manifest.model, "network", manifest.postprocess)
        self.tensors = {}
        for spec in (*inputs, *outputs):
            array = DeviceArray(0, spec.shape, np.dtype(spec.dtype))
            self.tensors[spec.name] = array._replace(address=driver.allocate(array.size))

    def first(self, name):
        return self.simulated.at(self.tensors[name].address, 4).view(np.float32)

    def queue(self):
        def run():
            self.first("category_scores")[0] = self.first("image")[0] + 1

        self.simulated.queue(self.driver.stream, ("network",), run)


def carry(name, constants, grid, given):
    """What stands for the kernels."""
    if name == "preprocess_kernel":
        height, width, row_bytes = (int(x) for x in given["layout"][:3])
        frame = given["frame"][: height * row_bytes].reshape(height, row_bytes)
        # The last byte of a frame comes last: one that is not all there gives another sum.
        given["image"].flat[0] = float(frame[0, 0]) + float(frame[-1, 3 * width - 1]) / 256
    elif name == "collect_candidates_kernel":
        given["keys"].flat[0] = int(given["category_scores"].flat[0] * 256)
    elif name == "select_instances_kernel":
        given["instance_scores"].flat[:] = given["sorted_decayed"].flat[0]
    elif name == "decay_scores_kernel":
        given["sorted_decayed"].flat[0] = given["sorted_scores"].flat[0]
    elif name == "order_candidates_kernel":
        given["sorted_scores"].flat[0] = given["rescored"].flat[0]
    elif name == "reduce_masks_kernel":
        given["rescored"].flat[0] = given["scores"].flat[0]
    elif name == "select_candidates_kernel":
        given["scores"].flat[0] = given["keys"].flat[0] / 256
    elif name == "instance_probabilities_kernel":
        count = given["instance_count"]
        given["probabilities"][0, : count[0]] = float(count[0])
    if name == "select_instances_kernel":
        value = int(given["instance_scores"].flat[0])
        given["instance_count"].flat[0] = value % 7
        given["instance_labels"].flat[:] = value


@pytest.fixture
def manifest(demo_engine):
    return read_manifest(demo_engine)


@pytest.fixture
def make(device, demo_kernels, manifest):
    """make(**changes to the configuration) -> pipeline, driver, simulated device."""
    from interpreted_kernels import bound

    def make_pipeline(network=Network, **changes):
        driver, simulated = device
        simulated.kernels = bound(demo_kernels, simulated, carry)
        loaded = LoadedKernels(driver, demo_kernels)
        config = replace(manifest.postprocess, **changes)
        made = network(driver, simulated, manifest)
        pipeline = FramePipeline(driver, made, loaded, config, manifest.cell_strides)
        simulated.calls.clear()
        return pipeline, driver, simulated

    return make_pipeline


def frame(value, size=(20, 30)):
    image = np.zeros((*size, 3), np.uint8)
    image[0, 0, 0], image[-1, -1, -1] = value, 255 - value
    return image


def geometry(image):
    return Preprocess((256, 256), (0.0,) * 3, (1.0,) * 3).geometry(image.shape[:2])


def expected(value):
    return value + 1 + (255 - value) / 256


def check(result, value):
    count = int(expected(value)) % 7
    assert result.scores.tolist() == [pytest.approx(expected(value))] * count
    assert result.labels.tolist() == [int(expected(value))] * count
    assert result.probabilities.shape == (count, 64, 64)
    assert (result.probabilities == count).all()


def kinds(simulated):
    found = [call[0] for call in simulated.calls]
    simulated.calls.clear()
    return found


def test_one_frame_after_the_other(make):
    pipeline, _, _ = make()
    for value, size in ((3, (20, 30)), (6, (20, 30)), (200, (300, 400)), (5, (1, 2))):
        image = frame(value, size)
        result, times = pipeline.segment(image, geometry(image))
        check(result, value)
        assert min(times) > 0


def test_a_frame_that_is_collected_in_another_thread_keeps_its_memory(make, monkeypatch):
    pipeline, _, _ = make()
    pipeline.submit(frame(5), geometry(frame(5)))
    pipeline.submit(frame(9), geometry(frame(9)))
    slot = pipeline._under_way[0]
    download = slot.download

    def submit_meanwhile(count):
        with pytest.raises(RuntimeError, match="collect one first"):
            pipeline.submit(frame(200), geometry(frame(200)))
        return download(count)

    with monkeypatch.context() as patch:
        patch.setattr(slot, "download", submit_meanwhile)
        check(pipeline.collect()[0], 5)
    pipeline.submit(frame(20), geometry(frame(20)))
    check(pipeline.collect()[0], 9)
    check(pipeline.collect()[0], 20)


def test_a_frame_is_one_copy_up_one_graph_and_two_copies_down(make):
    pipeline, driver, simulated = make()
    for value in (3, 4, 5):  # each slot has captured its graph
        image = frame(value)
        pipeline.segment(image, geometry(image))
    simulated.calls.clear()
    image = frame(4)
    pipeline.submit(image, geometry(image))
    side = simulated.calls[0][-1]
    before = [
        call for call in simulated.calls if call[0] in ("to device", "wait", "graph", "launch")
    ]
    first, waits, *middle, last = before
    assert (first[0], first[2], first[3]) == ("to device", 64 + image.size, side)
    assert (waits[0], waits[2]) == ("wait", f"stream {COMPUTING:#x}")
    assert (last[0], last[2]) == ("wait", side)
    launches = [call[0] for call in middle]
    assert launches == (["graph"] if driver.has_graphs else ["launch"] * 11)
    # Nothing but the frame was waited for, and nothing by the host.
    assert not {"synchronize", "wait here", "allocate device", "allocate host"} & {
        *kinds(simulated)
    }
    pipeline.collect()
    down = [call for call in simulated.calls if call[0] == "from device"]
    assert [call[3] for call in down] == [side, side]
    assert down[1][2] == int(expected(4)) % 7 * MASK_BYTES
    assert "synchronize" not in kinds(simulated)


def run_overlapped(pipeline, values, sizes):
    """The results, copied, with as many frames under way as there may be."""
    results, waiting = [], 0
    for value, size in zip(values, sizes, strict=True):
        image = frame(value, size)
        pipeline.submit(image, geometry(image))
        image[:] = 0xEE  # nothing of it is kept
        waiting += 1
        if waiting == DEPTH:
            results.append(type(r := pipeline.collect()[0])(*(x.copy() for x in r)))
            waiting -= 1
    while waiting:
        results.append(type(r := pipeline.collect()[0])(*(x.copy() for x in r)))
        waiting -= 1
    return results


@pytest.mark.parametrize("seed", range(12))
def test_frames_that_overlap_do_not_touch_each_other(make, seed):
    pipeline, _, simulated = make()
    simulated.deferred, simulated.order = True, random.Random(seed)
    values = random.Random(seed).sample(range(250), 9)
    sizes = [
        (20, 30),
        (20, 30),
        (700, 800),
        (20, 30),
        (31, 9),
        (900, 800),
        (5, 5),
        (5, 5),
        (20, 30),
    ]
    for result, value in zip(run_overlapped(pipeline, values, sizes), values, strict=True):
        check(result, value)


def test_without_the_waits_they_would(make, monkeypatch):
    """The test above can fail: it does if computing does not wait for the copies."""
    pipeline, driver, simulated = make()
    simulated.deferred = True
    monkeypatch.setattr(driver, "wait", lambda event, stream=None: None)
    wrong = 0
    for seed in range(8):
        simulated.order = random.Random(seed)
        values = list(range(10 * seed, 10 * seed + 6))
        try:
            for result, value in zip(
                run_overlapped(pipeline, values, [(20, 30)] * 6), values, strict=True
            ):
                check(result, value)
        except (AssertionError, ValueError, IndexError):
            wrong += 1
            pipeline.discard()
    assert wrong > 0


def test_the_next_frame_goes_up_while_one_is_computed(make):
    pipeline, driver, simulated = make()
    run_overlapped(pipeline, [1, 2, 3], [(20, 30)] * 3)
    simulated.deferred = True
    for value in (8, 9):
        image = frame(value)
        pipeline.submit(image, geometry(image))
    up = [call[3] for call in simulated.calls if call[0] == "to device"]
    assert len(set(up)) == 2  # each has a stream of its own, and neither is that for computing
    # Everything is still to be done: no submit waited, and the copies can be made before any computing.
    streams = simulated.streams
    assert len(streams[COMPUTING].waiting) > 4
    for slot in pipeline._under_way:
        assert simulated._can_go_on(
            streams[slot.stream if driver.has_graphs else slot.stream.handle].waiting[0]
        )
    check(pipeline.collect()[0], 8)
    check(pipeline.collect()[0], 9)


def test_a_larger_frame_gets_memory_and_a_graph_of_its_own(make):
    pipeline, driver, simulated = make()
    captures = []
    for size in ((20, 30), (20, 30), (600, 500), (20, 30), (600, 500), (700, 800), (700, 800)):
        image = frame(1, size)
        check(pipeline.segment(image, geometry(image))[0], 1)
        calls = kinds(simulated)
        captures.append((calls.count("begin capture"), calls.count("destroy graph")))
        assert calls.count("allocate device") == calls.count("allocate host") <= 1
    if driver.has_graphs:
        # Two slots, taken in turn; a frame that fits into the memory needs nothing new.
        assert captures == [(1, 0), (1, 0), (0, 0), (0, 0), (0, 0), (1, 1), (1, 1)]
    else:
        assert captures == [(0, 0)] * 7


@pytest.mark.parametrize("device", ["bindings"], indirect=True)
def test_a_network_that_cannot_be_captured_runs_all_the_same(make, caplog, monkeypatch):
    pipeline, driver, _ = make()
    refuse = (driver._cuda.CUresult(900),)
    monkeypatch.setattr(driver._cuda, "cuStreamBeginCapture", lambda *_: refuse)
    with caplog.at_level(logging.WARNING):
        check(pipeline.segment(frame(9), geometry(frame(9)))[0], 9)
    assert "no CUDA graph, every launch is queued by itself" in caplog.text


def test_fewer_instances_than_compiled(make):
    pipeline, _, _ = make(max_instances=2)
    result, _ = pipeline.segment(frame(4), geometry(frame(4)))
    assert len(result.scores) == len(result.labels) == len(result.probabilities) == 2


def test_too_many_frames_and_too_few(make):
    pipeline, _, _ = make()
    image = frame(1)
    with pytest.raises(RuntimeError, match="no frame is under way"):
        pipeline.collect()
    for _ in range(DEPTH):
        pipeline.submit(image, geometry(image))
    with pytest.raises(RuntimeError, match="2 frames are under way: collect one first"):
        pipeline.submit(image, geometry(image))
    with pytest.raises(RuntimeError, match="2 frames are under way: collect them first"):
        pipeline.segment(image, geometry(image))
    for _ in range(DEPTH):
        check(pipeline.collect()[0], 1)
    long = np.zeros((1, 16385, 3), np.uint8)
    with pytest.raises(ValueError, match="sides of at most 16384"):
        pipeline.submit(long, geometry(long))


def test_memory_that_is_missing_is_named_and_smaller_frames_go_on(make, monkeypatch):
    import simulated_device

    pipeline, _, _ = make()
    monkeypatch.setattr(simulated_device, "FREE_BYTES", 4 << 20)
    large = frame(1, (1500, 1500))
    with pytest.raises(ResourceError, match=r"not enough GPU memory for a frame \(7\.0 MiB, "):
        pipeline.submit(large, geometry(large))
    for value in (2, 3, 4):
        check(pipeline.segment(frame(value), geometry(frame(value)))[0], value)


def test_a_network_that_fails_is_reported_and_the_next_frame_works(make):
    class Failing(Network):
        fails = False

        def queue(self):
            if self.fails:
                raise ResourceError("TensorRT failed to run (because)")
            super().queue()

    pipeline, _, _ = make(Failing)
    pipeline._network.fails = True
    with pytest.raises(ResourceError, match="because"):
        pipeline.submit(frame(1), geometry(frame(1)))
    pipeline._network.fails = False
    check(pipeline.segment(frame(2), geometry(frame(2)))[0], 2)


def test_a_device_that_is_lost(make):
    pipeline, driver, simulated = make()
    pipeline.submit(frame(1), geometry(frame(1)))
    words = "an illegal memory access was encountered"
    simulated.broken = "CUDA_ERROR_ILLEGAL_ADDRESS" if driver.has_graphs else words
    with pytest.raises(
        ResourceError, match=r"the CUDA device failed: .*CUDA_ERROR_ILLEGAL_ADDRESS"
    ):
        pipeline.collect()
    lost = "the CUDA device is lost since CUDA_ERROR_ILLEGAL_ADDRESS; start the program again"
    with pytest.raises(ResourceError, match=lost):
        pipeline.submit(frame(1), geometry(frame(1)))
    pipeline.discard()
    driver.close()
    simulated.broken = ""


def test_closing_waits_for_what_is_under_way(make):
    pipeline, driver, simulated = make()
    simulated.deferred = True
    for _ in range(DEPTH):
        pipeline.submit(frame(1), geometry(frame(1)))
    pipeline.discard()
    pipeline.discard()
    assert not simulated.streams[COMPUTING].waiting
    driver.close()
    assert simulated.live["device"] == simulated.live["host"] == 0


def test_kernels_of_another_network_are_refused(make):
    class Other(Network):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            array = self.tensors["mask_kernels"]
            self.tensors["mask_kernels"] = array._replace(shape=(1, 7, 9))

    with pytest.raises(
        ArtifactError, match=r"for mask_kernels float32 .* the network has float32 \[1, 7, 9\]"
    ):
        make(Other)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"score_threshold": 0.3, "mask_threshold": 0.4, "sigma": 1.0, "max_instances": 7}, ""),
        ({"max_candidates": 30}, "the kernels have max_candidates 100, wanted is 30"),
        ({"max_instances": 101}, "the kernels have max_instances 100, wanted are 101"),
        ({"decay": "linear"}, "the kernels have decay gaussian, wanted is linear"),
    ],
)
def test_thresholds_may_change_and_sizes_may_not(demo_kernels, manifest, changes, reason):
    assert why_not(read_kernels(demo_kernels), replace(manifest.postprocess, **changes)) == reason
