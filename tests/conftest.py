"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

# Two busy cores: threads that wait must not spin, or the tests slow each other down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Without a GPU Triton interprets the kernels. It looks at this when it is imported, by whomever.
GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu")
if not any(map(os.path.exists, GPU_FILES)):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A busy machine is no failure: how long an example takes is not tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference numbers and real images beside the repository; skips without it."""
    if not SHARED.is_dir():
        pytest.skip("the reference files (../shared) are not on this machine")
    return SHARED
