"""What several tests of data sets share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_edge.data.check import check_dataset


def picture(seed: int, size: tuple[int, int] = (60, 80)) -> Image.Image:
    """Soft blobs that no other seed has; `size` is (height, width)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


@pytest.fixture
def paint() -> Callable[..., Path]:
    """paint(file, seed, size) -> the file with a picture in it."""

    def write(file: Path, seed: int = 0, size: tuple[int, int] = (60, 80), **options) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size).save(file, **options)
        return file

    return write


@pytest.fixture
def tree_digest() -> Callable[[Path], str]:
    """tree_digest(folder) -> changes when any file in it is added, renamed, touched or changed."""

    def digest(folder: Path) -> str:
        found = hashlib.sha256()
        for file in sorted(folder.rglob("*")):
            facts = file.stat()
            content = file.read_bytes() if file.is_file() else b""
            line = f"{file.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns} {facts.st_mode}"
            found.update(line.encode() + content)
        return found.hexdigest()

    return digest


@pytest.fixture
def codes_of() -> Callable[[Path], dict[str, int]]:
    """codes_of(folder) -> how often each kind of defect is found in it, in all splits together."""

    def count(folder: Path) -> dict[str, int]:
        found: Counter[str] = Counter()
        for _, defects in check_dataset(folder).all_defects():
            found.update({kind.code: len(findings) for kind, findings in defects.found()})
        return dict(found)

    return count
