"""The kernels that go into an engine folder: which, for which sizes, with which numbers."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from solo_edge.config import PostprocessConfig, preset
from solo_edge.errors import UsageError
from solo_edge.export.device_files import device_plans, write_kernels
from solo_edge.kernels.aot_targets import TARGETS
from solo_edge.manifest import describe_tensors, record_files

MODEL = preset("solov2-nano-256", num_classes=3)


def test_the_plans_have_the_networks_tensors():
    config = PostprocessConfig(max_candidates=70, max_instances=9, decay="linear")
    plans, sizes = device_plans(MODEL, config)
    inputs, outputs = describe_tensors(MODEL, "network", config)
    buffers = {**plans["postprocess"].buffers, **plans["preprocess"].buffers}
    for spec in (*inputs, *outputs):
        assert (buffers[spec.name].shape, buffers[spec.name].dtype) == (spec.shape, spec.dtype)
    assert buffers["scores"].shape == (1, 70)
    assert buffers["instance_scores"].shape == (1, 9)
    assert (sizes.max_candidates, sizes.max_instances) == (70, 9)
    decay = next(each for each in plans["postprocess"].launches if "GAUSSIAN" in each.constants)
    assert decay.constants["GAUSSIAN"] is False
    numbers = plans["preprocess"].launches[0].arguments
    assert numbers["mean_green"] == MODEL.pixel_mean[1]
    assert np.float32(numbers["factor_blue"]) == np.float32(1.0 / MODEL.pixel_std[2])


def test_more_candidates_than_the_kernels_sort_are_refused():
    config = dataclasses.replace(PostprocessConfig(), max_candidates=5000)
    with pytest.raises(UsageError, match=r"max_candidates is 5000, .* take 4096; lower --max-cand"):
        device_plans(MODEL, config)


def test_the_files_lie_flat_beside_the_others(tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "engine.plan").write_bytes(b"plan")
    said = []
    config = PostprocessConfig(max_candidates=70)
    write_kernels(tmp_path, MODEL, config, TARGETS["sm_87"], report=said.append)
    values = json.loads((tmp_path / "kernels.json").read_text())
    assert list(values["plans"]) == ["preprocess", "postprocess"]
    named = {v["file"] for each in values["kernels"].values() for v in each["variants"]}
    assert set(record_files(tmp_path)) == {"engine.plan", "kernels.json", *named}
    assert "preprocess.sm_87.cubin" in named
    assert len(said) == 2
