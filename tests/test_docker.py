"""The form of the Dockerfiles. Building them needs a Jetson, or at least its kind of processor."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from solo_edge.doctor.platforms import OLDEST_L4T, Platform, cuda_requirement

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SECRET = re.compile(r"password|passwd|secret|token|api_?key|credential|BEGIN [A-Z ]*PRIVATE", re.I)


def instructions(file):
    """(instruction, arguments) of a Dockerfile, continued lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines) if word
    ]


def of_kind(file, kind):
    return [rest for word, rest in instructions(file) if word == kind]


def test_there_is_one_for_each_jetpack():
    assert [file.name for file in FILES] == ["jetpack6.Dockerfile", "jetpack7.Dockerfile"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_base_is_nvidias_and_pinned(file):
    (image,) = of_kind(file, "FROM")
    assert re.fullmatch(r"nvcr\.io/nvidia/[\w-]+:[\w.-]+", image)
    assert not image.endswith(":latest")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_does_not_run_as_root(file):
    users = of_kind(file, "USER")
    assert users
    assert users[-1] not in ("root", "0")
    assert re.search(rf"useradd [^&]*\b{users[-1]}$", of_kind(file, "RUN")[-1])
    after = [word for word, _ in instructions(file)]
    assert "RUN" not in after[after.index("USER") :]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_holds_no_secret(file):
    assert not SECRET.search(file.read_text("utf-8"))
    for word, rest in instructions(file):
        if word in ("ENV", "ARG", "LABEL"):
            assert "@" not in rest


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_it_copies_exists_and_is_all_that_the_package_needs(file):
    copied = [source for rest in of_kind(file, "COPY") for source in shlex.split(rest)[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
    setup = (ROOT / "setup.py").read_text("utf-8")
    read = set(re.findall(r'ROOT / "([^"/]+)', setup))  # what setup.py opens
    assert {"setup.py", "pyproject.toml", "solo_edge", "kernels", "calibration"} | read <= set(
        copied
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_downloads_are_checked_and_leave_nothing_behind(file):
    for rest in of_kind(file, "RUN"):
        assert not re.search(r"(curl|wget)[^&|]*\|\s*(ba)?sh", rest)
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert rest.endswith("rm -rf /var/lib/apt/lists/*")
        if "pip install" in rest:
            assert "--no-cache-dir" in rest
    for rest in of_kind(file, "ADD"):
        source, target = shlex.split(rest)
        assert source.startswith("https://repo.download.nvidia.com/")
        run = " ".join(of_kind(file, "RUN"))
        assert re.search(
            rf"gpg --show-keys [^&]*{re.escape(target)}[^&]*fpr:\S*[0-9A-F]{{40}}", run
        )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_starts_the_command_line(file):
    assert of_kind(file, "ENTRYPOINT") == ['["solo-edge"]']
    assert of_kind(file, "CMD") == ['["doctor"]']


@pytest.mark.parametrize(
    ("name", "l4t"), [("jetpack6", OLDEST_L4T), ("jetpack7", (39, 2))], ids=lambda value: str(value)
)
def test_it_installs_what_the_doctor_would_ask_for(name, l4t):
    run = " ".join(of_kind(ROOT / f"docker/{name}.Dockerfile", "RUN"))
    assert f'"{cuda_requirement(Platform("aarch64", l4t=l4t))}"' in run
    assert '"numpy<2"' in run
    assert "python3-libnvinfer" in run
    assert "--system-site-packages" in run
