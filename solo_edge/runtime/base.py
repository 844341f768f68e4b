"""What every backend looks like from outside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.errors import ArtifactError
from solo_edge.manifest import REBUILD, Precision, TensorSpec
from solo_edge.preprocess import Geometry

__all__ = ["FrameResult", "FrameRunner", "Runner", "StageTimes", "check_tensors"]


class StageTimes(NamedTuple):
    """Time of the parts of one call, in milliseconds."""

    preprocess_ms: float
    network_ms: float
    postprocess_ms: float

    @property
    def total_ms(self) -> float:
        return sum(self)


class FrameResult(NamedTuple):
    """The instances of one frame, best first."""

    labels: NDArray[np.int32]  # [N]
    scores: NDArray[np.float32]  # [N]
    probabilities: NDArray[np.float32]  # [N, h, w] at stride 4 of the network's input


class FrameRunner(Protocol):
    """What takes frames as they come and does everything up to the instances itself.

    Results are in memory that is used again `depth` frames later. Frames are collected in the order
    in which they were submitted; one thread may submit while another collects.
    """

    depth: int  # frames that may be under way at once

    def segment(
        self, image: NDArray[np.uint8], geometry: Geometry
    ) -> tuple[FrameResult, StageTimes]:
        """One frame all the way; no other may be under way."""

    def submit(self, image: NDArray[np.uint8], geometry: Geometry) -> None:
        """Send a frame, [H, W, 3] uint8 RGB, on its way. Nothing of `image` is kept."""

    def collect(self) -> tuple[FrameResult, StageTimes]:
        """Wait for the oldest frame under way."""

    def discard(self) -> None:
        """Wait for the frames that are under way, and forget them."""


class Runner(Closing):
    """A loaded network. Not for several threads at once; use it as a context manager or call `close`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fallback: Precision | None = (
        None  # what it computes in, if this machine lacks what was asked for
    )
    lasting: bool = False  # results stay as they are while `infer` is called once more
    frames: FrameRunner | None = None  # where frames need not pass through the host's preprocessing

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once.

        Args:
            inputs: an array of the right shape and type for every name in `self.inputs`.

        Returns:
            An array for every name in `self.outputs`. The next call may overwrite it, or if the runner is
            `lasting` the one after that: copy what must last.

        Raises:
            ValueError: a missing or unknown name, a wrong shape or type.
        """
        wanted = {spec.name: spec for spec in self.inputs}
        if inputs.keys() != wanted.keys():
            raise ValueError(f"inputs must be {sorted(wanted)}, got {sorted(inputs)}")
        for name, array in inputs.items():
            spec = wanted[name]
            if array.shape != spec.shape or array.dtype != np.dtype(spec.dtype):
                got = f"{array.dtype} {array.shape}"
                raise ValueError(f"{name} must be {spec.dtype} {spec.shape}, got {got}")
        return self._infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})

    @abstractmethod
    def _infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """`infer` with arrays that are known to fit and lie in one piece."""

    @abstractmethod
    def close(self) -> None:
        """Give back memory and devices. The runner cannot be used afterwards; closing twice is fine."""


def check_tensors(
    what: str, expected: Iterable[TensorSpec], found: Iterable[TensorSpec], where: Path
) -> None:
    """Raise ArtifactError unless a loaded file has exactly the tensors that its manifest promises."""
    wanted, there = ({spec.name: spec for spec in specs} for specs in (expected, found))
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            text = [
                f"{spec.dtype} {list(spec.shape)}" if spec else "absent"
                for spec in (wanted.get(name), there.get(name))
            ]
            problem = f"{what} {name!r} should be {text[0]} but is {text[1]}"
            raise ArtifactError(problem, where=where, fix=REBUILD)
