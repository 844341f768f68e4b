"""What keeps the stand-in for TensorRT honest: the names and parameters of the real one, and no others.

They come from `tensorrt_names.json`, which is made of NVIDIA's own Python modules.
"""

from __future__ import annotations

import enum
import functools
import json
import re
from pathlib import Path

_LIST = Path(__file__).resolve().parents[2] / "export" / "tensorrt_names.json"
_NAMES = json.loads(_LIST.read_text("utf-8"))

CALLS: list[str] = []  # every call and every assignment to a property, as "Class.member"


def _number(version):
    return tuple(int(part) for part in version.split(".")[:2])


class Rules:
    """The names of one TensorRT version: the newest listed one that is not newer."""

    def __init__(self, version):
        older = [v for v in _NAMES["versions"] if _number(v) <= _number(version)]
        self.version = older[-1] if older else _NAMES["versions"][0]

    def members(self, kind):
        """member -> "value", "property" or its parameters."""
        found = {}
        for member, text in _NAMES["classes"][kind].items():
            text = text if isinstance(text, str) else text.get(self.version)
            if text is not None:
                found[member] = text
        return found

    def enumeration(self, kind):
        """An enumeration with the members that it really has."""
        made = enum.Enum(kind, list(self.members(kind)), start=0)
        made.__int__ = lambda member: member.value
        return made

    def like_the_real(self, cls):
        """Class decorator: only real names, with the real parameters; no attribute can be added."""
        kind, offered = cls.__name__, self.members(cls.__name__)
        for name, value in list(vars(cls).items()):
            if name.startswith("_") and not (name == "__init__" and name in offered):
                continue
            if name not in _NAMES["classes"][kind]:
                raise TypeError(f"the stand-in makes {kind}.{name} up")
            if name not in offered:
                delattr(cls, name)
            elif callable(value) and not isinstance(value, (type, enum.Enum)):
                setattr(cls, name, _checked(f"{kind}.{name}", value, offered[name]))

        def set_attribute(self, name, value):
            if type(self) is cls and not name.startswith("_"):
                if offered.get(name) != "property" or not hasattr(cls, name):
                    raise AttributeError(f"{kind!r} object has no attribute {name!r}")
                CALLS.append(f"{kind}.{name}")
            object.__setattr__(self, name, value)

        cls.__setattr__ = set_attribute
        return cls


def _checked(name, function, signatures):
    """`function`, but a TypeError as pybind11's for arguments that fit no overload."""
    overloads = [
        [part for part in text.split(", ") if part]
        for text in re.findall(r"\(([^)]*)\)", signatures)
    ]

    @functools.wraps(function)
    def call(self, *arguments, **keywords):
        if not any(_fits(parameters, arguments, keywords) for parameters in overloads):
            raise TypeError(f"{name}(): incompatible function arguments; supported: {signatures}")
        CALLS.append(name)
        return function(self, *arguments, **keywords)

    return call


def _fits(parameters, arguments, keywords):
    names = [parameter.removesuffix("=") for parameter in parameters]
    given = set(names[: len(arguments)])
    needed = {parameter for parameter in parameters if not parameter.endswith("=")}
    return (
        len(arguments) <= len(names)
        and set(keywords) <= set(names) - given
        and needed <= given | set(keywords)
    )
