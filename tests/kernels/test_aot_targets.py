"""The GPUs that kernels are compiled for: how they are found, and what their drivers take."""

from __future__ import annotations

import dataclasses

import pytest

from solo_edge.errors import ResourceError, UsageError
from solo_edge.kernels.aot_targets import ALIASES, PORTABLE, TARGETS, find_target, target_for

ORIN = TARGETS["sm_87"]


def test_targets_are_found_by_either_name():
    assert find_target("orin") == find_target("sm_87") == ORIN
    assert find_target("thor").compute_capability == "11.0"
    assert set(ALIASES.values()) <= set(TARGETS)
    with pytest.raises(UsageError, match=r"unknown target 'sm_88'; did you mean 'sm_8\d'"):
        find_target("sm_88")


def test_a_gpu_has_its_target_or_portable_code():
    assert target_for("8.7") == ORIN
    assert target_for("12.1") == TARGETS["sm_121"]
    assert target_for("13.0") == PORTABLE
    with pytest.raises(ResourceError, match=r"need compute capability 8\.0, this GPU has 7\.5"):
        target_for("7.5")


def test_ptx_is_no_newer_than_the_oldest_drivers():
    assert ORIN.ptx <= 82  # JetPack 6.0 has CUDA 12.2
    assert TARGETS["sm_110"].ptx <= 90  # JetPack 7.0 has CUDA 13.0
    assert PORTABLE.ptx <= 78  # CUDA 11.8


def test_a_ptx_version_that_would_kill_the_compiler_is_refused():
    with pytest.raises(
        UsageError, match=r"PTX 7\.7 cannot be written for sm_87; 7\.8 is the lowest"
    ):
        dataclasses.replace(ORIN, ptx=77)
