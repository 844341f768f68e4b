"""Reading the files in which Linux describes a machine. All of them may be absent."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

__all__ = ["SystemFiles"]

LARGEST_BYTES = 1 << 24  # the list of installed packages is the largest of them


class SystemFiles:
    """The files below `root`, which is "/" except in tests.

    Nothing here raises: a file that is absent, unreadable or of another form is None. Paths are written
    as on the machine, "/proc/cpuinfo".
    """

    def __init__(self, root: Path = Path("/")):
        self.root = root

    def text(self, path: str | Path) -> str | None:
        """The content without zero bytes and white space around it; None where there is none."""
        with contextlib.suppress(OSError), self._place(path).open("rb") as file:
            return file.read(LARGEST_BYTES).decode("utf-8", "replace").strip("\0\n\t ") or None
        return None

    def number(self, path: str | Path) -> int | None:
        """The whole number that the file holds."""
        content = self.text(path)
        return int(content) if content and re.fullmatch(r"-?\d+", content) else None

    def found(self, path: str, pattern: str) -> str | None:
        """The first group of a regular expression in the file, lines anchored by ^ and $."""
        match = re.search(pattern, self.text(path) or "", re.MULTILINE)
        return match.group(1).strip() if match else None

    def matching(self, pattern: str) -> list[Path]:
        """The paths that fit a pattern like "/sys/class/hwmon/hwmon*", 10 after 9."""
        with contextlib.suppress(OSError):
            return sorted(self.root.glob(pattern.lstrip("/")), key=_natural)
        return []

    def exists(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            return self._place(path).exists()
        return False

    def _place(self, path: str | Path) -> Path:
        # Paths of `matching` are below the root already.
        return path if isinstance(path, Path) else self.root / path.lstrip("/")


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D+)(\d*)", str(path))]
