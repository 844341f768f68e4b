"""Portable folders: everything for a TensorRT engine but the plan, which only the device can build.

    name.portable/
        portable.json    the manifest of the engine as far as it is known, with the SHA-256 of the others
        model.onnx       the graph; types and INT8 pairs lie in it
        self-check.npz   an image, and what the PyTorch model finds in it
        kernels.json     graph "network": our kernels, with the files that it names

As with engines, a digest finds accidents and not malice.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solo_edge.errors import ArtifactError, UsageError
from solo_edge.files import atomic_folder, read_json, write_json
from solo_edge.manifest import MAX_MANIFEST_BYTES, Manifest, decode_manifest, verify

__all__ = [
    "CHECK",
    "COPY_AGAIN",
    "GRAPH",
    "PORTABLE",
    "Portable",
    "finishing_command",
    "is_portable",
    "portable_folder",
    "read_portable",
    "refuse_portable",
    "verify_portable",
    "write_portable",
]

FORMAT = 1
PORTABLE = "portable.json"
GRAPH = "model.onnx"
CHECK = "self-check.npz"
SUFFIX = ".portable"
COPY_AGAIN = "copy the whole folder again, or make it again with --portable"


@dataclass(frozen=True)
class Portable:
    """What `portable.json` says."""

    target: str  # GPU that the kernels were compiled for, "sm_87"
    manifest: Manifest  # of the engine; versions, machine and files are those of this folder


def is_portable(folder: Path) -> bool:
    return (folder / PORTABLE).is_file()


def finishing_command(folder: Path) -> str:
    """The command that makes an engine of a portable folder, for a shell."""
    name = folder.resolve().name.removesuffix(SUFFIX)
    return f"solo-edge build-engine {shlex.quote(str(folder))} -o {shlex.quote(name)}.engine"


def refuse_portable(folder: Path) -> None:
    """Raise ArtifactError if `folder` is a portable one, which cannot be run yet."""
    if is_portable(folder):
        what = "this is a portable folder, of which the device has yet to build the engine"
        raise ArtifactError(what, where=folder, fix=f"there: {finishing_command(folder)}")


@contextmanager
def portable_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes the portable folder `path` when the block succeeds.

    A portable folder that stood there before is replaced. Nothing else is.

    Raises:
        UsageError: `path` is a file, or a folder that holds anything else.
    """
    fix = f"choose another name with -o/--out, such as NAME{SUFFIX}"
    if path.suffix == ".engine":
        raise UsageError("what --portable writes is no engine yet", where=path, fix=fix)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        what = "there is something here that is no portable folder"
        raise UsageError(what, where=path, fix=fix)
    if path.exists() and (present := {entry.name for entry in path.iterdir()}):
        try:
            known = {PORTABLE, *read_portable(path).manifest.files}
        except ArtifactError as error:
            what = f"not known to be a portable folder ({error.what}); it is left as it is"
            raise UsageError(what, where=path, fix=fix) from None
        if extra := sorted(present - known):
            what = f"this folder also holds {extra[0]!r}, which is not of it; it is left as it is"
            raise UsageError(what, where=path, fix=fix)
    with atomic_folder(path) as temporary:
        yield temporary


def write_portable(folder: Path, portable: Portable) -> None:
    """Write `portable.json`, after the same checks that reading it makes."""
    values = {"format": FORMAT, **json.loads(json.dumps(dataclasses.asdict(portable)))}
    _decode(values, folder / PORTABLE)
    write_json(folder / PORTABLE, values)


def read_portable(folder: Path) -> Portable:
    """Read and check `portable.json`; the other files are not touched.

    Raises:
        UsageError: there is nothing at `folder`.
        ArtifactError: it is no portable folder, or a field makes no sense; the message names it.
    """
    path = folder / PORTABLE
    if not folder.exists():
        raise UsageError("portable folder not found", where=folder, fix="check the path")
    if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
        fix = "make one: solo-edge build-engine CHECKPOINT --portable orin -o NAME.portable"
        raise ArtifactError("this is not a portable folder", where=folder, fix=fix)
    values = read_json(path, "description of the portable folder", ArtifactError)
    return _decode(values, path)


def _decode(values: dict[str, Any], path: Path) -> Portable:
    if values.get("format") != FORMAT:
        what = f"format {values.get('format')!r} is unknown, this version reads {FORMAT}"
        raise ArtifactError(what, where=path, fix="use the same solo-edge on both machines")
    target, inner = values.get("target"), values.get("manifest")
    if not isinstance(target, str) or not isinstance(inner, dict):
        what = "field 'target' or 'manifest' is missing or of the wrong type"
        raise ArtifactError(what, where=path, fix=COPY_AGAIN)
    try:
        manifest = decode_manifest(inner, path, GRAPH)
    except (ArtifactError, RecursionError) as error:
        what = error.what if isinstance(error, ArtifactError) else "nested too deeply"
        raise ArtifactError(what, where=path, fix=COPY_AGAIN) from None
    if manifest.backend != "tensorrt" or CHECK not in manifest.files:
        what = f"the backend must be tensorrt, and the files must list {CHECK!r}"
        raise ArtifactError(what, where=path, fix=COPY_AGAIN)
    return Portable(target, manifest)


def verify_portable(folder: Path, portable: Portable) -> None:
    """Check size and SHA-256 of every file.

    Raises:
        ArtifactError: a file is missing, is a link, or differs from what was made.
    """
    try:
        verify(folder, portable.manifest)
    except ArtifactError as error:
        raise ArtifactError(error.what, where=error.where, fix=COPY_AGAIN) from None
