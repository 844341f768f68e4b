"""`data.yaml` of YOLO data sets: class names, and where the images of each split are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from solo_edge.errors import ResourceError

__all__ = ["DataYaml", "read_data_yaml"]

MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class DataYaml:
    """What could be used of the file; `problem` says what is wrong with the rest."""

    file: Path | None = None
    names: list[str] = field(default_factory=list)
    splits: dict[str, list[Path]] = field(
        default_factory=dict
    )  # folders, or text files that list images
    problem: str | None = None


def read_data_yaml(file: Path, folder: Path) -> DataYaml:
    """Read the YAML file of the data set in `folder`; nothing outside of that is used.

    Raises:
        ResourceError: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        what, fix = "the classes are in a YAML file, which needs PyYAML", "pip install pyyaml"
        raise ResourceError(what, where=file, fix=fix) from error
    try:
        if file.stat().st_size > MAX_BYTES:
            return DataYaml(file, problem=f"larger than {MAX_BYTES >> 20} MiB")
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return DataYaml(file, problem=" ".join(f"no YAML ({error})".split())[:200])
    if not isinstance(content, dict):
        return DataYaml(file, problem="it holds no keys")
    names = _names(content.get("names"))
    splits: dict[str, list[Path]] = {}
    lost = []
    for split in ("train", "val", "test"):
        values = content.get(split)
        for value in values if isinstance(values, list) else [values]:
            place = _inside(value, content.get("path"), file.parent, folder)
            if place is not None:
                splits.setdefault(split, []).append(place)
            elif value:
                lost.append(f"{split}: {value!s:.80}")
    problem = f"not found in the data set: {', '.join(lost)}" if lost else None
    problem = problem if names is not None else "'names' is no list of class names"
    return DataYaml(file, names or [], splits, problem)


def _names(value: Any) -> list[str] | None:
    """Names by number; None if the value is something else. Numbers without a name get "class N"."""
    if isinstance(value, dict) and value and all(type(key) is int for key in value):
        if not 0 <= min(value) <= max(value) < 100_000:
            return None
        return [str(value.get(i, f"class {i}")) for i in range(max(value) + 1)]
    if isinstance(value, list) and value:
        return [str(name) for name in value]
    return None


def _inside(value: Any, base: Any, beside: Path, folder: Path) -> Path | None:
    """The place that a path in the file means, if it exists inside the data set.

    Relative to `path`, else to the file, else without the leading "..", which some exports have too
    many of.
    """
    if not isinstance(value, str) or not value or "\0" in value:
        return None
    stripped = value.replace("\\", "/")
    while stripped.startswith(("../", "./")):
        stripped = stripped.partition("/")[2]
    bases = [beside / base] if isinstance(base, str) and "\0" not in base else []
    for place in [*(each / value for each in bases), beside / value, beside / stripped]:
        if place.exists() and place.resolve().is_relative_to(folder.resolve()):
            # Paths of files are told relative to the data set's folder.
            return folder / place.resolve().relative_to(folder.resolve())
    return None
