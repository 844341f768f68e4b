"""What users get: the wheel's files, the public names, the version."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import solo_edge

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Names of the files in the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, because building leaves build/ and *.egg-info/ in the source folder.
    copy = folder / "source"
    copy.mkdir()
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.decode().split("\0")):
        source, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_file():
            target.write_bytes(source.read_bytes())
    done = run("-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), ".", cwd=copy)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    expected = set()
    for folder, prefix in (
        ("solo_edge", "solo_edge"),
        ("kernels", "solo_edge/kernels"),
        ("calibration", "solo_edge/calibration"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            relative = path.relative_to(ROOT / folder)
            if folder == "solo_edge" and relative.parts[0] in ("kernels", "calibration"):
                continue  # links to the other two
            expected.add(f"{prefix}/{relative.as_posix()}")
    folders = ("solo_edge/assets", "solo_edge/video/web/static")
    assets = {f"{folder}/{path.name}" for folder in folders for path in (ROOT / folder).glob("*")}
    assert wheel == expected | assets | {"solo_edge/py.typed"}


def test_public_names_are_those_that_exist():
    tree = ast.parse((ROOT / "solo_edge/__init__.py").read_text("utf-8"))
    public = {
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    }
    public |= {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("solo_edge")
        for alias in node.names
    }
    assert set(solo_edge.__all__) == public | {"__version__"}
    assert all(getattr(solo_edge, name) is not None for name in solo_edge.__all__)
    assert list(solo_edge.__all__) == sorted(solo_edge.__all__)


@pytest.mark.parametrize("folder", ["kernels", "calibration"])
def test_folders_are_not_packages_of_their_own(folder):
    """Two copies of one module, `kernels.host` and `solo_edge.kernels.host`, would not know each other."""
    done = run("-c", f"import {folder}")
    assert done.returncode == 1
    assert f"ImportError: the folder {folder}/ is the package solo_edge.{folder}" in done.stderr
    assert run("-c", f"import solo_edge.{folder}").returncode == 0


def test_importing_the_package_is_light():
    code = "import sys, solo_edge; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(run("-c", code).stdout.split())
    assert "solo_edge" in loaded
    heavy = {"torch", "cv2", "av", "PIL", "onnx", "openvino", "onnxruntime", "timm", "rich"}
    assert not loaded & heavy


def test_the_version_is_in_the_changelog():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", text, re.MULTILINE)
    assert versions
    assert versions[0] == solo_edge.__version__


def test_constraints_pin_what_setup_asks_for():
    """Every dependency has a pin, and no pin is of a package that nothing asks for."""
    setup = (ROOT / "setup.py").read_text("utf-8")
    asked = set(re.findall(r'"([a-z][a-z0-9-]*)>=', setup))
    lines = (ROOT / "scripts/constraints.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if line and not line.startswith("#")}
    # The others are installed by hand or come with the device.
    assert asked - {"tensorboard", "tensorrt", "cuda-bindings", "pycuda"} == pinned


def test_scripts_are_executable():
    for name in ("scripts/demo", "scripts/test", "scripts/check", "scripts/bench", ".ci/run"):
        path = ROOT / name
        assert path.stat().st_mode & 0o111, name
        assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n"), name
        assert "set -euo pipefail" in path.read_text("utf-8"), name
        assert subprocess.run(["bash", "-n", path], check=False).returncode == 0, name
