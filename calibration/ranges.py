"""The file of a calibration: the range of every tensor, and what it was measured with."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import solo_edge
from solo_edge.errors import ArtifactError
from solo_edge.files import read_json, write_json
from solo_edge.preprocess import Preprocess

__all__ = ["FORMAT", "Ranges", "read_ranges"]

FORMAT = 2  # 2: by site
FIX = "run solo-edge calibrate again"


@dataclass(frozen=True)
class Ranges:
    """What `solo-edge calibrate` writes. `limits` holds the absolute value that becomes 127."""

    checkpoint_sha256: str
    preprocess: dict[str, Any]  # Preprocess.to_dict()
    method: str
    percentile: float
    images: tuple[tuple[str, str], ...]  # file name, SHA-256
    limits: dict[str, float]  # by site, see solo_edge.calibration.qdq
    excluded: tuple[str, ...] = ()  # weights (as in the graph) whose convolutions stay in float
    bias_shifts: dict[str, list[float]] = field(default_factory=dict)  # by call of a convolution
    solo_edge: str = solo_edge.__version__
    format: int = FORMAT

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        write_json(path, dataclasses.asdict(self))

    @property
    def images_digest(self) -> str:
        """One SHA-256 for all images, in whatever order they came."""
        digests = sorted(digest for _, digest in self.images)
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def require_fit(self, checkpoint_sha256: str, preprocess: Preprocess, where: Path) -> None:
        """Raise ArtifactError if they were measured with another model or other preprocessing."""
        for name, value in preprocess.to_dict().items():
            if self.preprocess.get(name) != list(value):
                what = f"these ranges were measured with {name} {self.preprocess.get(name)}"
                raise ArtifactError(
                    f"{what}, the checkpoint has {list(value)}", where=where, fix=FIX
                )
        if self.checkpoint_sha256 != checkpoint_sha256:
            what = "these ranges were measured with another checkpoint"
            raise ArtifactError(what, where=where, fix=FIX)


def read_ranges(path: Path) -> Ranges:
    """Read and check a file of `Ranges.save`.

    Raises:
        UsageError: there is no such file.
        ArtifactError: it is something else, damaged, or of another version.
    """
    values: dict[str, Any] = read_json(path, "file of ranges", ArtifactError)
    if values.get("format") != FORMAT:
        what = f"no file of ranges that this version reads (format {values.get('format')!r})"
        raise ArtifactError(what, where=path, fix=FIX)
    names = {field.name for field in dataclasses.fields(Ranges)}
    if values.keys() != names:
        name = sorted(values.keys() ^ names)[0]
        raise ArtifactError(f"the field {name!r} is missing or unknown", where=path, fix=FIX)
    try:
        limits = {str(name): float(limit) for name, limit in values["limits"].items()}
        images = tuple((str(name), str(digest)) for name, digest in values["images"])
        percentile = float(values["percentile"])
        excluded = tuple(map(str, values["excluded"]))
        shifts = {
            str(call): [float(value) for value in row]
            for call, row in values["bias_shifts"].items()
        }
        preprocess = Preprocess.from_dict(values["preprocess"]).to_dict()
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ArtifactError(f"damaged ({error})", where=path, fix=FIX) from None
    for name, limit in limits.items():
        if not (math.isfinite(limit) and limit > 0):
            raise ArtifactError(f"the range of {name} is {limit}", where=path, fix=FIX)
    checked = {"limits": limits, "images": images, "percentile": percentile, "excluded": excluded}
    checked["bias_shifts"] = shifts
    return Ranges(
        **{**values, **checked, "preprocess": {k: list(v) for k, v in preprocess.items()}}
    )
