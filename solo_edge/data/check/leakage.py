"""Images that occur twice: the same file, or nearly the same picture, in one split or in two."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from solo_edge.data.check.files import ImageFacts, Look
from solo_edge.data.defects import Defects
from solo_edge.data.fingerprint import ALIKE, NEAR
from solo_edge.files import sha256_of

__all__ = ["Seen", "find_copies", "groups_of_copies"]

BITS = 128  # of a fingerprint
ROWS = 1024  # fingerprints compared at a time with all others


@dataclass(frozen=True)
class Seen:
    """One image of one split."""

    split: str
    file_name: str
    facts: ImageFacts


def find_copies(images: Sequence[Seen], defects: Defects) -> None:
    """Note every image that is a copy of an earlier one, or looks nearly like it.

    An image is told once for each split that it meets its like in, with the nearest one there. Two
    records with one file in one split are no copies, but a defect of their own.
    """
    told: set[tuple[int, str]] = set()
    for one, other in _exact_pairs(images):
        first, again = images[one], images[other]
        told.add((other, first.split))
        if first.split != again.split or first.facts.path != again.facts.path:
            codes = ("image-duplicate", "leak-exact")
            _note(first, again, codes, "is the same file as", defects)
    nearest: dict[
        tuple[int, str], tuple[int, int]
    ] = {}  # (image, split of the other) -> (bits, other)
    for one, others, differing in _near_rows([image.facts.look for image in images]):
        for other, bits in zip(others.tolist(), differing.tolist(), strict=True):
            key = (other, images[one].split)
            if key not in told and bits < nearest.get(key, (BITS, 0))[0]:
                nearest[key] = (bits, one)
    for (other, _), (bits, one) in nearest.items():
        codes, words = ("image-near-duplicate", "leak-near"), f"looks like ({bits} of {BITS} bits)"
        _note(images[one], images[other], codes, words, defects)


def groups_of_copies(images: Sequence[Seen]) -> list[int]:
    """For each image, its group: copies and near copies share one, directly or through others."""
    group = np.arange(len(images))

    def join(one: int, others: NDArray[np.int64]) -> None:
        joined = np.unique(np.append(group[others], group[one]))
        if len(joined) > 1:
            group[np.isin(group, joined)] = joined[0]

    for one, other in _exact_pairs(images):
        join(one, np.array([other]))
    for one, others, _ in _near_rows([image.facts.look for image in images]):
        join(one, others)
    return [int(number) for number in group]


def _note(one: Seen, other: Seen, codes: tuple[str, str], words: str, defects: Defects) -> None:
    crosses = one.split != other.split
    what = f"{words} {one.split}/{one.file_name}"
    defects.note(codes[crosses], "file", f"{other.split}/{other.file_name}", what)


def _exact_pairs(images: Sequence[Seen]) -> Iterator[tuple[int, int]]:
    """Pairs of images whose files are equal: each with the first of its kind in each split.

    Only files of equal length are read.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        if not image.facts.is_embedded:
            by_length[image.facts.path.stat().st_size].append(i)
    for same_length in by_length.values():
        if len(same_length) < 2:
            continue
        firsts: dict[str, dict[str, int]] = defaultdict(dict)
        for i in same_length:
            digest = sha256_of(images[i].facts.path)
            for first in firsts[digest].values():
                yield first, i
            firsts[digest].setdefault(images[i].split, i)


def _near_rows(
    looks: Sequence[Look | None],
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """(i, all j > i that look nearly like it, differing bits) for each picture that has any.

    Pictures without any structure (all bits 0, one colour) look like nothing.
    """
    seen = [(i, look) for i, look in enumerate(looks) if look is not None and look.fingerprint]
    if not seen:
        return
    places = np.array([i for i, _ in seen], dtype=np.int64)
    marks = b"".join(look.fingerprint.to_bytes(BITS // 8, "big") for _, look in seen)
    bits = np.unpackbits(np.frombuffer(marks, dtype=np.uint8).reshape(-1, BITS // 8), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    thumbnails = np.stack([look.thumbnail for _, look in seen])
    for start in range(0, len(places), ROWS):
        # Equal bits add 1 to the product, others -1.
        differing = ((BITS - signs[start : start + ROWS] @ signs.T) / 2).astype(np.int64)
        for row, distances in enumerate(differing, start=start):
            near = row + 1 + np.flatnonzero(distances[row + 1 :] <= NEAR)
            near = near[thumbnails[near] @ thumbnails[row] >= ALIKE]
            if len(near):
                yield int(places[row]), places[near], distances[near]
