"""A folder of kernels on a device: what is launched with what, and which folders are refused."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from solo_edge.errors import ArtifactError, UsageError
from solo_edge.kernels.aot_folder import KERNELS_FILE, build_kernels
from solo_edge.kernels.aot_targets import TARGETS
from solo_edge.kernels.plan import Sizes, Thresholds, postprocess_plan
from solo_edge.kernels.tiles import Tiles
from solo_edge.runtime.cuda_bindings_driver import CudaBindings
from solo_edge.runtime.device_kernels import DeviceKernels, read_kernels
from solo_edge.runtime.pycuda_driver import PyCuda

STANDINS = Path(__file__).with_name("standins")


def load(name, file):
    spec = importlib.util.spec_from_file_location(name, STANDINS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bindings(monkeypatch):
    """cuda-bindings, recorded: an open driver, and the list of calls."""
    recorded = load("recorded_cuda", "recorded_cuda.py").RecordedBindings()
    package = types.ModuleType("cuda.bindings")
    package.driver = recorded
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", recorded)
    with CudaBindings() as driver, driver.active():
        yield driver, recorded.calls


@pytest.fixture
def pycuda(monkeypatch):
    """PyCUDA, recorded and with memory: an open driver, and the list of calls."""
    package = types.ModuleType("pycuda")
    package.driver = module = load("pycuda.driver", "pycuda/driver.py")
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    with PyCuda() as driver, driver.active():
        yield driver, module.calls


@pytest.fixture(params=["bindings", "pycuda"])
def device(request):
    return request.getfixturevalue(request.param)


def variant(file, content, capability="8.7", newer_too=False, block=(128, 1, 1), shared=1024):
    return {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "compute_capability": capability,
        "newer_too": newer_too,
        "ptx_version": "8.0",
        "block": block,
        "shared_bytes": shared,
    }


FILES = {
    "scale.sm_87.cubin": b"scale_kernel",
    "scale.portable.ptx": b"scale_kernel",
    "add.sm_87.cubin": b"?",  # which the driver refuses
    "add.sm_87.ptx": b"add_kernel",
    "add.portable.ptx": b"add_kernel",
}
DESCRIPTION = {
    "format": 1,
    "target": "sm_87",
    "inputs": ["image", "weights"],
    "outputs": ["result"],
    "buffers": {
        "image": {"shape": [2, 3], "dtype": "float32", "zeroed": False},
        "weights": {"shape": [5], "dtype": "float16", "zeroed": False},
        "count": {"shape": [2], "dtype": "int32", "zeroed": True},
        "result": {"shape": [2, 3], "dtype": "float32", "zeroed": False},
    },
    "kernels": {
        "scale": {
            "entry": "scale_kernel",
            "variants": [
                variant("scale.sm_87.cubin", FILES["scale.sm_87.cubin"], shared=50000),
                variant("scale.portable.ptx", b"scale_kernel", "8.0", True, (32, 1, 1)),
            ],
        },
        "add": {
            "entry": "add_kernel",
            "variants": [
                variant("add.sm_87.cubin", b"?"),
                variant("add.sm_87.ptx", b"add_kernel", block=(256, 1, 1), shared=0),
                variant("add.portable.ptx", b"add_kernel", "8.0", True, (64, 1, 1), 7),
            ],
        },
    },
    "launches": [
        {
            "kernel": "scale",
            "grid": [7, 2, 1],
            "arguments": [
                {"name": "source", "kind": "pointer", "buffer": "image"},
                {"name": "pixels", "kind": "int32", "value": 6},
                {"name": "score_threshold", "kind": "float32", "value": 0.25},
                {"name": "target", "kind": "pointer", "buffer": "count"},
            ],
        },
        {
            "kernel": "add",
            "grid": [1, 1, 3],
            "arguments": [
                {"name": "weights", "kind": "pointer", "buffer": "weights"},
                {"name": "result", "kind": "pointer", "buffer": "result"},
            ],
        },
    ],
}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "small.kernels"
    path.mkdir()
    write(path, DESCRIPTION)
    return path


def write(folder, description):
    (folder / KERNELS_FILE).write_text(json.dumps(description))
    for name, content in FILES.items():
        (folder / name).write_bytes(content)


def test_a_run_is_zeros_and_launches_in_order(device, folder):
    driver, calls = device
    kernels = DeviceKernels(driver, folder)
    assert calls == [("attribute", "scale_kernel", 8, 50000)]
    calls.clear()
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
    assert calls == [
        ("memset", addresses["count"], 0, 8),
        ("launch", "scale_kernel", (7, 2, 1), (128, 1, 1), 50000, scale),
        # The driver refused the machine code: its PTX is launched, with its own block.
        ("launch", "add_kernel", (1, 1, 3), (256, 1, 1), 0, add),
    ]
    assert list(kernels.inputs) == ["image", "weights"]
    result = kernels.outputs["result"]
    assert (result.shape, result.dtype, result.size) == ((2, 3), np.float32, 24)


def test_inputs_can_lie_elsewhere_and_thresholds_can_change(device, folder):
    driver, calls = device
    kernels = DeviceKernels(
        driver, folder, inputs={"image": 0x123450}, numbers={"score_threshold": 0.5}
    )
    kernels.queue()
    assert calls[-2][5][:3] == [("pointer", 0x123450), ("int32", 6), ("float32", 0.5)]
    assert kernels.inputs["image"].address == 0x123450


def test_a_graph_holds_the_run_and_what_comes_before_it(bindings, folder):
    driver, calls = bindings
    kernels = DeviceKernels(driver, folder)
    calls.clear()

    def queue():
        calls.append(("network",))
        kernels.queue()

    replay = driver.capture(queue)
    run = ["network", "memset", "launch", "launch"]
    assert [call[0] for call in calls] == [*run, "begin capture", *run, "end capture"]
    calls.clear()
    replay()
    assert calls == [("graph",)]


def test_without_graphs_the_run_is_queued_anew(pycuda, folder):
    driver, calls = pycuda
    replay = driver.capture(DeviceKernels(driver, folder).queue)
    calls.clear()
    replay()
    assert [call[0] for call in calls] == ["memset", "launch", "launch"]


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
        ({"inputs": {"imgae": 0}}, "no input 'imgae'; did you mean 'image'"),
        ({"inputs": {"image": 8}}, "address of image is no multiple of 16"),
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
    driver, calls = device
    monkeypatch.setattr(driver, "compute_capability", here)
    DeviceKernels(driver, folder).queue()
    assert [call[3][0] for call in calls if call[0] == "launch"] == blocks


def test_a_device_that_is_too_old_is_told_so(device, folder, monkeypatch):
    driver, _ = device
    monkeypatch.setattr(driver, "compute_capability", "7.5")
    with pytest.raises(ArtifactError, match=r"no file of scale_kernel is for Fake GPU \(7\.5\)"):
        DeviceKernels(driver, folder)


def test_files_that_the_driver_refuses_are_named(device, folder):
    description = copy.deepcopy(DESCRIPTION)
    del description["kernels"]["add"]["variants"][1:]
    (folder / KERNELS_FILE).write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match=r"add\.sm_87\.cubin: CUDA failed: .*is invalid"):
        DeviceKernels(device[0], folder)


# Damaged folders


def test_a_whole_folder_is_read(folder):
    content = read_kernels(folder)
    assert content.numbers == {"score_threshold": 0.25}
    assert content.buffers["weights"].shape == (5,)


def test_no_folder_and_no_kernels(tmp_path):
    with pytest.raises(UsageError, match="folder of kernels not found"):
        read_kernels(tmp_path / "nothing")
    with pytest.raises(
        ArtifactError, match="no folder of kernels; build it with solo-edge kernels"
    ):
        read_kernels(tmp_path)


def test_every_file_is_checked(folder):
    (folder / "add.portable.ptx").write_bytes(b"add_kernem")
    with pytest.raises(ArtifactError, match=r"add\.portable\.ptx: SHA-256 differs"):
        read_kernels(folder)
    (folder / "add.portable.ptx").unlink()
    with pytest.raises(ArtifactError, match=r"add\.portable\.ptx: file is missing"):
        read_kernels(folder)


def broken(*path, value=None):
    """The description without the entry at `path`, or with another value there."""
    description = copy.deepcopy(DESCRIPTION)
    place = description
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return description


FIRST = ("launches", 0)
FILE = ("kernels", "scale", "variants", 0)


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (broken("format", value=2), "format 2, this version reads 1"),
        (broken("buffers"), "'buffers' is missing"),
        (broken("buffers", "image", "dtype"), "'dtype' is missing"),
        (broken("buffers", "image", "dtype", value="float33"), "damaged .*float33"),
        (broken("buffers", "image", "shape", value=[2, -3]), r"\[2, -3\] are no sizes"),
        (broken("buffers", "count"), "no buffer 'count'"),
        (broken("outputs", value=["resutl"]), "no buffer 'resutl'"),
        (broken("kernels", "scale"), "no kernel 'scale'"),
        (broken("kernels", value=[1]), "damaged"),
        (broken(*FILE, "file", value="../scale.cubin"), "is no plain file name"),
        (broken(*FILE, "compute_capability", value="eight"), "damaged"),
        (broken(*FILE, "block", value=[128]), "damaged"),
        (broken(*FIRST, "grid", value=[1, 2]), "damaged"),
        (broken(*FIRST, "grid", value=[0, 1, 1]), "are no sizes"),
        (broken(*FIRST, "arguments", 1, "kind", value="int64"), "unknown kind 'int64'"),
        (broken(*FIRST, "arguments", 1, "value", value="six"), "pixels is 'six'"),
        (broken(*FIRST, "arguments", 0, "buffer"), "'buffer' is missing"),
    ],
)
def test_a_damaged_description_is_one_error(folder, description, expected):
    (folder / KERNELS_FILE).write_text(json.dumps(description))
    with pytest.raises(ArtifactError, match=expected) as caught:
        read_kernels(folder)
    assert str(caught.value).startswith(str(folder / KERNELS_FILE))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_a_description_that_is_none_is_one_error(folder, text):
    (folder / KERNELS_FILE).write_text(text)
    with pytest.raises(ArtifactError):
        read_kernels(folder)


# Real kernels


def build(folder, target, dtype, sizes):
    pytest.importorskip("triton")
    plan = postprocess_plan(sizes, Thresholds(), Tiles(), dtype=dtype)
    return build_kernels(folder, plan, sizes, target), plan


def test_a_built_folder_runs_as_planned(bindings, tmp_path):
    driver, calls = bindings
    sizes = Sizes(1, 3, 100, 16, 9, 13, 16, 5)
    folder, plan = build(tmp_path / "small.kernels", TARGETS["sm_87"], "float16", sizes)
    kernels = DeviceKernels(driver, folder)
    kernels.queue()
    names = {array.address: name for name, array in kernels.arrays.items()}
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
