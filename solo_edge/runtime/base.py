"""What every backend looks like from outside."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.closing import Closing
from solo_edge.errors import ArtifactError
from solo_edge.manifest import REBUILD, Precision, TensorSpec

__all__ = ["Runner", "check_tensors"]


class Runner(Closing):
    """A loaded network. Not for several threads at once; use it as a context manager or call `close`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fallback: Precision | None = (
        None  # what it computes in, if this machine lacks what was asked for
    )

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network once.

        Args:
            inputs: an array of the right shape and type for every name in `self.inputs`.

        Returns:
            An array for every name in `self.outputs`. The next call may overwrite it: copy what must last.

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
