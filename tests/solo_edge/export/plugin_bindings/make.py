"""TensorRT's own Python bindings on a machine without TensorRT: as far as they go without a GPU.

    python make.py 11.4.0.106 FOLDER

downloads the bindings and a lean runtime (46 MB) from PyPI into FOLDER and puts stand-ins for the other
libraries beside them. Then `probe.py` runs with FOLDER/bindings in PYTHONPATH and FOLDER/lib in
LD_LIBRARY_PATH.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

STUB = Path(__file__).with_name("stub.c")
# Version of the bindings: what PyPI has them for, and the lean runtime of the same major version.
VERSIONS = {
    "10.9.0.34": ("cu12", "10.16.1.11"),
    "10.13.3.9": ("cu13", "10.16.1.11"),
    "10.16.1.11": ("cu13", "10.16.1.11"),
    "11.4.0.106": ("cu13", "11.4.0.106"),
}
LIBRARIES = {"nvinfer": "CORE", "nvonnxparser": "PARSER", "nvinfer_plugin": "PLUGINS"}


def make_environment(version: str, folder: Path) -> None:
    """Fill `folder`.

    Raises:
        OSError: pip or a C compiler is missing, or refuses; the message is its last line.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise OSError("there is no C compiler (cc)")
    wheels, bindings, libraries = (folder / name for name in ("wheels", "bindings", "lib"))
    libraries.mkdir(parents=True)
    cuda, lean_version = VERSIONS[version]
    names = [f"tensorrt-{cuda}-bindings=={version}", f"tensorrt-lean-cu13-libs=={lean_version}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
    _run([*pip, *names])
    for wheel in wheels.iterdir():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(bindings)
    major = version.partition(".")[0]
    lean = next(bindings.rglob(f"libnvinfer_lean.so.{major}"))
    lean.rename(libraries / lean.name)
    for name, part in LIBRARIES.items():
        file = f"lib{name}.so.{major}"
        options = ["-shared", "-fPIC", f"-D{part}", f'-DLEAN="{lean.name}"', f"-Wl,-soname,{file}"]
        _run([compiler, *options, str(STUB), "-o", str(libraries / file), "-ldl"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise OSError(f"{Path(command[0]).name}: {lines[-1]}")


if __name__ == "__main__":
    make_environment(sys.argv[1], Path(sys.argv[2]))
