"""How far an engine may be from the model, and whether it finds the same instances; without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import PostprocessConfig
from solo_edge.errors import ArtifactError
from solo_edge.manifest import Precision

__all__ = [
    "TOLERANCES",
    "Found",
    "NetworkOutputs",
    "Tolerance",
    "compare_instances",
    "compare_network",
    "disagree",
    "require_finite",
    "sample",
]

SAMPLED = 1 << 16  # values of a tensor that go into a portable folder, about


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


class Found(NamedTuple):
    """Instances of one image, best first."""

    labels: NDArray[Any]  # [N]
    scores: NDArray[Any]  # [N]
    masks: NDArray[np.bool_]  # [N, h, w]


class NetworkOutputs(NamedTuple):
    """The network's outputs for one image."""

    scores: Sequence[NDArray[np.float32]]  # [C, S, S] of each level, before points NMS
    mask_kernels: NDArray[np.float32]  # as the engine has them, or a sample of both sides
    mask_features: NDArray[np.float32]


def compare_network(
    found: Mapping[str, NDArray[np.float32]],
    expected: NetworkOutputs,
    tolerance: Tolerance,
    where: Path,
) -> tuple[float, float, float]:
    """Compare the outputs of the graph "network" with those of the model.

    Returns:
        Largest difference of a category score, relative errors of mask kernels and mask features.

    Raises:
        ArtifactError: one is off by more than `tolerance`, or not finite.
    """
    require_finite(found, where)
    score = _score_error(found["category_scores"][0], expected.scores, tolerance.score, where)
    errors = []
    for name in ("mask_kernels", "mask_features"):
        error = _relative_error(found[name], getattr(expected, name))
        if not error <= tolerance.tensor:
            disagree(f"{name} are off by {error:.2g}, relative to their size", where)
        errors.append(error)
    return score, errors[0], errors[1]


def sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n] some thousand of them, spread over all axes: a file of all would be as large as the model."""
    # An odd step does not stay in one column of a width that is a power of two.
    return values.reshape(-1)[:: (values.size // SAMPLED) | 1].copy()


def _score_error(
    found: NDArray[np.float32], expected: Sequence[NDArray[np.float32]], limit: float, where: Path
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
            disagree(f"points NMS decided {wrong} of {level.size} category scores wrongly", where)
        if kept.any():
            largest = max(largest, float(np.abs(level - before)[kept].max()))
    if largest > limit:
        disagree(f"category scores are off by up to {largest:.2g}", where)
    return largest


def compare_instances(
    here: Found, there: Found, config: PostprocessConfig, tolerance: Tolerance, where: Path
) -> tuple[int, int]:
    """Compare what an engine found with what the model finds in the same image.

    Args:
        here: of the engine.
        there: of the model; masks of the same size.
        config: the thresholds of both.
        where: for the message.

    Returns:
        How many instances of the model lie clearly above the threshold, and how many of them the
        engine found as well.

    Raises:
        ArtifactError: too many are missing, or there are too many others.
    """
    # Too close to the threshold, or to the last free slot, to be sure of.
    last = there.scores[-1] if len(there.scores) == config.max_instances else 0.0
    sure = max(config.update_threshold, float(last)) + tolerance.instance
    clear = np.flatnonzero(there.scores > sure)
    matched = sum(_has_partner(here, there, int(i), tolerance) for i in clear)
    if matched < tolerance.matched * len(clear):
        disagree(f"it finds only {matched} of {len(clear)} instances", where)
    surplus = int((here.scores > sure).sum()) - len(clear)
    if surplus > (1 - tolerance.matched) * len(clear) + 1:
        disagree(f"it finds {surplus} instances too many, {len(clear)} are expected", where)
    return len(clear), matched


def _has_partner(here: Found, there: Found, index: int, tolerance: Tolerance) -> bool:
    """Whether an instance of the same class, score and mask as `there`'s is among `here`'s."""
    label, score, mask = there.labels[index], there.scores[index], there.masks[index]
    alike = (here.labels == label) & (np.abs(here.scores - score) <= tolerance.instance)
    for candidate in np.flatnonzero(alike):
        other = here.masks[candidate]
        if (mask & other).sum() >= tolerance.iou * (mask | other).sum():
            return True
    return False


def _relative_error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """RMS of the difference relative to the RMS of what is expected."""
    size = float(np.linalg.norm(expected.astype(np.float64)))
    difference = float(np.linalg.norm(found.astype(np.float64) - expected))
    return difference / max(size, 1e-12)


def require_finite(tensors: Mapping[str, NDArray[Any]], where: Path) -> None:
    """Raise ArtifactError if an output of an engine holds a number that is not finite."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            disagree(f"{name} holds numbers that are not finite", where)


def disagree(what: str, where: Path) -> NoReturn:
    """Raise the ArtifactError that says why an engine was not kept."""
    raise ArtifactError(
        f"the engine disagrees with the model: {what}; it was not kept",
        where=where,
        fix="build from the checkpoint with another --precision or --backend",
    )
