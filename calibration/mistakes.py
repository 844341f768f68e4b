"""The usual mistakes in what a network is given, each with the way to make it good."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.config import IMAGENET_MEAN, IMAGENET_STD
from solo_edge.preprocess import Preprocess

__all__ = ["Mistake", "mistakes"]

Pixels = NDArray[np.uint8]  # [H, W, 3]
Triple = tuple[float, float, float]

# What networks are trained with: pixel_mean and pixel_std.
RECIPES: tuple[tuple[Triple, Triple], ...] = (
    (IMAGENET_MEAN, IMAGENET_STD),
    (IMAGENET_MEAN, (1.0, 1.0, 1.0)),  # Caffe
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),  # 0 to 255, as they are
    ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),  # 0 to 1
    ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),  # -1 to 1
)


@dataclass(frozen=True)
class Mistake:
    """One mistake. Images prepared with `preprocess` after `undo` are as if it had not been made."""

    what: str
    fix: str
    preprocess: Preprocess
    undo: Callable[[Pixels], Pixels] = lambda image: image
    of_colour: bool = False  # only the first layers tell the order of the channels
    of_size: bool = False  # may also be what the camera is like: never sure


def mistakes(preprocess: Preprocess) -> Iterator[Mistake]:
    """All that are known, the commonest first, for images that `preprocess` prepares."""
    yield Mistake(
        "red and blue look swapped (BGR for RGB)",
        "save the images as RGB; a network trained on BGR needs its first convolution's channels reversed",
        preprocess,
        undo=lambda image: image[..., ::-1],
        of_colour=True,
    )
    yield Mistake(
        "the colours look inverted",
        "calibrate with images as the camera gives them",
        preprocess,
        undo=lambda image: 255 - image,
    )
    yield from _sizes(preprocess)
    yield from _normalisations(preprocess)


def _sizes(preprocess: Preprocess) -> Iterator[Mistake]:
    fix = "calibrate with images as the camera gives them, at the input size of the training"
    height, width = (max(side // 64, 1) * 32 for side in preprocess.input_size)
    yield Mistake(
        "objects look about twice as large as in training",
        fix,
        dataclasses.replace(preprocess, input_size=(height, width)),
        of_size=True,
    )
    yield Mistake(
        "objects look about half as large as in training",
        fix,
        preprocess,
        undo=_middle,
        of_size=True,
    )


def _middle(image: Pixels) -> Pixels:
    """Half the height and width."""
    height, width = image.shape[:2]
    return image[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _normalisations(preprocess: Preprocess) -> Iterator[Mistake]:
    """The recipes, and what the checkpoint says with one part of it mistaken."""
    mean, std = preprocess.pixel_mean, preprocess.pixel_std
    changed = [
        ((0.0, 0.0, 0.0), std),
        (mean, (1.0, 1.0, 1.0)),
        (_times(mean, 255.0), _times(std, 255.0)),
    ]
    tried = {(mean, std)}
    for other_mean, other_std in (*RECIPES, *changed):
        if (other_mean, other_std) in tried:
            continue
        tried.add((other_mean, other_std))
        other = dataclasses.replace(preprocess, pixel_mean=other_mean, pixel_std=other_std)
        fits = f"pixel_mean {_show(other_mean)} and pixel_std {_show(other_std)} fit"
        yield Mistake(
            f"{_difference(preprocess, other)}: {fits}, not {_show(mean)} and {_show(std)}",
            "correct pixel_mean and pixel_std of the checkpoint",
            other,
        )


def _difference(written: Preprocess, fitting: Preprocess) -> str:
    """What is wrong with how the checkpoint was written down."""
    parts = []
    if not any(written.pixel_mean):
        parts.append("the mean is not subtracted")
    elif not any(fitting.pixel_mean):
        parts.append("a mean is subtracted that training did not subtract")
    ratio = fitting.pixel_std[0] / written.pixel_std[0]
    if not 0.8 < ratio < 1.25:
        size = f"{ratio:.3g} times too large" if ratio > 1 else f"{1 / ratio:.3g} times too small"
        parts.append(f"the pixels are {size}")
        if 200 < max(ratio, 1 / ratio) < 300:
            parts[-1] += (
                " (not divided by 255)" if ratio > 1 else " (divided by 255 once too often)"
            )
    return " and ".join(parts) or "another mean is subtracted than in training"


def _times(values: Triple, factor: float) -> Triple:
    return values[0] * factor, values[1] * factor, values[2] * factor


def _show(values: Triple) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"
