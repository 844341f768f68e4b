"""What can be wrong with a data set: one table of kinds, and a collector that never stops at the first.

Reading for training and `solo-edge check-data` share both, so that what blocks the one is what the
other names, by the same code.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from solo_edge.data.defect_kinds import KINDS, Kind
from solo_edge.errors import DataError

__all__ = ["DefectiveError", "Defects", "Finding", "advice"]

Noun = Literal["annotation", "image", "category", "file", "data"]


class DefectiveError(Exception):
    """One record is wrong: the kind, and the words for this one where they say more than its title."""

    def __init__(self, code: str, detail: str | None = None):
        super().__init__(code, detail)
        self.kind = KINDS[code]
        self.detail = detail or self.kind.title


@dataclass(frozen=True)
class Finding:
    """One defect of one record."""

    place: str  # for people: "annotation 17", "labels/a.txt line 3"
    noun: Noun
    key: int | str | None  # the record's id, or a file's name
    detail: str


@dataclass
class Defects:
    """What was found in one split, by kind and in the order of the table.

    Args:
        where: the annotation file or folder.
        folder: the data set, for the advice to check it.
        places: (noun, id) -> how people find that record, where the file has no ids of its own.
    """

    where: Path
    folder: Path
    places: Mapping[tuple[str, int], str] = field(default_factory=dict)
    by_code: dict[str, list[Finding]] = field(default_factory=dict)

    def note(self, code: str, noun: Noun, key: int | str | None, detail: str | None = None) -> None:
        """Remember one defect.

        Args:
            code: a key of `KINDS`.
            noun: what kind of record it is, with its id or file name in `key`.
            detail: what is wrong with this one; the kind's title if that says it all.
        """
        finding = Finding(self.place(noun, key), noun, key, detail or KINDS[code].title)
        self.by_code.setdefault(code, []).append(finding)

    def place(self, noun: Noun, key: int | str | None) -> str:
        """How people find a record."""
        if noun in ("file", "data"):
            return str(key)
        return self.places.get((noun, key), f"{noun} {key}") if isinstance(key, int) else str(key)

    def note_error(self, error: DefectiveError, noun: Noun, key: int | str) -> None:
        self.note(error.kind.code, noun, key, error.detail)

    def found(self, *severities: str) -> list[tuple[Kind, list[Finding]]]:
        """The kinds that were found, of these severities or of all."""
        wanted = severities or ("error", "warning", "note")
        return [
            (kind, self.by_code[kind.code])
            for kind in KINDS.values()
            if kind.severity in wanted and kind.code in self.by_code
        ]

    def count(self, severity: str) -> int:
        return sum(len(findings) for _, findings in self.found(severity))

    def warnings(self) -> list[str]:
        """A line for each kind of warning: how often, and the first in words."""
        return [
            f"{self.where.name}: {_times(len(findings))}{self._words(findings[0])} [{kind.code}]"
            for kind, findings in self.found("warning")
        ]

    def raise_if_errors(self) -> None:
        """
        Raises:
            DataError: there was an error; the message has the first in words and counts the others.
        """
        kinds = ((KINDS[code], findings) for code, findings in self.by_code.items())
        errors = [(kind, findings) for kind, findings in kinds if kind.severity == "error"]
        if not errors:
            return
        (kind, findings), *others = errors
        first = findings[0]
        more = [f"{len(findings) - 1} more of this kind"] if len(findings) > 1 else []
        more += [f"{len(same)} x {other.code}" for other, same in others]
        what = f"{self._words(first)} [{kind.code}]"
        what = f"{what} (and {', '.join(more)})" if more else what
        raise DataError(what, where=self.where, fix=advice(self.folder))

    def _words(self, finding: Finding) -> str:
        """What is wrong and with which record, for a line that names the file already."""
        same = finding.place == self.where.name
        return finding.detail if same else f"{finding.place}: {finding.detail}"


def advice(folder: Path) -> str:
    """The remedy for a data set with errors."""
    return f"solo-edge check-data {shlex.quote(str(folder))} lists everything and how to mend it"


def _times(count: int) -> str:
    return f"{count} x, first " if count > 1 else ""
