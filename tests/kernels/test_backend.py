from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import solo_edge.kernels
from solo_edge.kernels import available_backends, backend, dynamic_conv

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_triton():
    code = "import sys, solo_edge.kernels; print({'torch', 'triton', 'cv2'} & set(sys.modules))"
    assert python(code) == "set()"


def test_the_device_side_works_without_torch():
    code = """
import sys
for name in ("torch", "triton", "onnx", "timm", "torchvision"):
    sys.modules[name] = None
import numpy as np
import solo_edge.instances, solo_edge.kernels.host, solo_edge.postprocess
from solo_edge.config import PostprocessConfig
from solo_edge.kernels import available_backends, matrix_nms
from solo_edge.preprocess import Geometry
matrix_nms(np.ones((2, 3, 3), bool), np.zeros(2, int), np.array([0.5, 0.4]))
found = sys.modules["solo_edge.postprocess"].postprocess_arrays(
    np.full((1, 4), 0.9, np.float32), np.ones((2, 4), np.float32), np.ones((2, 8, 8), np.float32),
    np.full(4, 8.0), PostprocessConfig(), Geometry((40, 50), (26, 32), (32, 32)), ["thing"])
print(available_backends(), found.masks.shape, found.masks.all())
try:
    matrix_nms(np.ones((2, 3, 3), bool), np.zeros(2, int), np.array([0.5, 0.4]), backend="torch")
except ValueError as error:
    print(error)
"""
    first, second = python(code).splitlines()
    assert first == "('numpy',) (4, 40, 50) True"
    assert second == "backend 'torch' is not installed here; use 'numpy' or 'auto'"


@pytest.mark.parametrize("folder", ["kernels", "calibration"])
def test_the_folders_refuse_another_name(folder):
    code = f"""
try:
    import {folder}
except ImportError as error:
    print(error)
"""
    assert python(code) == f"the folder {folder}/ is the package solo_edge.{folder}"


def test_unknown_backends_are_named():
    features, kernels = np.ones((2, 3, 3)), np.ones((1, 2))
    assert available_backends() == ("triton", "torch", "numpy")
    with pytest.raises(ValueError, match="one of auto, triton, torch, numpy, got 'cuda'"):
        dynamic_conv(features, kernels, backend="cuda")
    with pytest.raises(TypeError, match="got both"):
        dynamic_conv(features, torch.from_numpy(kernels))


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton' takes tensors on a CUDA GPU"):
        dynamic_conv(torch.ones(2, 3, 3), torch.ones(1, 2), backend="triton")


def test_auto_is_torch_for_tensors_of_the_cpu(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert backend._choose("auto", torch.ones(1)) == "torch"
    assert backend._choose("auto", np.ones(1)) == "numpy"


def test_public_names():
    for name in solo_edge.kernels.__all__:
        assert callable(getattr(solo_edge.kernels, name))
