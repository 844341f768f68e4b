"""Files written whole or not at all: beside their final name, flushed, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from solo_edge.errors import DataError, ResourceError, SoloEdgeError, UsageError

__all__ = ["atomic_file", "atomic_folder", "read_json", "sha256_of", "write_json", "writing"]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write `path` into a `ResourceError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            what, fix = "no permission to write here", "choose another place with -o/--out"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what, fix = "the disk is full", "free some space; what was there before is untouched"
        else:
            what, fix = f"cannot be written ({error.strerror or error})", "check the path"
        raise ResourceError(what, where=path, fix=fix) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block succeeds.

    A reader sees the old content or the new one, never a half. On any error the temporary file is
    removed and `path` is left as it was.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem[:80]}-", suffix=path.suffix
        )
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            # mkstemp and some writers make private files; give the mode an ordinary open() would.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; when the block succeeds it takes the place of `path`.

    A folder that stood there before is kept until the new one is complete.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:80]}-"))
        try:
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:80]}-old-"))
                path.replace(old / path.name)
                temporary.replace(path)
                shutil.rmtree(old)
            else:
                temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(
    path: Path, what: str = "JSON file", error: type[SoloEdgeError] = DataError
) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UsageError: there is no such file.
        DataError (or `error`): it is not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{what} not found", where=path, fix="check the path") from None
    except (ValueError, OSError, RecursionError) as cause:
        detail = cause.strerror if isinstance(cause, OSError) else str(cause)
        raise error(f"{what} is unreadable ({detail})", where=path, fix="check the file") from None
    if not isinstance(value, dict):
        raise error(f"{what} must hold an object", where=path, fix="check the file")
    return value


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
