"""Nothing that names a person, a machine or a folder of theirs gets into a diagnosis."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from solo_edge.doctor import diagnose, privacy, to_dict
from solo_edge.doctor.privacy import plain_value, scrub

SECRETS = (
    "zaphod",
    "beeblebrox",
    "1421424242424",
    "0badcafe",
    "d8000",
    "buildbrain",
    "dvs-builder",
)
DIAGNOSE = """
import json, sys
from pathlib import Path
from solo_edge.doctor import diagnose, to_dict
print(json.dumps(to_dict(diagnose(Path(sys.argv[1])))))
"""


@pytest.mark.parametrize(
    "name",
    [
        "orin_nano_jetpack_6.2",
        "agx_orin_jetpack_7.2",
        "thor_jetpack_7.1",
        "x86_nvidia",
        "raspberry_pi_5",
    ],
)
def test_files_with_names_and_numbers_do_not_leak(machine, answers, name):
    root = machine(name)
    assert any(
        secret in path.read_text()
        for path in root.rglob("*")
        if path.is_file()
        for secret in SECRETS
    )
    text = json.dumps(to_dict(diagnose(root, answers=answers("desktop"))))
    for secret in (*SECRETS, str(root), socket.gethostname()):
        assert secret not in text


def test_what_libraries_and_variables_say_does_not_leak(machine, tmp_path):
    home = tmp_path / "home/zaphod"
    packages = home / ".local/lib/python3/site-packages"
    packages.mkdir(parents=True)
    (packages / "openvino.py").write_text("raise OSError(__file__ + ' of zaphod is broken')")
    variables = {
        "HOME": str(home),
        "USER": "zaphod",
        "LOGNAME": "zaphod",
        "PYTHONPATH": os.pathsep.join([str(packages), *filter(None, sys.path)]),
        "LD_LIBRARY_PATH": str(home / "lib"),
        "CUDA_VISIBLE_DEVICES": "GPU-0badcafe-1234-5678-9abc-def012345678",
        "OPENBLAS_CORETYPE": "zaphod",
    }
    done = subprocess.run(
        [sys.executable, "-c", DIAGNOSE, str(machine("x86_nvidia"))],
        env={**os.environ, **variables},
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["openvino"]["status"] == "broken"
    assert checks["variables"]["value"]["CUDA_VISIBLE_DEVICES"] == "set"
    assert checks["variables"]["value"]["LD_LIBRARY_PATH"] == "set"
    for secret in (*SECRETS, str(tmp_path), socket.gethostname()):
        assert secret not in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /home/zaphod/lib/a.so", "cannot open .../a.so"),
        ("'/Users/zaphod/x': no", "'.../x': no"),
        ("/media/zaphod/disk and /run/user/1000/x", ".../disk and .../x"),
        ("of arthur, not arthurs or -arthur-", "of USER, not arthurs or -USER-"),
        ("on deep-thought:8080", "on HOST:8080"),
        ("GPU-0badcafe-1234-5678-9abc-def012345678", "GPU-UUID"),
        ("two\n lines", "two lines"),
        ("x" * 500, "x" * 200),
        ("(/data/secret-project/.venv/lib/x.so)", "(.../x.so)"),
        ("see https://example.org/a/b", None),
        ("libnvinfer.so.10: cannot open shared object file", None),
        ("/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1", None),
    ],
)
def test_scrub(monkeypatch, text, expected):
    monkeypatch.setattr(privacy, "_user", lambda: "arthur")
    monkeypatch.setattr(socket, "gethostname", lambda: "deep-thought")
    assert scrub(text) == (text if expected is None else expected)


def test_the_home_folder_is_taken_out_wherever_it_is(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/trillian")
    assert scrub("in /srv/people/trillian/x") == "in ~/x"


def test_an_account_without_a_name(monkeypatch):
    import getpass
    import pwd

    def nobody(*_):
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    assert scrub("nothing to hide") == "nothing to hide"


def test_names_that_everybody_has_stay(monkeypatch):
    monkeypatch.setattr(privacy, "_user", lambda: "nvidia")
    monkeypatch.setattr(socket, "gethostname", lambda: "ubuntu")
    assert scrub("nvidia driver on ubuntu") == "nvidia driver on ubuntu"
    assert scrub("/home/nvidia/x") == ".../x"


@pytest.mark.parametrize("value", ["4", "ARMV8", "0,1", ""])
def test_plain_values(value):
    assert plain_value(value) == value


@pytest.mark.parametrize(
    "value", ["/opt/x.so", "a b", "x" * 40, "GPU-0badcafe-1234-5678-9abc-def012345678"]
)
def test_other_values_are_not_shown(value):
    assert plain_value(value) == "set"


def test_only_files_of_the_system_are_read():
    """The reader of the list of packages and the like never looks into people's folders."""
    package = Path(privacy.__file__).parents[1]
    for file in [*package.glob("environment/*.py"), *package.glob("doctor/*.py")]:
        if file.name != "privacy.py":
            source = file.read_text("utf-8")
            for word in (
                "/home",
                "serial-number",
                "/etc/hostname",
                "gethostname",
                "getuser",
                "uuid1",
            ):
                assert word not in source, f"{file.name}: {word}"
