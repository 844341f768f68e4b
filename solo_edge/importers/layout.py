"""What a foreign checkpoint layout is: how it is recognised and what its keys are called here."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Account", "Layout", "Rename", "constant"]

# Their pattern, and our name: a template with \1, or a function where a number must be computed.
Rename = tuple[str, str | Callable[[re.Match[str]], str]]

# Of every layout: pattern, and what it is.
IGNORED = ((r"(.+\.)?num_batches_tracked", "batch counters of the norms"),)


@dataclass(frozen=True)
class Account:
    """What becomes of every key of a file."""

    names: dict[str, str]  # their key -> our name
    ignored: dict[str, str]  # their key -> what it is
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The key names of one code base."""

    name: str  # as `--format` takes it
    title: str
    mark: str  # pattern of keys that no other layout has
    renames: Callable[[Collection[str]], Sequence[Rename]]  # from all keys of the file
    ignored: tuple[tuple[str, str], ...] = ()
    # Fields of `ModelConfig` that its models were trained with and that no shape tells.
    fields: Mapping[str, Any] = field(default_factory=dict)
    channels: Literal["rgb", "bgr"] = "rgb"  # order of the image's channels

    def marks(self, keys: Collection[str]) -> list[str]:
        """The keys by which the layout is recognised."""
        return [key for key in keys if re.match(self.mark, key)]

    def account(self, keys: Collection[str]) -> Account:
        table = self.renames(keys)
        names: dict[str, str] = {}
        ignored: dict[str, str] = {}
        unknown = []
        for key in keys:
            why = next((why for p, why in (*IGNORED, *self.ignored) if re.fullmatch(p, key)), None)
            if why is not None:
                ignored[key] = why
            elif (name := _rename(key, table)) is not None:
                names[key] = name
            else:
                unknown.append(key)
        return Account(names, ignored, tuple(unknown))


def constant(*renames: Rename) -> Callable[[Collection[str]], Sequence[Rename]]:
    """A table that is the same for every file."""
    return lambda keys: renames


def _rename(key: str, table: Sequence[Rename]) -> str | None:
    for pattern, name in table:
        if found := re.fullmatch(pattern, key):
            return name(found) if callable(name) else found.expand(name)
    return None
