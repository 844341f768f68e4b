"""Where a report goes; what is in it is tested with the benchmark that makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from solo_edge.errors import ResourceError, UsageError
from solo_edge.report import check_writable, report_files


def test_report_goes_into_a_folder_or_beside_a_file_name(tmp_path):
    names = {s: p.relative_to(tmp_path) for s, p in report_files(tmp_path / "r").items()}
    assert names == {s: Path("r") / f"report{s}" for s in (".json", ".csv", ".md")}
    names = {s: p.relative_to(tmp_path) for s, p in report_files(tmp_path / "nano.v2.md").items()}
    assert names == {s: Path(f"nano.v2{s}") for s in (".json", ".csv", ".md")}
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


def test_check_writable_leaves_nothing(tmp_path):
    check_writable(tmp_path / "new" / "deep" / "file.json")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="folder"):
        check_writable(tmp_path)


def test_a_file_in_the_way_is_found(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be written"):
        check_writable(tmp_path / "file" / "inside.json")
