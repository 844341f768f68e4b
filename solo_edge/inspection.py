"""What is in an engine folder, a portable one or a checkpoint, and whether it is whole.

Needs neither torch nor a backend.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from solo_edge.errors import ArtifactError, SoloEdgeError, UsageError
from solo_edge.manifest import MANIFEST, read_manifest, verify
from solo_edge.portable_folder import (
    finishing_command,
    is_portable,
    read_portable,
    verify_portable,
)

__all__ = ["describe", "inspect_path", "read_safetensors_header"]

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


def inspect_path(path: Path) -> dict[str, Any]:
    """Facts about an engine folder, a portable one, a checkpoint or a run's best checkpoint, as JSON values.

    "kind" is "engine", "portable" or "checkpoint"; "problem" is None, or one line saying what is wrong
    with the files.

    Raises:
        UsageError: nothing there. ArtifactError: it is neither of them, or its description is unreadable.
    """
    if not path.exists():
        raise UsageError("nothing here", where=path, fix="check the path")
    if (path / MANIFEST).exists():
        return _engine(path)
    if is_portable(path):
        return _portable(path)
    if path.is_dir():
        for name in ("best.safetensors", "last.safetensors"):
            if (path / name).is_file():
                return _checkpoint(path / name)
        fix = "give an engine folder, a .safetensors file or the folder of a training run"
        raise ArtifactError("no engine and no checkpoint in this folder", where=path, fix=fix)
    return _checkpoint(path)


def describe(facts: dict[str, Any]) -> str:
    """The result of `inspect_path` as indented text, one fact on a line."""
    lines = [f"{facts['kind']} {facts['path']}"]
    for name, value in facts.items():
        if name not in ("kind", "path", "problem"):
            lines += _lines(name.replace("_", " "), value, 1)
    problem = facts["problem"]
    lines.append("verified: every file is whole" if problem is None else f"DAMAGED: {problem}")
    return "\n".join(lines)


def _lines(name: str, value: Any, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value:
        inner = [line for key, item in value.items() for line in _lines(key, item, depth + 1)]
        return [f"{indent}{name}:", *inner]
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, dict) for item in value):
            inner = [
                f"{indent}  {' '.join(f'{k}={_text(v)}' for k, v in i.items())}" for i in value
            ]
            return [f"{indent}{name}:", *inner]
        return [f"{indent}{name}: {_text(value)}"]
    return [f"{indent}{name}: {_text(value)}"]


def _text(value: Any, limit: int = 12) -> str:
    if isinstance(value, (list, tuple)):
        inner = [_text(item) for item in value[:limit]]
        inner = [
            f"({t})" if isinstance(v, (list, tuple)) else t
            for t, v in zip(inner, value, strict=False)
        ]
        shown = ", ".join(inner)
        return shown if len(value) <= limit else f"{shown} and {len(value) - limit} more"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None or value == {} else str(value)


def _engine(path: Path) -> dict[str, Any]:
    manifest = read_manifest(path)
    try:
        verify(path, manifest)
        problem = None
    except SoloEdgeError as error:
        problem = str(error)
    values = json.loads(json.dumps(dataclasses.asdict(manifest)))
    return {"kind": "engine", "path": str(path), **values, "problem": problem}


def _portable(path: Path) -> dict[str, Any]:
    content = read_portable(path)
    try:
        verify_portable(path, content)
        problem = None
    except SoloEdgeError as error:
        problem = str(error)
    return {
        "kind": "portable",
        "path": str(path),
        "state": "no engine yet: the device has to build it",
        "on_the_device": finishing_command(path),
        "target": content.target,
        **json.loads(json.dumps(dataclasses.asdict(content.manifest))),
        "problem": problem,
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    tensors, metadata = read_safetensors_header(path)
    try:
        ours = json.loads(metadata["solo_edge"]) if "solo_edge" in metadata else {}
        if not isinstance(ours, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise ArtifactError(f"damaged description ({error})", where=path) from None
    return {
        "kind": "checkpoint",
        "path": str(path),
        "made_by": "solo-edge" if ours else "another program",
        **{name: value for name, value in ours.items() if name not in ("kind", "path", "problem")},
        "tensors": len(tensors),
        "values": sum(_count(tensor["shape"]) for tensor in tensors.values()),
        "types": sorted({tensor["dtype"] for tensor in tensors.values()}),
        "size_bytes": path.stat().st_size,
        "problem": _extent_problem(path, tensors),
    }


def read_safetensors_header(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """(tensor name -> {dtype, shape, data_offsets}, metadata) of a safetensors file; no weight is read.

    The format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes.

    Raises:
        ArtifactError: it is not such a file, or its header is cut or makes no sense.
    """
    fix = "give a .safetensors file; this one may be damaged"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER_BYTES, path.stat().st_size - 8):
            raise ArtifactError("not a safetensors file", where=path, fix=fix)
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata are no texts")
        for name, tensor in header.items():
            start, end = tensor["data_offsets"]
            if end - start != _count(tensor["shape"]) * ITEM_BYTES[tensor["dtype"]]:
                raise ValueError(f"{name} has the wrong number of bytes")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"damaged safetensors header ({error})", where=path, fix=fix) from None
    return header, metadata


def _extent_problem(path: Path, tensors: dict[str, dict[str, Any]]) -> str | None:
    """None if the tensors fill the file from the header to its end without gap or overlap."""
    with path.open("rb") as file:
        data_start = 8 + int.from_bytes(file.read(8), "little")
    position = 0
    for start, end in sorted(tensor["data_offsets"] for tensor in tensors.values()):
        if start != position:
            return f"{path}: its tensors overlap or leave gaps"
        position = end
    missing = data_start + position - path.stat().st_size
    if missing > 0:
        return f"{path}: the file is cut, {missing} bytes are missing"
    return None if missing == 0 else f"{path}: {-missing} unknown bytes follow the tensors"


def _count(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
