"""One line of the diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Check", "Status"]

# info: a fact, or something that this machine does not need. warning: works, but slower than it could,
# or soon not any more.
Status = Literal["ok", "info", "warning", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """What was looked at and what came of it."""

    id: str  # stable: "gpu", "opencv", "backend-tensorrt"
    status: Status
    text: str  # what was found, for people
    value: Mapping[str, Any] = field(default_factory=dict)  # the same for programs; plain JSON
    fix: str | None = None  # the command that helps on this machine
