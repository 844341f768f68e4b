"""YAML values that know their line, for messages that lead to the mistake."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo_edge.errors import DataError, ResourceError, UsageError, did_you_mean

__all__ = ["Place", "read_yaml"]

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """One node of the file."""

    path: Path
    what: str  # the way to it, as people say it: zones[0].points
    node: Any  # of PyYAML

    def error(self, problem: str, fix: str) -> DataError:
        named = f"{self.what}: {problem}" if self.what else problem
        line = self.node.start_mark.line + 1
        return DataError(named, where=f"{self.path}, line {line}", fix=fix)

    def mapping(self, known: Sequence[str], *, needed: Sequence[str] = ()) -> dict[str, Place]:
        """The values by key.

        Raises:
            DataError: no mapping, an unknown or repeated key, or a needed one is missing.
        """
        if self.node.id != "mapping":
            raise self.error("must be keys with values", f"use {', '.join(known)}")
        values: dict[str, Place] = {}
        for key_node, node in self.node.value:
            key = str(key_node.value)[:60] if key_node.id == "scalar" else "?"
            # The place of the key: that of its value may be lines below.
            key_place = Place(self.path, self.what, key_node)
            if key not in known:
                raise key_place.error(f"unknown key {key!r}", did_you_mean(key, known))
            if key in values:
                raise key_place.error(f"{key!r} comes twice", "remove one")
            values[key] = Place(self.path, f"{self.what}.{key}" if self.what else key, node)
        for key in needed:
            if key not in values:
                raise self.error(f"{key!r} is missing", "add it")
        return values

    def items(self, limit: int = 1000) -> list[Place]:
        """The values of a list of at most so many."""
        if self.node.id != "sequence":
            raise self.error("must be a list", "write [a, b] or lines that begin with '-'")
        if len(self.node.value) > limit:
            raise self.error(f"has {len(self.node.value)} entries", f"{limit} are possible")
        return [
            Place(self.path, f"{self.what}[{k}]", node) for k, node in enumerate(self.node.value)
        ]

    def text(self) -> str:
        value = self._scalar()
        if not isinstance(value, str):
            raise self.error(f"must be a text, not {value!r}", "put it in quotes")
        return value

    def number(self) -> float:
        """A finite number."""
        value = self._scalar()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(f"must be a number, not {value!r}", "write it like 0.5")
        if not math.isfinite(value):
            raise self.error(f"must be a finite number, not {value!r}", "write it like 0.5")
        return float(value)

    def text_or_index(self) -> str | int:
        """A text, or a whole number from 0 on."""
        value = self._scalar()
        if isinstance(value, str) or (type(value) is int and value >= 0):
            return value
        raise self.error(f"must be a name or a number from 0 on, not {value!r}", "correct it")

    def one_of(self, choices: Sequence[str]) -> Any:
        value = self._scalar()
        if value not in choices:
            raise self.error(f"{value!r} is not possible", did_you_mean(str(value)[:60], choices))
        return value

    def _scalar(self) -> Any:
        import yaml

        if self.node.id != "scalar":
            raise self.error("must be a single value", "remove the list or keys")
        try:
            return yaml.SafeLoader("").construct_object(self.node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(f"cannot be understood ({error})", "put texts in quotes") from None


def read_yaml(path: Path) -> Place:
    """The top of a YAML file. Nothing but plain values is ever made of it, and only of those asked for.

    Raises:
        UsageError: there is no such file. DataError: it is no YAML. ResourceError: PyYAML is missing.
    """
    try:
        import yaml
    except ImportError as error:
        what, fix = "zones are a YAML file, which needs PyYAML", "pip install pyyaml"
        raise ResourceError(what, where=path, fix=fix) from error
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UsageError("file not found", where=path, fix="check the path") from None
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise DataError(what, where=path, fix="give a readable YAML file") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"larger than {MAX_BYTES >> 20} MiB", where=path, fix="give a zone file")
    try:
        node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else path
        what = f"no valid YAML ({error.problem})"
        raise DataError(what, where=where, fix="check brackets and indentation") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = f"no valid YAML ({' '.join(str(error).split())[:100]})"
        raise DataError(what, where=path, fix="give a zone file") from None
    if node is None:
        raise DataError("the file is empty", where=path, fix="add 'zones:' or 'lines:'")
    return Place(path, "", node)
