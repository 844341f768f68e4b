"""NVIDIA's own cuda-bindings on a driver that needs no GPU, and PyCUDA's interface."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from solo_edge.errors import ResourceError
from solo_edge.runtime.cuda_driver import open_cuda

ROOT = Path(__file__).resolve().parents[3]
STANDINS = Path(__file__).with_name("standins")

USE = """
import sys
import numpy as np
from solo_edge.errors import ResourceError
from solo_edge.runtime.cuda_bindings_driver import CudaBindings
from solo_edge.runtime.pycuda_driver import PyCuda
driver = globals()[sys.argv[1]]()
print(driver.device_name, driver.compute_capability, hex(driver.stream))
with driver.active():
    source = driver.host_memory(4000).view(np.float32)
    target = driver.host_memory(4000).view(np.float32)
    address = driver.allocate(4000)
    source[:] = np.arange(1000)
    target[:] = -1
    driver.copy_to_device(address, source)
    driver.copy_from_device(target, address)
    driver.synchronize()
    assert (target == np.arange(1000)).all()

    # Two streams, held together by a mark; and memory that goes before the driver does.
    side, mark = driver.new_stream(), driver.event()
    target[:] = -1
    driver.copy_to_device(address, source, stream=side)
    driver.record(mark, stream=side)
    driver.wait(mark)
    driver.copy_from_device(target, address)
    driver.synchronize()
    driver.wait_here(mark)
    driver.synchronize(stream=side)
    assert (target == np.arange(1000)).all()
    more, other = driver.host_memory(16), driver.allocate(16)
    driver.free_host(more)
    driver.free(other)
    del source, target, more, mark, side
    for allocate in (driver.allocate, driver.host_memory):
        try:
            allocate(1 << 31, "the masks")
        except ResourceError as error:
            print(error)
driver.close()
driver.close()
if sys.argv[1] == "PyCuda":
    import pycuda.driver
    assert not pycuda.driver.stack
    assert not any(pycuda.driver.live.values()), pycuda.driver.live
"""

LAUNCH = """
import sys
import numpy as np
from solo_edge.errors import ResourceError
from solo_edge.runtime.cuda_bindings_driver import CudaBindings
from solo_edge.runtime.pycuda_driver import PyCuda
with globals()[sys.argv[1]]() as driver, driver.active():
    memory = driver.host_memory(8)
    memory[:] = 7
    address = driver.allocate(8)
    driver.copy_to_device(address, memory)
    driver.zero(address + 2, 4)
    driver.copy_from_device(memory, address)
    print(*memory)
    del memory

    for image, name in ((b"?", "scale"), (b"scale", "other")):
        try:
            driver.load_function(image, name)
        except ResourceError as error:
            print(error)
    scale = driver.load_function(b"scale", "scale", shared_bytes=48 * 1024)
    large = driver.load_function(b"large", "large", shared_bytes=50000)
    arguments = [("pointer", 0x7F0000001000), ("int32", -5), ("float32", 0.25)]
    driver.launch(scale, (2, 3, 4), (128, 1, 1), 1024, arguments)

    def queue():
        driver.launch(large, (1, 1, 1), (64, 1, 1), 50000, arguments)

    again = driver.capture(queue)
    again()
    again()

    def broken():
        if broken.calls:
            raise ValueError("no")
        broken.calls += 1

    broken.calls = 0
    try:
        driver.capture(broken)()
    except ValueError:
        again()  # the stream works on

    start, end = driver.event(), driver.event()
    driver.record(start)
    driver.record(end)
    print(driver.elapsed_ms(start, end), driver.elapsed_ms(end, end), driver.has_graphs)

    timed = driver.capture(lambda: driver.record(end))
    timed()
    print(driver.elapsed_ms(start, end))
    timed.close()
    timed.close()
    del start, end
if sys.argv[1] == "PyCuda":
    import pycuda.driver
    for call in pycuda.driver.calls:
        if call[0] in ("memset", "attribute", "launch"):
            print(*call[:1] + call[2:] if call[0] == "memset" else call)
"""

NOTHING_LEFT = (
    "device=0 host=0 streams=0 contexts=0 depth=0 modules=0 graphs=0 events=0"  # of cuda.c
)


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory) -> Path:
    """Folder with a libcuda.so.1 for LD_LIBRARY_PATH."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    folder = tmp_path_factory.mktemp("driver")
    command = [compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", STANDINS / "cuda.c"]
    subprocess.run(command, check=True)
    return folder


def run(code, *arguments, folder=None, **environment):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{STANDINS}", **environment}
    if folder is not None:
        environment["LD_LIBRARY_PATH"] = str(folder)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def has_cuda_bindings():
    try:
        return importlib.util.find_spec("cuda.bindings.driver") is not None
    except ImportError:
        return False


needs_bindings = pytest.mark.skipif(
    not has_cuda_bindings(), reason="cuda-bindings is not installed"
)


@needs_bindings
def test_cuda_bindings_copy_there_and_back_and_give_everything_back(fake_driver):
    done = run(USE, "CudaBindings", folder=fake_driver)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Fake GPU 8.7 0x5678",
        "not enough GPU memory for the masks (2048.0 MiB, 1024.0 MiB are free); close other programs on the"
        " GPU and start again",
        "not enough page-locked memory for the masks (2048.0 MiB, 1024.0 MiB are free); close other"
        " programs on the GPU and start again",
    ]
    assert done.stderr.splitlines()[-1] == NOTHING_LEFT


@needs_bindings
def test_no_device_is_one_clear_error(fake_driver):
    done = run(USE, "CudaBindings", folder=fake_driver, FAKE_CUDA_NO_DEVICE="1")
    assert "no usable CUDA device (no CUDA-capable device is detected)" in done.stderr


def test_pycuda_copies_there_and_back_and_gives_everything_back():
    done = run(USE, "PyCuda")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Fake GPU 8.7 0x5678",
        "not enough GPU memory for the masks (2048.0 MiB, 1024.0 MiB are free); close other programs on the"
        " GPU and start again",
        "not enough page-locked memory for the masks (2048.0 MiB, 1024.0 MiB are free); close other"
        " programs on the GPU and start again",
    ]
    done = run(USE, "PyCuda", FAKE_CUDA_NO_DEVICE="1")
    assert "no usable CUDA device (cuInit failed" in done.stderr


@needs_bindings
def test_cuda_bindings_launch_and_capture(fake_driver):
    done = run(LAUNCH, "CudaBindings", folder=fake_driver)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "7 7 0 0 0 0 7 7",
        "CUDA failed: other error (CUDA_ERROR_INVALID_IMAGE); free GPU memory and start again",
        "CUDA failed: other error (CUDA_ERROR_NOT_FOUND); free GPU memory and start again",
        "1.5 0.0 True",
        "1.5",
    ]
    arguments = "arguments 0x7f0000001000 -5 0.25"
    large = f"large grid 1 1 1 block 64 1 1 shared 50000 {arguments}"
    assert done.stderr.splitlines() == [
        "attribute 8 of large = 50000",
        f"launch scale grid 2 3 4 block 128 1 1 shared 1024 {arguments}",
        f"launch {large}",
        f"capture {large}",
        *("graph", "graph", "graph", "graph"),
        NOTHING_LEFT,
    ]


def test_pycuda_launches_and_runs_anew_what_others_capture():
    done = run(LAUNCH, "PyCuda")
    assert done.returncode == 0, done.stderr
    arguments = [("pointer", 0x7F0000001000), ("int32", -5), ("float32", 0.25)]
    large = f"launch large (1, 1, 1) (64, 1, 1) 50000 {arguments}"
    assert done.stdout.splitlines() == [
        "7 7 0 0 0 0 7 7",
        "CUDA failed: cuModuleLoadDataEx failed: device kernel image is invalid;"
        " free GPU memory and start again",
        "CUDA failed: cuModuleGetFunction failed: named symbol not found;"
        " free GPU memory and start again",
        "1.5 0.0 False",
        "1.5",
        "memset 0 4",
        "attribute large 8 50000",
        f"launch scale (2, 3, 4) (128, 1, 1) 1024 {arguments}",
        *[large] * 4,
    ]


def test_without_either_package_the_error_names_both(monkeypatch):
    for name in ("cuda", "cuda.bindings", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match="need cuda-bindings or PyCUDA"):
        open_cuda()


@pytest.fixture
def broken(device):
    """A driver, and what breaks its device: an illegal address found while something was computed."""
    driver, simulated = device
    by_name = driver.has_graphs  # cuda-bindings; PyCUDA has the driver's words

    def break_it():
        simulated.broken = (
            "CUDA_ERROR_ILLEGAL_ADDRESS" if by_name else "an illegal memory access was encountered"
        )

    yield driver, break_it
    simulated.broken = ""


def test_a_lost_device_is_named_once_and_then_lost(broken):
    driver, break_it = broken
    address = driver.allocate(64)
    break_it()
    with pytest.raises(ResourceError) as caught:
        driver.synchronize()
    text = str(caught.value)
    assert text.startswith("the CUDA device failed: ")
    assert "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)" in text
    assert text.endswith("; start the program again")
    expected = "^the CUDA device is lost since CUDA_ERROR_ILLEGAL_ADDRESS; start the program again$"
    for call in (driver.synchronize, lambda: driver.zero(address, 64), driver.event):
        with pytest.raises(ResourceError, match=expected):
            call()
    with pytest.raises(ResourceError, match=expected), driver.active():
        pytest.fail("the device was entered")
    driver.close()
    driver.close()


def test_other_errors_leave_the_device_alone(device):
    driver, _ = device
    with pytest.raises(ResourceError, match=r"CUDA failed: .*is invalid"):
        driver.load_function(b"?", "scale")
    assert not driver.lost
    driver.synchronize()


def test_what_was_not_given_back_goes_with_the_driver(device):
    driver, simulated = device
    for _ in range(3):
        driver.allocate(100)
        driver.host_memory(100)
    kept = driver.allocate(100)
    driver.free(kept)
    driver.capture(lambda: None)
    driver.close()
    assert simulated.live["device"] == simulated.live["host"] == 0
