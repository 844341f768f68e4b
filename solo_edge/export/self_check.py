"""Whether a built engine says the same as the PyTorch model that it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from solo_edge.config import PostprocessConfig
from solo_edge.export.agreement import (
    TOLERANCES,
    Found,
    NetworkOutputs,
    Tolerance,
    compare_instances,
    compare_network,
    require_finite,
)
from solo_edge.manifest import Precision
from solo_edge.models.solov2 import SOLOv2
from solo_edge.preprocess import Preprocess
from solo_edge.runtime.base import Runner
from solo_edge.runtime.engine import Engine
from solo_edge.runtime.graphs import FullGraph

__all__ = [
    "TEST_IMAGES",
    "TOLERANCES",
    "Agreement",
    "Tolerance",
    "check_frames",
    "check_runner",
    "make_image",
    "network_outputs",
]

# Images tried for one in which the model finds something to compare.
TEST_IMAGES = 4


@dataclass(frozen=True)
class Agreement:
    """Measured differences between an engine and the model; None where the graph does not show it."""

    category_score: float | None = None
    mask_kernels: float | None = None
    mask_features: float | None = None
    instances: int | None = (
        None  # compared: those of the model that lie clearly above the threshold
    )
    matched: int | None = None  # of them, found by the engine as well

    def __str__(self) -> str:
        if self.instances is not None:
            return f"{self.matched} of the model's {self.instances} instances found again"
        return (
            f"largest difference {self.category_score:.1e} in category scores; relative"
            f" {self.mask_kernels:.1e} in mask kernels, {self.mask_features:.1e} in mask features"
        )


def make_image(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """[H, W, 3] uint8: discs of many sizes and colours over smooth noise, the same on every machine."""
    height, width = size
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(40, 200, (height // 32 + 1, width // 32 + 1, 3))
    image = np.kron(coarse, np.ones((32, 32, 1)))[:height, :width]
    rows, columns = np.ogrid[:height, :width]
    for _ in range(12):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        radius = min(height, width) * rng.uniform(0.03, 0.3)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image[inside] = rng.uniform(0, 255, 3)
    image += rng.normal(0, 8, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def check_runner(
    runner: Runner, model: SOLOv2, precision: Precision, config: PostprocessConfig, where: Path
) -> Agreement:
    """Run a network or full graph and `model` on the same images and compare.

    Of a batch the first and the last place are compared, which hold different images.

    Args:
        precision: what the runner was built for; decides how far it may be off.
        config: thresholds of a full graph.
        where: for the message.

    Raises:
        ArtifactError: they disagree, or the runner's numbers are not finite.
    """
    preprocess, tolerance = Preprocess.from_config(model.config), TOLERANCES[precision]
    images = [
        preprocess.normalise(make_image(preprocess.input_size, seed))[np.newaxis]
        for seed in range(TEST_IMAGES)
    ]
    if any(spec.name == "category_scores" for spec in runner.outputs):
        return _check_network(runner, model, images, tolerance, where)
    return _check_full(runner, model, config, images, tolerance, where)


def check_frames(engine: Engine, where: Path) -> int | None:
    """Compare what a device's kernels make of a whole frame with what the host makes of it.

    Returns:
        How many instances were compared; None where frames do not stay on the device.

    Raises:
        ArtifactError: they disagree.
    """
    if engine.runner.frames is None:
        return None
    height, width = engine.preprocess.input_size
    # Of another size than the input, so that it has to be resized and padded.
    size = (height * 5 // 4, width * 3 // 4)
    images = [make_image(size, seed) for seed in range(TEST_IMAGES)]
    expected = [engine.run_on_host(image) for image in images]
    best = max(range(len(images)), key=lambda i: len(expected[i]))
    here, there = (
        Found(x.labels, x.scores, x.masks) for x in (engine(images[best]), expected[best])
    )
    # The network is the same one; only the arithmetic around it differs.
    tolerance = TOLERANCES["fp32"]
    clear, _ = compare_instances(here, there, engine.postprocess_config, tolerance, where)
    return clear


def _batch_of(runner: Runner, images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The runner's input, filled with the images in turn."""
    size = runner.inputs[0].shape[0]
    return np.concatenate([images[i % len(images)] for i in range(size)])


def _check_network(
    runner: Runner,
    model: SOLOv2,
    images: list[NDArray[np.float32]],
    tolerance: Tolerance,
    where: Path,
) -> Agreement:
    batch = _batch_of(runner, images)
    found = runner.infer({"image": batch})
    errors = []
    for place in {0, len(batch) - 1}:
        image = slice(place, place + 1)
        here = {name: values[image] for name, values in found.items()}
        errors.append(compare_network(here, network_outputs(model, batch[image]), tolerance, where))
    return Agreement(*(max(each) for each in zip(*errors, strict=True)))


def network_outputs(model: SOLOv2, image: NDArray[np.float32]) -> NetworkOutputs:
    """What the network itself says to a normalised image, [1, 3, H, W]."""
    with torch.inference_mode():
        expected = model(torch.from_numpy(image))
        scores = [logits[0].sigmoid().numpy() for logits in expected.category_logits]
        kernels = torch.cat([x.flatten(2) for x in expected.mask_kernels], dim=2).numpy()
    return NetworkOutputs(scores, kernels, expected.mask_features.numpy())


def _check_full(
    runner: Runner,
    model: SOLOv2,
    config: PostprocessConfig,
    images: list[NDArray[np.float32]],
    tolerance: Tolerance,
    where: Path,
) -> Agreement:
    graph = FullGraph(model, config).eval()
    with torch.inference_mode():
        tensors = [[x[0].numpy() for x in graph(torch.from_numpy(image))] for image in images]
    best = max(range(len(images)), key=lambda i: int(tensors[i][3]))
    order = [best, *(i for i in range(len(images)) if i != best)]
    batch = _batch_of(runner, [images[i] for i in order])
    found = runner.infer({"image": batch})
    require_finite(found, where)
    counts = []
    for place in {0, len(batch) - 1}:
        names = ("labels", "scores", "masks", "valid_count")
        here = _Slots(*(found[name][place] for name in names))
        there = _Slots(*tensors[order[place % len(order)]])
        counts.append(
            compare_instances(here.found(config), there.found(config), config, tolerance, where)
        )
    clear, matched = (sum(each) for each in zip(*counts, strict=True))
    return Agreement(instances=clear, matched=matched)


class _Slots(NamedTuple):
    """The outputs of a full graph for one image."""

    labels: NDArray[Any]  # [M]
    scores: NDArray[Any]  # [M]
    masks: NDArray[Any]  # [M, h, w] probabilities
    valid_count: NDArray[Any]  # of the slots that are filled

    def found(self, config: PostprocessConfig) -> Found:
        n = int(self.valid_count)
        return Found(self.labels[:n], self.scores[:n], self.masks[:n] > config.mask_threshold)
