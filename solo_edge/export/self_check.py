"""Whether a built engine says the same as the PyTorch model that it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError
from solo_edge.manifest import Precision
from solo_edge.models.solov2 import SOLOv2
from solo_edge.preprocess import Preprocess
from solo_edge.runtime.base import Runner
from solo_edge.runtime.graphs import FullGraph

__all__ = ["TOLERANCES", "Agreement", "Tolerance", "check_runner", "make_image"]

# Images tried for one in which the model finds something to compare.
_IMAGES = 4


@dataclass(frozen=True)
class Tolerance:
    """How far an engine may be from the float32 model."""

    score: float  # of a category score, absolute
    tensor: float  # of mask kernels and mask features: RMS of the difference relative to the RMS
    # Of an instance's score, absolute. It hangs on whole pixels: one that changes sides at the edge
    # of a mask changes the overlap that lowers the scores of others.
    instance: float
    iou: float  # least overlap of an instance's mask
    matched: (
        float  # least share of the instances found again: a near tie in points NMS may flip one
    )


# fp32 differs by the order of summation alone. In bf16, trained networks were seen to differ by 1 %
# and those with large random weights by 10 %; fp16 has eight times finer steps. A wrong weight,
# layout or normalisation differs by far more than any of these limits.
TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(score=1e-4, tensor=1e-3, instance=0.01, iou=0.98, matched=0.95),
    "fp16": Tolerance(score=0.05, tensor=0.05, instance=0.1, iou=0.9, matched=0.8),
    "bf16": Tolerance(score=0.2, tensor=0.2, instance=0.2, iou=0.7, matched=0.5),
    # The test images are nothing like those of the calibration: whether INT8 is good enough only the
    # accuracy on real images says.
    "int8": Tolerance(score=0.4, tensor=0.5, instance=0.4, iou=0.5, matched=0.3),
}


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
    """Run a network or full graph and `model` on the same image and compare.

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
        for seed in range(_IMAGES)
    ]
    if any(spec.name == "category_scores" for spec in runner.outputs):
        return _check_network(runner, model, images[0], tolerance, where)
    return _check_full(runner, model, config, images, tolerance, where)


def _check_network(
    runner: Runner, model: SOLOv2, image: NDArray[np.float32], tolerance: Tolerance, where: Path
) -> Agreement:
    with torch.inference_mode():
        expected = model(torch.from_numpy(image))
        scores = [logits[0].sigmoid().numpy() for logits in expected.category_logits]
        kernels = torch.cat([x.flatten(2) for x in expected.mask_kernels], dim=2).numpy()
    found = runner.infer({"image": image})
    _require_finite(found, where)
    agreement = Agreement(
        _score_error(found["category_scores"][0], scores, tolerance.score, where),
        _relative_error(found["mask_kernels"], kernels),
        _relative_error(found["mask_features"], expected.mask_features.numpy()),
    )
    for name in ("mask_kernels", "mask_features"):
        error = getattr(agreement, name)
        if not error <= tolerance.tensor:
            _disagree(f"{name} are off by {error:.2g}, relative to their size", where)
    return agreement


def _score_error(
    found: NDArray[np.float32], expected: list[NDArray[np.float32]], limit: float, where: Path
) -> float:
    """Largest difference of the scores that survived points NMS; the others are zero for a reason.

    Which of two nearly equal neighbours survives may differ, so a decision is wrong only if the scores
    before points NMS contradict it by more than both could be off.

    Args:
        found: [C, T] after points NMS.
        expected: [C, S, S] of each level before points NMS.
    """
    largest, start = 0.0, 0
    for before in expected:
        classes, size, _ = before.shape
        level = found[:, start : start + size * size].reshape(before.shape)
        start += size * size
        padded = np.zeros((classes, size + 1, size + 1), dtype=np.float32)
        padded[:, 1:, 1:] = before
        neighbours = np.maximum(
            np.maximum(padded[:, :-1, :-1], padded[:, 1:, :-1]), padded[:, :-1, 1:]
        )
        kept = level > 0
        wrongly_kept = kept & (neighbours > before + 2 * limit)
        wrongly_dropped = ~kept & (neighbours < before - 2 * limit)
        if wrong := int((wrongly_kept | wrongly_dropped).sum()):
            _disagree(f"points NMS decided {wrong} of {level.size} category scores wrongly", where)
        if kept.any():
            largest = max(largest, float(np.abs(level - before)[kept].max()))
    if largest > limit:
        _disagree(f"category scores are off by up to {largest:.2g}", where)
    return largest


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
    found = runner.infer({"image": images[best]})
    _require_finite(found, where)
    here = [found[name][0] for name in ("labels", "scores", "masks", "valid_count")]
    there = tensors[best]
    # Too close to the threshold, or to the last free slot, to be sure of.
    last = there[1][-1] if int(there[3]) == config.max_instances else 0.0
    sure = max(config.update_threshold, float(last)) + tolerance.instance
    clear = [i for i in range(int(there[3])) if there[1][i] > sure]
    matched = sum(_has_partner(here, there, i, config.mask_threshold, tolerance) for i in clear)
    if matched < tolerance.matched * len(clear):
        _disagree(f"it finds only {matched} of {len(clear)} instances", where)
    count = int(here[3])
    surplus = int((here[1][:count] > sure).sum()) - len(clear)
    if surplus > (1 - tolerance.matched) * len(clear) + 1:
        _disagree(f"it finds {surplus} instances too many, {len(clear)} are expected", where)
    return Agreement(instances=len(clear), matched=matched)


def _has_partner(
    here: list[NDArray[Any]],
    there: list[NDArray[Any]],
    index: int,
    threshold: float,
    tolerance: Tolerance,
) -> bool:
    """Whether an instance of the same class, score and mask as `there`'s is among `here`'s."""
    label, score, mask = there[0][index], there[1][index], there[2][index] > threshold
    count = int(here[3])
    alike = (here[0][:count] == label) & (np.abs(here[1][:count] - score) <= tolerance.instance)
    for candidate in np.flatnonzero(alike):
        other = here[2][candidate] > threshold
        if (mask & other).sum() >= tolerance.iou * (mask | other).sum():
            return True
    return False


def _relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """RMS of the difference relative to the RMS of what is expected."""
    size = float(np.linalg.norm(expected.astype(np.float64)))
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    return difference / max(size, 1e-12)


def _require_finite(tensors: dict[str, NDArray[Any]], where: Path) -> None:
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            _disagree(f"{name} holds numbers that are not finite", where)


def _disagree(what: str, where: Path) -> None:
    raise ArtifactError(
        f"the engine disagrees with the model: {what}; it was not kept",
        where=where,
        fix="use another --precision or --backend",
    )
