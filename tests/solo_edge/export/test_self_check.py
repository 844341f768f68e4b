"""The check of a built engine: it accepts rounding and near ties, and finds what can go wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError
from solo_edge.export.self_check import TOLERANCES, check_runner, make_image
from solo_edge.runtime.base import Runner
from solo_edge.runtime.torch_runner import TorchRunner

WHERE = Path("name.engine")
CONFIG = PostprocessConfig()


class Changed(Runner):
    """Another runner whose outputs are changed."""

    def __init__(self, inner, change):
        self.inner, self.change = inner, change
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def _infer(self, inputs):
        outputs = {name: array.copy() for name, array in self.inner.infer(inputs).items()}
        self.change(outputs)
        return outputs

    def close(self):
        self.inner.close()


def check(model, graph, change, precision="fp32", config=CONFIG):
    runner = Changed(TorchRunner(model, graph=graph, config=config), change)
    return check_runner(runner, model, precision, config, WHERE)


def nothing(outputs):
    pass


def test_the_image_is_the_same_everywhere():
    image = make_image((64, 96))
    assert image.shape == (64, 96, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, make_image((64, 96)))
    assert not np.array_equal(image, make_image((64, 96), seed=1))
    assert image.std() > 30


def test_the_model_agrees_with_itself(lively_model):
    network = check(lively_model, "network", nothing)
    assert network.category_score < 1e-5
    assert network.mask_features < 1e-5
    full = check(lively_model, "full", nothing)
    assert full.matched == full.instances > 20


def drop_a_near_tie(outputs):
    """The other of two neighbours that differ by less than the rounding: not an error."""
    scores = outputs["category_scores"]
    scores[scores < TOLERANCES["fp32"].score] = 0


def noise(size):
    def change(outputs):
        rng = np.random.default_rng(0)
        for array in outputs.values():
            if array.dtype == np.float32:
                scale = size * np.abs(array).mean()
                array += (scale * rng.standard_normal(array.shape) * (array != 0)).astype(
                    np.float32
                )

    return change


def test_rounding_is_accepted(lively_model):
    check(lively_model, "network", drop_a_near_tie)
    assert check(lively_model, "network", noise(1e-5)).mask_features > 1e-6


def scale(name, factor):
    def change(outputs):
        outputs[name] *= np.float32(factor)

    return change


def reverse(name, axis):
    def change(outputs):
        outputs[name] = np.flip(outputs[name], axis).copy()

    return change


def fill(name, value):
    def change(outputs):
        outputs[name].flat[17] = value

    return change


def zero(name):
    def change(outputs):
        outputs[name][:] = 0

    return change


def no_points_nms(outputs):
    scores = outputs["category_scores"]
    scores[scores == 0] = scores.max()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    "change",
    [
        zero("category_scores"),
        zero("mask_features"),
        reverse("category_scores", 1),
        reverse("category_scores", 2),
        reverse("mask_kernels", 1),
        reverse("mask_kernels", 2),
        reverse("mask_features", 2),
        reverse("mask_features", 3),
        scale("category_scores", 1.5),
        scale("mask_kernels", 1.5),
        scale("mask_features", -1),
        fill("mask_features", np.nan),
        fill("category_scores", np.inf),
        no_points_nms,
    ],
)
def test_a_wrong_network_is_found_in_every_precision(lively_model, change, precision):
    with pytest.raises(ArtifactError, match="disagrees with the model"):
        check(lively_model, "network", change, precision)


@pytest.mark.parametrize("change", [noise(0.01), scale("category_scores", 1.001)])
def test_float32_must_be_exact(lively_model, change):
    with pytest.raises(ArtifactError, match="disagrees with the model"):
        check(lively_model, "network", change)
    check(lively_model, "network", change, "bf16")


def shifted_labels(outputs):
    outputs["labels"] = (outputs["labels"] + 1) % 5


def more_instances(outputs):
    outputs["scores"][:, 50:] = 0.9


@pytest.mark.parametrize(
    "change",
    [
        zero("scores"),
        zero("valid_count"),
        shifted_labels,
        reverse("masks", 1),
        reverse("masks", 3),
        scale("scores", 0.3),
        fill("masks", np.nan),
        more_instances,
    ],
)
def test_a_wrong_full_graph_is_found(lively_model, change):
    with pytest.raises(ArtifactError, match="disagrees with the model"):
        check(lively_model, "full", change)


def test_a_model_that_finds_nothing_is_said_to_be_uncompared(lively_model):
    config = dataclasses.replace(CONFIG, score_threshold=0.999)
    agreement = check(lively_model, "full", nothing, config=config)
    assert (agreement.instances, agreement.matched) == (0, 0)
