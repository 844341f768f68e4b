"""Group norm by channel instead of by group: the same numbers, without a reshape."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from solo_edge.export.group_norm import rewrite_group_norms, suit_backend


def exported(model, shape, tmp_path):
    path = tmp_path / "model.onnx"
    torch.onnx.export(
        model.eval(),
        (torch.zeros(shape),),
        path,
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        external_data=False,
        verbose=False,
    )
    return onnx.load(path)


def run(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": image})[0]


class Branch(nn.Module):
    def __init__(self, groups, channels):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norms = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.ReLU(), nn.GroupNorm(groups, channels)
        )
        for norm in (self.norms[0], self.norms[2]):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x):
        return self.norms(self.conv(x))


@pytest.mark.parametrize(("groups", "channels"), [(1, 6), (4, 8), (8, 8)])
def test_the_same_numbers_without_a_reshape(groups, channels, tmp_path):
    torch.manual_seed(0)
    model = exported(Branch(groups, channels), (2, 3, 9, 13), tmp_path)
    image = np.random.default_rng(0).standard_normal((2, 3, 9, 13)).astype(np.float32)
    before = run(model, image)
    assert rewrite_group_norms(model) == 2
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Reshape", "InstanceNormalization"}
    np.testing.assert_allclose(run(model, image), before, rtol=0, atol=5e-3)
    assert rewrite_group_norms(model) == 0


def test_a_mean_far_from_zero_and_a_constant_map(tmp_path):
    torch.manual_seed(0)
    branch = Branch(2, 4)
    model = exported(branch, (1, 3, 8, 8), tmp_path)
    far = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32) + 30
    before = run(model, far)
    rewrite_group_norms(model)
    np.testing.assert_allclose(run(model, far), before, rtol=0, atol=2e-3)
    flat = run(model, np.full((1, 3, 8, 8), 700, np.float32))
    assert np.isfinite(flat).all()


def test_only_the_engine_that_gains_gets_it(tmp_path):
    model = exported(Branch(2, 4), (1, 3, 8, 8), tmp_path)
    before = model.SerializeToString(deterministic=True)
    suit_backend(model, "openvino", "bf16")  # the square of a mean has too few digits there
    suit_backend(model, "onnxruntime", "fp32")
    suit_backend(model, "tensorrt", "fp32")
    assert model.SerializeToString(deterministic=True) == before
    suit_backend(model, "openvino", "int8")
    assert model.SerializeToString(deterministic=True) != before
