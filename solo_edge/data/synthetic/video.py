"""A table on which things move: the pictures of `render_scene`, as a film without end."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.synthetic.camera import Camera, random_light
from solo_edge.data.synthetic.objects import CLASS_NAMES, build
from solo_edge.data.synthetic.parts import Blueprint
from solo_edge.data.synthetic.scene import (
    Scene,
    littered_table,
    random_length,
    smallest_length,
)
from solo_edge.data.synthetic.sprite import render_sprite
from solo_edge.errors import ResourceError, UsageError
from solo_edge.files import atomic_file

__all__ = ["SceneAnimation", "render_video"]

_FILM = 2  # seed branch; 0 and 1 belong to the two splits of a data set
_RESIDENTS = 6  # objects that stay in the picture
_TRAVELLERS = 3  # objects that cross it
_LONGEST = 84.0  # pixels of a 256-pixel scene; larger things would hide the others for seconds


@dataclass(frozen=True)
class _Actor:
    """One object and how it moves. Places are fractions of the picture, (x, y); time runs from 0 to 1."""

    label: int
    blueprint: Blueprint
    length: float  # long side in pixels of a 256-pixel scene
    mirrored: bool
    start: NDArray[np.float64]  # place at time 0, or the middle of the swing
    travel: NDArray[np.float64]  # way across the picture in one period; 0: stays
    swing: NDArray[np.float64]  # amplitude in x and y
    pace: NDArray[np.int64]  # swings in x and y per period
    phase: NDArray[
        np.float64
    ]  # of the swings in x and y and of the wobble, radians; then of the travel
    angle: float
    turns: int  # whole turns per period
    wobble: float  # radians

    def pose(self, time: float) -> tuple[float, float, float]:
        """x, y and angle at a time."""
        along = (time + self.phase[3]) % 1.0
        cycle = 2.0 * np.pi * time
        x, y = (
            self.start
            + along * self.travel
            + self.swing * np.sin(self.pace * cycle + self.phase[:2])
        )
        tilt = self.wobble * np.sin(cycle + self.phase[2])
        return float(x), float(y), float(self.angle + self.turns * cycle + tilt)

    def passage(self, periods: float) -> int:
        """How often it has begun to cross the picture by then; always 0 for what stays."""
        return int(np.floor(periods + self.phase[3])) if self.travel.any() else 0


class SceneAnimation:
    """Objects that drift, turn, overlap, enter and leave. Time t and t + `period` show the same.

    Frames may be asked for in any order; each depends on the seed, the size and its time alone.

    Args:
        seed: not negative.
        size: (height, width) in pixels, at least 64 each.

    Raises:
        ValueError: `size` is too small.
    """

    period = 16.0  # seconds

    def __init__(self, seed: int, size: tuple[int, int] = (384, 384)):
        if min(size) < 64:
            raise ValueError(f"size must be at least 64 x 64 pixels, got {size}")
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_FILM,)))
        self.seed = seed
        self.size = size
        self._table = littered_table(rng, size, random_light(rng))
        labels = rng.permutation(len(CLASS_NAMES)).tolist()
        count = _RESIDENTS + _TRAVELLERS
        labels = (labels * (count // len(labels) + 1))[:count]
        self._actors = [
            *(_resident(rng, label, k) for k, label in enumerate(labels[:_RESIDENTS])),
            *(_traveller(rng, label) for label in labels[_RESIDENTS:]),
        ]
        self._actors = [self._actors[k] for k in rng.permutation(count)]
        self._camera = dataclasses.replace(Camera.random(rng, size), blur=0.0)

    def frame(self, t: float) -> tuple[NDArray[np.uint8], Scene]:
        """The picture at `t` seconds, [H, W, 3] RGB, and what is in it.

        The scene's masks hold every object of which a pixel shows, also one that is just entering.
        What leaves the picture and comes again gets a new identity.
        """
        height, width = self.size
        unit = min(self.size) / 256.0
        canvas = self._table.copy()
        labels, identities = [], []
        for number, actor in enumerate(self._actors):
            x, y, angle = actor.pose(t / self.period % 1.0)
            across, down = x * width, y * height
            reach = actor.length * unit
            if not (-reach < across < width + reach and -reach < down < height + reach):
                continue
            column, row = int(np.floor(across)), int(np.floor(down))
            sprite = render_sprite(
                actor.blueprint,
                actor.length * unit,
                angle,
                canvas.light,
                offset=(across - column, down - row),
                mirrored=actor.mirrored,
                supersample=2,
            )
            canvas.lay(sprite, row, column, instance=True)
            labels.append(actor.label)
            identities.append(number + len(self._actors) * actor.passage(t / self.period))
        grain = np.random.default_rng((self.seed, round(1000.0 * (t % self.period))))
        image = self._camera.shoot(canvas.picture, grain)
        masks = canvas.masks()
        seen = masks.any(axis=(1, 2))
        scene = Scene(
            image,
            masks[seen],
            np.array(labels, dtype=np.int64)[seen],
            np.array(identities, dtype=np.int64)[seen],
        )
        return image, scene


def _resident(rng: np.random.Generator, label: int, place: int) -> _Actor:
    """An object that drifts about one of the places of a ring."""
    way = 2.0 * np.pi * (place + rng.uniform(-0.25, 0.25)) / _RESIDENTS
    far = rng.uniform(0.22, 0.34)
    start = np.array([0.5 + far * np.cos(way), 0.5 + far * np.sin(way)])
    swing = rng.uniform(0.05, 0.14, 2)
    return _actor(rng, label, start, np.zeros(2), swing)


def _traveller(rng: np.random.Generator, label: int) -> _Actor:
    """An object that crosses the picture from edge to edge."""
    way = rng.uniform(0.0, 2.0 * np.pi)
    along = np.array([np.cos(way), np.sin(way)])
    across = np.array([-along[1], along[0]]) * rng.uniform(-0.25, 0.25)
    return _actor(rng, label, 0.5 + across - 1.1 * along, 2.2 * along, rng.uniform(0.0, 0.05, 2))


def _actor(
    rng: np.random.Generator,
    label: int,
    start: NDArray[np.float64],
    travel: NDArray[np.float64],
    swing: NDArray[np.float64],
) -> _Actor:
    return _Actor(
        label=label,
        blueprint=build(label, rng),
        length=max(min(random_length(label, rng), _LONGEST), 1.3 * smallest_length(label)),
        mirrored=bool(rng.random() < 0.5),
        start=start,
        travel=travel,
        swing=swing,
        pace=rng.integers(1, 3, 2),
        phase=np.append(rng.uniform(0.0, 2.0 * np.pi, 3), rng.uniform(0.0, 1.0)),
        angle=rng.uniform(0.0, 2.0 * np.pi),
        turns=int(rng.integers(-1, 2)),
        wobble=rng.uniform(0.2, 0.7),
    )


def render_video(
    path: Path, frames: int, seed: int, size: tuple[int, int] = (384, 384), fps: float = 25.0
) -> None:
    """Write a `SceneAnimation` as an H.264 film. `path` is replaced when the film is complete.

    The default is square so that a square network input loses nothing to padding.

    Args:
        path: ends in .mp4, .mkv, .mov or .avi.
        frames: how many, at least one; `SceneAnimation.period` * `fps` make one round.
        seed: not negative.
        size: (height, width) in pixels, even, at least 64 each.
        fps: frames per second.

    Raises:
        UsageError: a number or a file name that makes no sense.
        ResourceError: `path` cannot be written, or PyAV or its H.264 encoder is missing.
    """
    if frames < 1 or fps <= 0.0 or seed < 0:
        raise UsageError(
            f"{frames} frames at {fps} per second with seed {seed} make no film",
            fix="give positive numbers",
        )
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise UsageError(
            f"a film of {size[0]} x {size[1]} pixels is not possible",
            fix="give even numbers from 64 on",
        )
    if path.suffix.lower() not in (".mp4", ".mkv", ".mov", ".avi"):
        raise UsageError("not the name of a film", where=path, fix="use .mp4, .mkv, .mov or .avi")
    try:
        import av
    except ModuleNotFoundError:
        raise ResourceError("the package av is missing", fix="pip install av") from None
    if "libx264" not in av.codecs_available:
        raise ResourceError(
            "PyAV has no H.264 encoder here", fix="install PyAV from PyPI: pip install av"
        )
    animation = SceneAnimation(seed, size)
    with atomic_file(path) as temporary, av.open(str(temporary), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for index in range(frames):
            image, _ = animation.frame(index / fps)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
