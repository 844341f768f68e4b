"""Errors that a user can act on, each kind with its own exit code.

    SoloEdgeError          1
    ├── UsageError         2  a mistyped command, option, preset or path that does not exist
    ├── DataError          3  an image, video or annotation file that cannot be read or makes no sense
    ├── ArtifactError      4  a checkpoint or engine that is damaged, foreign or does not fit this machine
    ├── SourceError        5  a camera or stream that cannot be opened or went away
    ├── ResourceError      6  no permission, no disk space, no memory, a missing optional package
    └── AccuracyError      7  a result that is not good enough to be published (NaN loss, INT8 gate)

Every message is one line: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "AccuracyError",
    "ArtifactError",
    "DataError",
    "ResourceError",
    "SoloEdgeError",
    "SourceError",
    "UsageError",
    "did_you_mean",
]


class SoloEdgeError(Exception):
    """An error with a cause, a place and a remedy.

    Args:
        what: what is wrong, as a phrase without a full stop.
        where: the file, option or source it concerns.
        fix: what the user can do, as an imperative phrase.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | Path | None = None, fix: str | None = None):
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        text = text if self.fix is None else f"{text}; {self.fix}"
        return " ".join(text.split())


class UsageError(SoloEdgeError):
    exit_code = 2


class DataError(SoloEdgeError):
    exit_code = 3


class ArtifactError(SoloEdgeError):
    exit_code = 4


class SourceError(SoloEdgeError):
    exit_code = 5


class ResourceError(SoloEdgeError):
    exit_code = 6


class AccuracyError(SoloEdgeError):
    exit_code = 7


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for a mistyped name: the nearest known one, else the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
