"""The TensorRT engine with kernels in its folder: frames to masks on the simulated device.

TensorRT is the stand-in (ONNX Runtime executes the plan), Triton's interpreter runs the kernels, PyCUDA's
stand-in moves the bytes. What is compared with is the CPU engine.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import random
import shutil

import numpy as np
import pytest

from solo_edge.data.synthetic.scene import render_scene
from solo_edge.errors import ArtifactError, ResourceError
from solo_edge.export.self_check import check_frames
from solo_edge.kernels.aot_folder import KERNELS_FILE
from solo_edge.manifest import MANIFEST, read_manifest, record_files, verify, write_manifest
from solo_edge.runtime.engine import load_engine
from solo_edge.runtime.kernel_folder import read_kernels
from solo_edge.runtime.tensorrt_runner import TensorRTRunner

EVERYWHERE = {"score_threshold": 0.3}  # fewer candidates: interpreted kernels take their time


@pytest.fixture(scope="module")
def images():
    """Scenes like those that the demo model knows; of other sizes than its input."""
    rng = np.random.default_rng(11)
    return [render_scene(rng, size).image for size in ((300, 380), (200, 170), (256, 256))]


@pytest.fixture
def simulated(only_pycuda, monkeypatch):
    """The device. TensorRT computes when its stream comes to it."""
    import tensorrt

    device = only_pycuda.device
    original = tensorrt.IExecutionContext.execute_async_v3

    def execute_async_v3(context, stream_handle):
        assert only_pycuda.stack, "no context is current"
        call = ("network", hex(stream_handle))
        device.queue(stream_handle, call, lambda: original(context, 0x5678))
        return True

    monkeypatch.setattr(tensorrt.IExecutionContext, "execute_async_v3", execute_async_v3)
    return device


@pytest.fixture
def engine(demo_engine, demo_kernels, simulated, tmp_path):
    """The demo model as a TensorRT engine with kernels."""
    from interpreted_kernels import bound, interpret

    folder = tmp_path / "scenes.engine"
    shutil.copytree(demo_kernels, folder)
    shutil.copy(demo_engine / "model.onnx", folder / "engine.plan")
    describe(folder, read_manifest(demo_engine))
    simulated.kernels = bound(folder, simulated, interpret)
    return folder


def describe(folder, manifest):
    """Write a manifest that fits this machine and the stand-ins."""
    import tensorrt

    machine = {"gpu": "Fake GPU", "compute_capability": "8.7", "architecture": platform.machine()}
    made = dataclasses.replace(
        manifest,
        backend="tensorrt",
        versions={**manifest.versions, "tensorrt": tensorrt.__version__},
        machine=machine,
        files=record_files(folder),
    )
    write_manifest(folder, made)


@pytest.fixture(scope="module")
def expected(demo_engine, images):
    """What the CPU engine finds."""
    with load_engine(demo_engine, **EVERYWHERE) as engine:
        return [engine(image) for image in images]


def assert_same(found, wanted):
    """Equal but for rounding."""
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    assert (found.labels == wanted.labels).all()
    for mine, theirs in zip(found.masks, wanted.masks, strict=True):
        both, either = (mine & theirs).sum(), (mine | theirs).sum()
        assert both >= 0.999 * either


def test_masks_equal_those_of_the_cpu_engine(engine, images, expected, simulated):
    with load_engine(engine, **EVERYWHERE) as loaded:
        assert loaded.runner.frames is not None
        for image, wanted in zip(images, expected, strict=True):
            simulated.calls.clear()
            found, times = loaded.run(image)
            assert_same(found, wanted)
            assert min(times) > 0
            # The frame's bytes went up, and nothing else did; of the masks those that there are came down.
            up, down = (
                [call[2] for call in simulated.calls if call[0] == way]
                for way in ("to device", "from device")
            )
            assert up == [64 + image.size]
            assert down[1] == len(found) * 64 * 64 * 4
            names = [call[1] for call in simulated.calls if call[0] == "launch"]
            assert (names[0], names[-1]) == ("preprocess_kernel", "instance_probabilities_kernel")
    assert not any(simulated.live.values())


def test_frames_that_overlap_give_the_same(engine, images, expected, simulated):
    simulated.deferred, simulated.order = True, random.Random(3)
    with load_engine(engine, **EVERYWHERE) as loaded:
        found = [instances for instances, _ in loaded.run_all(iter(images))]
    for mine, wanted in zip(found, expected, strict=True):
        assert_same(mine, wanted)
    assert not any(simulated.live.values())


def test_whoever_stops_early_leaves_nothing_behind(engine, images, expected):
    with load_engine(engine, **EVERYWHERE) as loaded:
        results = loaded.run_all(images)
        next(results)
        results.close()
        assert_same(loaded(images[1]), expected[1])


def test_the_self_check_compares_the_devices_kernels_with_the_host(engine, images, monkeypatch):
    from solo_edge.export import self_check

    monkeypatch.setattr(self_check, "TEST_IMAGES", 1)
    monkeypatch.setattr(self_check, "make_image", lambda size, seed: images[seed])
    with load_engine(engine, **EVERYWHERE) as loaded:
        assert check_frames(loaded, engine) > 0
        # As if the preprocessing kernel mixed up the colours.
        device = loaded.runner.frames
        segment = device.segment
        monkeypatch.setattr(
            device, "segment", lambda image, geometry: segment(image[:, :, ::-1] // 2, geometry)
        )
        with pytest.raises(ArtifactError, match="disagrees"):
            check_frames(loaded, engine)


def test_plain_network_outputs_stay_available(engine, demo_engine, images):
    with load_engine(engine) as loaded, load_engine(demo_engine) as cpu:
        prepared, _ = loaded.preprocess(images[0])
        inputs = {"image": prepared[np.newaxis]}
        on_device, on_cpu = (each.runner.infer(inputs) for each in (loaded, cpu))
        for name, array in on_cpu.items():
            np.testing.assert_allclose(on_device[name], array, atol=1e-5)


@pytest.mark.parametrize("why", ["sizes", "no kernels"])
def test_without_fitting_kernels_the_cpu_does_the_rest(engine, images, expected, caplog, why):
    options = {**EVERYWHERE, "max_candidates": 50} if why == "sizes" else EVERYWHERE
    if why == "no kernels":
        for file in engine.iterdir():
            if file.name not in (MANIFEST, "engine.plan"):
                file.unlink()
        describe(engine, read_manifest(engine))
    with caplog.at_level(logging.WARNING), load_engine(engine, **options) as loaded:
        assert loaded.runner.frames is None
        if why == "no kernels":
            assert_same(loaded(images[2]), expected[2])
        first, second = loaded.run_all(images[:2])
        assert len(first[0]) > 0
        assert len(second[0]) > 0
    said = "post-processing runs on the CPU: the kernels have max_candidates 100, wanted is 50"
    assert (said in caplog.text) == (why == "sizes")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_runners_of_one_engine_close_in_any_order(engine, images, simulated, order):
    manifest, kernels = read_manifest(engine), read_kernels(engine)
    inputs = {"image": manifest.preprocess(images[0])[0][np.newaxis]}
    first = TensorRTRunner(verify(engine, manifest))
    plan, second = first._plan, first.another()
    runners = (first, second)
    for runner in runners:
        runner.take_frames(kernels, manifest.postprocess, manifest.cell_strides)
    assert first._driver.stream != second._driver.stream
    assert not {a.address for a in first.tensors.values()} & {
        a.address for a in second.tensors.values()
    }
    expected = {name: array.copy() for name, array in first.infer(inputs).items()}
    runners[order[0]].close()
    assert plan.engine is not None
    left = runners[order[1]]
    for name, array in left.infer(inputs).items():
        np.testing.assert_array_equal(array, expected[name])
    left.close()
    left.close()
    assert plan.engine is None
    assert not any(simulated.live.values())
    with pytest.raises(RuntimeError, match="the runner is closed"):
        left.another()


def test_closing_with_frames_under_way(engine, images, simulated):
    from interpreted_kernels import bound

    def nothing(name, constants, grid, given):
        if name == "select_instances_kernel":
            given["instance_count"][0] = 0

    simulated.deferred, simulated.kernels = True, bound(engine, simulated, nothing)
    loaded = load_engine(engine, **EVERYWHERE)
    results = loaded.run_all(images)
    next(results)
    loaded.close()
    loaded.close()
    assert not any(simulated.live.values())


def test_a_device_that_is_lost_says_so_until_the_end(engine, images, simulated):
    with load_engine(engine, **EVERYWHERE) as loaded:
        simulated.broken = "an illegal memory access was encountered"
        with pytest.raises(ResourceError, match=r"the CUDA device failed: .*ILLEGAL_ADDRESS"):
            loaded(images[0])
        for _ in range(2):
            with pytest.raises(ResourceError, match="the CUDA device is lost since CUDA_ERROR_ILL"):
                loaded(images[0])
        inputs = {"image": loaded.preprocess(images[0])[0][np.newaxis]}
        with pytest.raises(ResourceError, match="the CUDA device is lost since"):
            loaded.runner.infer(inputs)
    simulated.broken = ""


def rewrite(folder, change):
    """Change `kernels.json`, as a version of another time would have written it."""
    values = json.loads((folder / KERNELS_FILE).read_text())
    change(values)
    (folder / KERNELS_FILE).write_text(json.dumps(values))
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, files=record_files(folder)))


def only_old_gpus(values):
    for kernel in values["kernels"].values():
        kernel["variants"] = kernel["variants"][:2]
        for variant in kernel["variants"]:
            variant["compute_capability"] = "7.2"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda values: values.update(format=1), "the kernels have format 1, this version reads 2"),
        (only_old_gpus, "the kernels are for compute capability 7.2, but this GPU has 8.7"),
        (lambda values: values["plans"].pop("preprocess"), "the kernels have no plan 'preprocess'"),
    ],
)
def test_kernels_that_do_not_fit_are_refused_before_tensorrt_sees_the_plan(engine, change, what):
    import tensorrt

    rewrite(engine, change)
    tensorrt.CALLS.clear()
    with pytest.raises(ArtifactError) as caught:
        load_engine(engine)
    assert what in str(caught.value)
    assert "on this machine, build the engine again" in str(caught.value)
    assert not [call for call in tensorrt.CALLS if call.startswith("Runtime")]


def test_a_damaged_kernel_is_refused(engine):
    file = next(engine.glob("preprocess.portable.ptx"))
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match=r"preprocess\.portable\.ptx: .*differs"):
        load_engine(engine)


def test_memory_that_is_missing_is_named(engine, monkeypatch):
    import simulated_device

    monkeypatch.setattr(simulated_device, "FREE_BYTES", 1000)
    with pytest.raises(ResourceError, match=r"not enough page-locked memory for image \(0\.8 MiB"):
        load_engine(engine)
