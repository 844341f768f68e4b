from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from solo_edge.errors import ArtifactError, DataError, ResourceError, SoloEdgeError, UsageError
from solo_edge.files import atomic_file, atomic_folder, read_json, sha256_of, write_json


def test_messages_are_one_line() -> None:
    error = DataError("two\nlines", where="a.jpg", fix="look\n  at it")
    assert str(error) == "a.jpg: two lines; look at it"


def test_exit_codes_are_distinct() -> None:
    codes = [kind.exit_code for kind in (SoloEdgeError, *SoloEdgeError.__subclasses__())]
    assert len(set(codes)) == len(codes)


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})

    def fail_halfway() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    for content in ("one", "two"):
        with atomic_folder(path) as temporary:
            (temporary / "file").write_text(content)
    assert (path / "file").read_text() == "two"
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        raise RuntimeError
    assert (path / "file").read_text() == "two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_way_of_a_folder_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        write_json(tmp_path / "file" / "a.json", {})


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff\xfe"])
def test_unreadable_json_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, "latin-1")
    with pytest.raises(ArtifactError, match=r"a\.json"):
        read_json(path, error=ArtifactError)


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not found"):
        read_json(tmp_path / "none.json")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")


def test_kill_while_writing_never_shows_a_half_file(tmp_path: Path) -> None:
    """A writer of 8 MB files is killed ten times; a reader always finds a whole one."""
    path = tmp_path / "weights"
    code = (
        "import sys, pathlib; from solo_edge.files import atomic_file\n"
        "i = 0\n"
        "while True:\n"
        "    with atomic_file(pathlib.Path(sys.argv[1])) as t: t.write_bytes(bytes([i % 256]) * (8 << 20))\n"
        "    i += 1\n"
    )
    for attempt in range(10):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.01 * attempt)
        writer.kill()
        writer.wait()
        content = path.read_bytes()
        assert len(content) == 8 << 20
        assert len(set(content[:: 1 << 16])) == 1
