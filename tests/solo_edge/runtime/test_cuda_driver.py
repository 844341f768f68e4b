"""NVIDIA's own cuda-bindings on a driver that needs no GPU, and PyCUDA's interface."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
STANDINS = Path(__file__).with_name("standins")

USE = """
import sys
import numpy as np
from solo_edge.runtime import cuda_driver
driver = getattr(cuda_driver, sys.argv[1])()
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
    del source, target
    try:
        driver.allocate(1 << 31)
    except cuda_driver.ResourceError as error:
        print(error)
driver.close()
driver.close()
if sys.argv[1] == "PyCuda":
    import pycuda.driver
    assert not pycuda.driver.stack
    assert not any(pycuda.driver.live.values()), pycuda.driver.live
"""


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
        "CUDA failed: out of memory; free GPU memory and start again",
    ]
    assert done.stderr.splitlines()[-1] == "device=0 host=0 streams=0 contexts=0 depth=0"


@needs_bindings
def test_no_device_is_one_clear_error(fake_driver):
    done = run(USE, "CudaBindings", folder=fake_driver, FAKE_CUDA_NO_DEVICE="1")
    assert "no usable CUDA device (no CUDA-capable device is detected)" in done.stderr


def test_pycuda_copies_there_and_back_and_gives_everything_back():
    done = run(USE, "PyCuda")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Fake GPU 8.7 0x5678",
        "CUDA failed: cuMemAlloc failed: out of memory; free GPU memory and start again",
    ]
    done = run(USE, "PyCuda", FAKE_CUDA_NO_DEVICE="1")
    assert "no usable CUDA device (cuInit failed" in done.stderr


def test_without_either_package_the_error_names_both(monkeypatch):
    from solo_edge.errors import ResourceError
    from solo_edge.runtime.cuda_driver import open_cuda

    for name in ("cuda", "cuda.bindings", "pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match="need cuda-bindings or PyCUDA"):
        open_cuda()
