"""A diagnosis is made to be shown to others: names of people, machines and folders are taken out.

Most of it is built from version numbers and names of products. Only what other programs say (the text of
an exception, the value of an environment variable) can hold anything, and goes through here.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket

__all__ = ["plain_value", "scrub"]

LONGEST = 200
# The folders of an absolute path that is not the system's; addresses with "://" are left alone.
FOREIGN_FOLDERS = re.compile(
    r"(?<![\w.:/~])/(?!(?:usr|lib|lib64|etc|dev|proc|sys|opt/nvidia)/)(?:[^\s/'\":,;()]+/)+"
)
# What people call their machines and accounts that is no secret, and is part of paths and packages.
COMMON_NAMES = frozenset(
    ("cuda", "debian", "jetson", "localhost", "nvidia", "python", "root", "ubuntu")
)


def scrub(text: str) -> str:
    """`text` on one line, without people's folders, the names of the user and the host, and UUIDs."""
    text = " ".join(text.split())
    for home in _homes():
        text = text.replace(home, "~")
    text = FOREIGN_FOLDERS.sub(".../", text)
    text = re.sub(r"\b[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "UUID", text)
    for name, sign in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(name) > 1 and name.lower() not in COMMON_NAMES:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", sign, text)
    return text[:LONGEST]


def plain_value(value: str) -> str:
    """The value of an environment variable where it is a short word or number, else only "set"."""
    is_plain = re.fullmatch(r"[\w.,:+-]{0,24}", value) and value == scrub(value)
    return value if is_plain else "set"


def _homes() -> list[str]:
    """The user's home folder, as the environment and as the list of accounts have it."""
    found = [os.environ.get("HOME", "")]
    with contextlib.suppress(KeyError, ImportError):  # an account without a name; Windows
        import pwd

        found.append(pwd.getpwuid(os.getuid()).pw_dir)
    return [home for home in found if len(home) > 1]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an account without a name, in a container
        return ""
