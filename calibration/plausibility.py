"""Do the images of a calibration look, to the network, like those that it was trained on?

Each batch norm of a trained backbone remembers the mean and variance of its input in training. What the
prepared images produce there must be close to that. Where it is not, the usual mistakes are made good on
the same images: the one whose opposite brings the statistics back is named.

The distance was measured with matching images in subsets of 32 (the shipped model and rendered scenes, a
model of cell nuclei, ImageNet's MobileNetV2 and photographs): 0.06 to 0.31. Images of another domain gave
0.42 to 0.75, and no mistake made good brought them below both `FIT` and `FIT_FIRST`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from solo_edge.calibration.mistakes import Mistake, Pixels, mistakes
from solo_edge.errors import DataError
from solo_edge.preprocess import Preprocess

__all__ = ["Verdict", "examine", "require_plausible"]

LAYERS = 8  # the first batch norms of the backbone
COLOUR_LAYERS = 3  # that tell the order of the channels
IMAGES = 32  # looked at, spread over those given
SCREENED = 12  # of them, after which a mistake that brings the statistics no closer is dropped
MIN_BATCHES = 50  # of training, after which the statistics have forgotten their start

SMALL = 0.15  # distance below which only the order of the channels is questioned
FAR = 0.4  # distance worth a warning, whatever the cause
UNLIKE = 0.3  # distance from which images may be refused
FIT = 0.25  # distance below which a mistake made good explains the images ...
FIT_COLOUR = 0.3  # ... for the order of the channels, in COLOUR_LAYERS
FIT_FIRST = 0.4  # ... and, for all others, in the first layer alone
# How many times the distance must be that with the mistake made good. Swapped channels of matching
# scenes give 2.0 and more; what is right, made wrong, stays below 1.1.
SURE, LIKELY = 1.5, 1.2
# The least gain, see `_gain`. For swapped channels, COCO's photographs give 0.7 and more, matching
# images less than 0. Images with little colour say little about it.
CONSISTENT, CONSISTENT_COLOUR = 0.8, 0.6

OVERRIDE = "--allow-unlike calibrates all the same"


class Verdict(NamedTuple):
    """What is odd about the images."""

    what: str
    fix: str
    is_sure: bool  # one mistake explains it clearly


_Moments = list[NDArray[np.float64]]  # for each layer [N, 2, C]: mean and mean square in each image


class _Statistics(NamedTuple):
    """Of the input of one batch norm, over all images."""

    mean: NDArray[np.float64]  # [C]
    variance: NDArray[np.float64]  # [C]


@dataclass(frozen=True)
class _Explanation:
    mistake: Mistake
    given: float  # distance of the images as they are
    distance: float  # and with the mistake made good
    is_sure: bool


def require_plausible(
    backbone: nn.Module,
    preprocess: Preprocess,
    images: Sequence[Callable[[], Pixels]],
    *,
    where: str | None = None,
    allow: bool = False,
    report: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Refuse images that one mistake explains clearly; report what is odd otherwise.

    Args:
        backbone: in evaluation mode.
        images: functions that read one each.
        where: what the error names.
        allow: report instead of refusing.

    Raises:
        DataError: red and blue are swapped, the colours inverted, or `preprocess` is not what the
            network was trained with.
    """
    verdict = examine(backbone, preprocess, images, progress=progress)
    if verdict is None:
        return
    if verdict.is_sure and not allow:
        raise DataError(verdict.what, where=where, fix=f"{verdict.fix}; {OVERRIDE}")
    report(f"{verdict.what}; {verdict.fix}")


def examine(
    backbone: nn.Module,
    preprocess: Preprocess,
    images: Sequence[Callable[[], Pixels]],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict | None:
    """None if the images look like those of training, or if the backbone remembers nothing of it.

    The first layers of the backbone run on at most 32 images; only if the distance is not small, they
    run again for each mistake, which takes 4 to 14 times as long.
    """
    norms = _trained_norms(backbone)
    if not norms or not images:
        return None
    remembered = [_Statistics(*map(_numbers, (n.running_mean, n.running_var))) for n in norms]
    count = min(len(images), IMAGES)
    sample = [images[i * len(images) // count] for i in range(count)]
    known = list(mistakes(preprocess))
    rounds = 1 + len(known)

    def measure(mistake: Mistake, start: int, stop: int, layers: int = LAYERS) -> _Moments:
        reads = sample[start:stop]
        prepared = (mistake.preprocess(np.ascontiguousarray(mistake.undo(r())))[0] for r in reads)
        return _measure(backbone, norms[:layers], prepared, len(reads))

    progress(0, rounds)
    given = measure(Mistake("", "", preprocess), 0, count)
    if not given:
        return None
    distance = _distance(remembered, _pooled(given))
    explanations = []
    for done, mistake in enumerate(known, 1):
        progress(done, rounds)
        if mistake.of_colour:
            made_good = measure(mistake, 0, count, COLOUR_LAYERS)
        elif distance < SMALL:
            continue
        else:
            made_good = measure(mistake, 0, SCREENED)
            first = [layer[:SCREENED] for layer in given]
            if _gain(remembered, _pooled(first), _pooled(made_good)) <= 0:
                continue
            rest = measure(mistake, SCREENED, count)
            made_good = [np.concatenate(parts) for parts in zip(made_good, rest, strict=True)]
        found = _explanation(mistake, remembered, _pooled(given), _pooled(made_good))
        if found is not None:
            explanations.append(found)
    progress(rounds, rounds)
    return _verdict(distance, explanations)


def _verdict(distance: float, explanations: Sequence[_Explanation]) -> Verdict | None:
    if explanations:
        best = min(explanations, key=lambda each: each.distance / each.given)
        numbers = f"distance {best.given:.2f}, made good {best.distance:.2f}"
        return Verdict(f"{best.mistake.what} ({numbers})", best.mistake.fix, best.is_sure)
    if distance > FAR:
        what = "these images look unlike those that the network was trained on"
        fix = "ranges are right only for images like them: are they the camera's?"
        return Verdict(f"{what} (distance {distance:.2f}, usual is up to {UNLIKE})", fix, False)
    return None


def _explanation(
    mistake: Mistake,
    remembered: Sequence[_Statistics],
    given: Sequence[_Statistics],
    made_good: Sequence[_Statistics],
) -> _Explanation | None:
    """None if the statistics do not come back when the mistake is made good."""
    layers = slice(COLOUR_LAYERS if mistake.of_colour else LAYERS)
    before = _distance(remembered[layers], given[layers])
    after = _distance(remembered[layers], made_good[layers])
    gain = _gain(remembered[layers], given[layers], made_good[layers])
    is_sure = before > max(UNLIKE, SURE * after) and after < FIT and not mistake.of_size
    if mistake.of_colour:
        is_likely = gain > CONSISTENT_COLOUR and after < FIT_COLOUR
    else:
        first = _distance(remembered[:1], made_good[:1])
        fits = after < FIT and first < FIT_FIRST
        is_likely = gain > CONSISTENT and fits and before > LIKELY * after
    return _Explanation(mistake, before, after, is_sure) if is_likely else None


def _deviations(
    remembered: Sequence[_Statistics], found: Sequence[_Statistics]
) -> list[NDArray[np.float64]]:
    """For each layer, how far each channel's distribution is off, 0 to 1.

    Squared Wasserstein distance of the two normal distributions in units of the remembered variance,
    at most 1. Channels that hardly vary are left out.
    """
    deviations = []
    for wanted, seen in zip(remembered, found, strict=True):
        alive = wanted.variance > 1e-4 * np.median(wanted.variance)
        scale = np.sqrt(wanted.variance[alive])
        shift = (seen.mean - wanted.mean)[alive] / scale
        spread = np.sqrt(seen.variance[alive]) / scale - 1
        deviations.append(np.minimum(shift**2 + spread**2, 1.0))
    return deviations


def _distance(remembered: Sequence[_Statistics], found: Sequence[_Statistics]) -> float:
    """0 to 1: the root of the mean deviation of a layer's channels, averaged over the layers."""
    roots = [np.sqrt(layer.mean()) for layer in _deviations(remembered, found) if layer.size]
    return float(np.mean(roots)) if roots else 0.0


def _gain(
    remembered: Sequence[_Statistics],
    given: Sequence[_Statistics],
    made_good: Sequence[_Statistics],
) -> float:
    """-1 to 1: how consistently the channels come closer. Those that stay as they are do not count."""
    before = np.concatenate(_deviations(remembered, given))
    after = np.concatenate(_deviations(remembered, made_good))
    change = float(np.abs(before - after).sum())
    return float((before - after).sum()) / change if change > 0 else 0.0


class _AllSeenError(Exception):
    """The layers behind the last batch norm that is watched need not run."""


@torch.no_grad()
def _measure(
    backbone: nn.Module,
    norms: Sequence[nn.BatchNorm2d],
    images: Iterable[NDArray[np.float32]],  # [3, H, W] each
    count: int,
) -> _Moments:
    """What reaches `norms` with each of `count` images; nothing if one of them is not used."""
    # Made beforehand: small arrays that stay between large ones that go would keep the memory of these.
    moments = [torch.zeros(count, 2, norm.num_features, dtype=torch.float64) for norm in norms]
    seen: set[int] = set()

    def watch(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0][0].float().flatten(1)  # of the one image: [C, H * W]
            mean, square = moments[layer][number]
            mean.copy_(values.mean(dim=1))
            # torch.var_mean takes 19 times as long, and more than the convolutions do.
            square.copy_(torch.linalg.vector_norm(values, dim=1).square() / values.shape[1])
            seen.add(layer)
            if len(seen) == len(norms):
                raise _AllSeenError

        return look

    hooks = [norm.register_forward_pre_hook(watch(i)) for i, norm in enumerate(norms)]
    try:
        for number, image in enumerate(images):  # noqa: B007 (`look` uses it)
            seen.clear()
            with contextlib.suppress(_AllSeenError):
                backbone(torch.from_numpy(image).unsqueeze(0))
            if len(seen) < len(norms):
                return []
    finally:
        for hook in hooks:
            hook.remove()
    return [layer.numpy() for layer in moments]


def _pooled(moments: _Moments) -> list[_Statistics]:
    """Of all images together."""
    pooled = []
    for layer in moments:
        mean, square = layer.mean(axis=0)
        pooled.append(_Statistics(mean, np.maximum(square - mean**2, 0.0)))
    return pooled


def _trained_norms(backbone: nn.Module) -> list[nn.BatchNorm2d]:
    """The first batch norms, or none if their statistics do not come from training."""
    norms = [
        m
        for m in backbone.modules()
        if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None
    ]
    norms = norms[:LAYERS]
    batches = [0 if n.num_batches_tracked is None else int(n.num_batches_tracked) for n in norms]
    if any(0 < each < MIN_BATCHES for each in batches):
        return []
    is_fresh = all(
        not _numbers(norm.running_mean).any() and (_numbers(norm.running_var) == 1).all()
        for norm in norms
    )
    return [] if is_fresh else norms


def _numbers(values: Tensor | None) -> NDArray[np.float64]:
    assert values is not None
    return values.detach().double().cpu().numpy()
