"""Compiled kernels on a device: what is launched with what, and which devices take them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from solo_edge.errors import ArtifactError, UsageError
from solo_edge.kernels.aot_folder import KERNELS_FILE, build_kernels
from solo_edge.kernels.aot_targets import TARGETS
from solo_edge.kernels.plan import Sizes, Thresholds, postprocess_plan
from solo_edge.kernels.tiles import Tiles
from solo_edge.runtime.device_kernels import DeviceKernels, LoadedKernels

QUEUED = ("memset", "launch", "attribute", "begin capture", "end capture", "graph")


def queued(device):
    """What was queued since the last time, and functions' attributes."""
    found = [call for call in device.calls if call[0] in QUEUED]
    device.calls.clear()
    return found


def test_a_run_is_zeros_and_launches_in_order(device, folder):
    driver, simulated = device
    kernels = DeviceKernels(driver, folder)
    assert queued(simulated) == [("attribute", "scale_kernel", 8, 50000)]
    kernels.queue()
    addresses = {name: array.address for name, array in kernels.arrays.items()}
    assert len(set(addresses.values())) == 4
    scale = [
        ("pointer", addresses["image"]),
        ("int32", 6),
        ("float32", 0.25),
        ("pointer", addresses["count"]),
    ]
    add = [("pointer", addresses["weights"]), ("pointer", addresses["result"])]
    assert queued(simulated) == [
        ("memset", addresses["count"], 0, 8),
        ("launch", "scale_kernel", (7, 2, 1), (128, 1, 1), 50000, scale),
        # The driver refused the machine code: its PTX is launched, with its own block.
        ("launch", "add_kernel", (1, 1, 3), (256, 1, 1), 0, add),
    ]
    assert list(kernels.inputs) == ["image", "weights"]
    result = kernels.outputs["result"]
    assert (result.shape, result.dtype, result.size) == ((2, 3), np.float32, 24)


def test_inputs_can_lie_elsewhere_and_thresholds_can_change(device, folder):
    driver, simulated = device
    kernels = DeviceKernels(
        driver, folder, memory={"image": 0x123450}, numbers={"score_threshold": 0.5}
    )
    kernels.queue()
    first = queued(simulated)[-2]
    assert first[5][:3] == [("pointer", 0x123450), ("int32", 6), ("float32", 0.5)]
    assert kernels.inputs["image"].address == 0x123450
    kernels.bind({"image": 0x123460})
    kernels.queue()
    assert queued(simulated)[-2][5] == [("pointer", 0x123460), *first[5][1:]]


def test_two_plans_share_files_and_memory(device, folder):
    driver, simulated = device
    loaded = LoadedKernels(driver, folder)
    one = DeviceKernels(driver, loaded, "preprocess")
    assert one.scratch == ("count",)
    other = DeviceKernels(driver, loaded, memory=one.addresses(["count", "image"]))
    assert other.arrays["count"] == one.arrays["count"]
    assert other.arrays["result"] != one.arrays["result"]
    one.queue()
    # The kernel of both was loaded once.
    assert [call[0] for call in queued(simulated)] == ["attribute", "memset", "launch"]


def test_a_graph_holds_the_run_and_what_comes_before_it(bindings, folder):
    driver, simulated = bindings
    kernels = DeviceKernels(driver, folder)
    queued(simulated)

    def queue():
        driver.launch("network", (1, 1, 1), (1, 1, 1), 0, [])
        kernels.queue()

    replay = driver.capture(queue)
    run = ["launch", "memset", "launch", "launch"]
    assert [call[0] for call in queued(simulated)] == [
        *run,
        "begin capture",
        *run,
        "end capture",
    ]
    replay()
    assert queued(simulated) == [("graph",)]


def test_without_graphs_the_run_is_queued_anew(pycuda, folder):
    driver, simulated = pycuda
    replay = driver.capture(DeviceKernels(driver, folder).queue)
    queued(simulated)
    replay()
    assert [call[0] for call in queued(simulated)] == ["memset", "launch", "launch"]


def test_arrays_go_there_and_come_back(pycuda, folder):
    driver, _ = pycuda
    kernels = DeviceKernels(driver, folder)
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights = np.ones(5, np.float16)
    (name, result), *_ = kernels.run({"image": image, "weights": weights}).items()
    assert (name, result.shape, result.dtype) == ("result", (2, 3), np.float32)
    # What lies on the device now, read back as if it were an output.
    again = driver.host_memory(24).view(np.float32)
    driver.copy_from_device(again, kernels.inputs["image"].address)
    assert (again == image.ravel()).all()
    for wrong in (image.astype(np.float64), image.T):
        with pytest.raises(UsageError, match=r"image must be float32 \[2, 3\], got"):
            kernels.run({"image": wrong})
    del again, result


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"memory": {"imgae": 0}}, "no buffer 'imgae'; did you mean 'image'"),
        ({"memory": {"image": 8}}, "address of image is no multiple of 16"),
        ({"numbers": {"score": 0.5}}, "no threshold 'score'; did you mean 'score_threshold'"),
        ({"numbers": {"score_threshold": float("nan")}}, "it must be a finite number"),
    ],
)
def test_what_a_caller_gets_wrong_is_named(device, folder, options, expected):
    with pytest.raises(UsageError, match=expected):
        DeviceKernels(device[0], folder, **options)


@pytest.mark.parametrize(
    ("here", "blocks"),
    [("8.7", [128, 256]), ("8.9", [32, 64]), ("12.1", [32, 64]), ("8.0", [32, 64])],
)
def test_a_device_takes_the_first_file_that_is_for_it(device, folder, monkeypatch, here, blocks):
    driver, simulated = device
    monkeypatch.setattr(driver, "compute_capability", here)
    DeviceKernels(driver, folder).queue()
    assert [call[3][0] for call in queued(simulated) if call[0] == "launch"] == blocks


def test_a_device_that_is_too_old_is_told_so(device, folder, monkeypatch):
    driver, _ = device
    monkeypatch.setattr(driver, "compute_capability", "7.5")
    with pytest.raises(ArtifactError, match=r"no file of scale_kernel is for Fake GPU \(7\.5\)"):
        DeviceKernels(driver, folder)


def test_files_that_the_driver_refuses_are_named(device, folder, description):
    del description["kernels"]["add"]["variants"][1:]
    (folder / KERNELS_FILE).write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match=r"add\.sm_87\.cubin: CUDA failed: .*is invalid"):
        DeviceKernels(device[0], folder)


# Real kernels


def build(folder, target, dtype, sizes):
    pytest.importorskip("triton")
    plan = postprocess_plan(sizes, Thresholds(), Tiles(), dtype=dtype)
    return build_kernels(folder, {"postprocess": plan}, sizes, target), plan


def test_a_built_folder_runs_as_planned(bindings, tmp_path):
    driver, simulated = bindings
    sizes = Sizes(1, 3, 100, 16, 9, 13, 16, 5)
    folder, plan = build(tmp_path / "small.kernels", TARGETS["sm_87"], "float16", sizes)
    kernels = DeviceKernels(driver, folder)
    kernels.queue()
    names = {array.address: name for name, array in kernels.arrays.items()}
    calls = queued(simulated)
    zeroed = [names[call[1]] for call in calls if call[0] == "memset"]
    assert sorted(zeroed) == sorted(n for n, buffer in plan.buffers.items() if buffer.zeroed)
    launches = [call for call in calls if call[0] == "launch"]
    for (_, function, grid, block, _, arguments), launch in zip(
        launches, plan.launches, strict=True
    ):
        assert (function, grid) == (launch.kernel, launch.grid)
        assert block == (32 * launch.num_warps, 1, 1)
        got = [names[value] if kind == "pointer" else value for kind, value in arguments]
        assert got == list(launch.arguments.values())


@pytest.fixture
def gpu():
    """The first GPU, through cuda-bindings or PyCUDA."""
    from solo_edge.errors import ResourceError
    from solo_edge.runtime.cuda_driver import open_cuda

    try:
        driver = open_cuda()
    except ResourceError as error:
        pytest.skip(str(error))
    with driver, driver.active():
        yield driver


def scene(sizes, dtype, seed):
    """Inputs with about 125 candidates whose masks overlap, and whose scores are well apart."""
    rng = np.random.default_rng(seed)
    scores = rng.random((sizes.batch, sizes.classes, sizes.cells), dtype=np.float32) ** 60
    kernels = rng.standard_normal((sizes.batch, sizes.channels, sizes.cells))
    coarse = rng.standard_normal(
        (sizes.batch, sizes.channels, sizes.height // 4 + 1, sizes.width // 4 + 1)
    )
    features = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, : sizes.height, : sizes.width]
    return {
        "category_scores": scores,
        "mask_kernels": (kernels / 4).astype(dtype),
        "mask_features": np.ascontiguousarray(features).astype(dtype),
        "cell_strides": np.full(sizes.cells, 8, np.float32),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("files", ["all", "portable"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_real_kernels_equal_the_reference(gpu, tmp_path, dtype, files):
    torch = pytest.importorskip("torch")
    from solo_edge.kernels import reference

    name = "sm_" + gpu.compute_capability.replace(".", "")
    sizes = Sizes(2, 7, 900, 64, 45, 61, 100, 100)
    folder, _ = build(tmp_path / "here.kernels", TARGETS.get(name, TARGETS["sm_80"]), dtype, sizes)
    if files == "portable":
        description = json.loads((folder / KERNELS_FILE).read_text())
        for kernel in description["kernels"].values():
            kernel["variants"] = [each for each in kernel["variants"] if each["newer_too"]]
        (folder / KERNELS_FILE).write_text(json.dumps(description))
    numbers = {"score_threshold": 0.3, "update_threshold": 0.01}
    kernels = DeviceKernels(gpu, folder, numbers=numbers)
    replay = None
    for seed in (1, 2):
        inputs = scene(sizes, dtype, seed)
        results = kernels.run(inputs)
        expected = reference.postprocess(
            *(torch.from_numpy(array) for array in inputs.values()),
            score_threshold=0.3,
            mask_threshold=0.5,
            update_threshold=0.01,
            max_candidates=sizes.max_candidates,
            max_instances=sizes.max_instances,
            decay="gaussian",
            sigma=2.0,
        )
        count = expected.valid_count.numpy()
        assert (results["instance_count"] == count).all()
        assert count.min() > 10
        assert (results["instance_labels"] == expected.labels.numpy()).all()
        np.testing.assert_allclose(results["instance_scores"], expected.scores, atol=2e-4)
        np.testing.assert_allclose(results["probabilities"], expected.probabilities, atol=2e-3)

        # A graph of the same gives the same bits, however often it runs.
        first = {key: value.copy() for key, value in results.items()}
        replay = replay or gpu.capture(kernels.queue)
        start, end = gpu.event(), gpu.event()
        gpu.record(start)
        for _ in range(3):
            replay()
        gpu.record(end)
        assert gpu.elapsed_ms(start, end) > 0
        for key, array in kernels.outputs.items():
            host = gpu.host_memory(array.size).view(array.dtype).reshape(array.shape)
            gpu.copy_from_device(host, array.address)
            gpu.synchronize()
            assert (host == first[key]).all(), key
