"""Pickles that hold NumPy arrays and nothing else (PaddleDetection's `.pdparams`), read without unpickling.

Python's own unpickler calls whatever a file names. This one interprets the few instructions that a
dictionary of arrays needs; the names that such a file must contain are compared with a list and never
looked up, so there is nothing that a file could call. Everything else is refused by its name.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solo_edge.errors import ArtifactError

__all__ = ["read_array_pickle"]

_INSTRUCTIONS = {instruction.code: instruction for instruction in pickletools.opcodes}
MAX_BYTES = 4 << 30
MAX_INSTRUCTIONS = 1_000_000  # a model of a thousand arrays has some 30,000
MAX_DIMENSIONS = 8
DTYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
# Paddle's own entries beside the weights: the names of the parameters in its graph.
NAME_TABLE = "StructuredToParameterName@@"


# What a file can lead the machine into.
_DAMAGE = (
    *(ValueError, IndexError, KeyError, TypeError, OverflowError),
    *(MemoryError, RecursionError),
)


class RefusedError(Exception):
    """What in the file is refused."""


@dataclass(frozen=True)
class Name:
    """Something that a pickle refers to by module and name."""

    text: str


@dataclass
class Type:
    """A NumPy data type; its byte order comes after it."""

    code: str
    order: str = "="

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass
class Array:
    """An array, empty until its content comes after it."""

    content: NDArray[Any] | None = None


def read_array_pickle(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a pickled dictionary {name: array}.

    Raises:
        ArtifactError: damaged, too large, or with anything in it that is no array of plain numbers.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RefusedError(f"more than {MAX_BYTES >> 30} GiB")
        data = path.read_bytes()
        arrays = _arrays(_Machine(data).run())
        # Arrays may share their bytes; copies of them could fill the memory.
        if sum(array.nbytes for array in arrays.values()) > len(data):
            raise RefusedError("arrays of more bytes than the file has")
        return arrays
    except RefusedError as refused:
        fix = "only dictionaries of arrays are read; nothing in the file was executed"
        raise ArtifactError(f"refused: {refused}", where=path, fix=fix) from None


def _arrays(value: object) -> dict[str, NDArray[Any]]:
    if not isinstance(value, dict):
        raise RefusedError(f"the file holds no dictionary but {_kind(value)}")
    arrays = {}
    for key, item in value.items():
        if key == NAME_TABLE and isinstance(item, dict):
            continue
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
            item = item[1]  # (name in the graph, array), as newer versions write tensors
        if not isinstance(item, Array) or item.content is None:
            raise RefusedError(f"{key[:200]!r}, which is no array but {_kind(item)}")
        arrays[key] = item.content
    return arrays


class _Machine:
    """The stack machine of the pickle format (PEP 307, PEP 574), as far as arrays need it."""

    def __init__(self, data: bytes):
        self.stream = io.BytesIO(data)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0  # bytes made of text
        self.size = len(data)

    def run(self) -> object:
        for _ in range(MAX_INSTRUCTIONS):
            instruction = _INSTRUCTIONS.get(self.stream.read(1).decode("latin-1"))
            if instruction is None:
                raise RefusedError("the file is cut off or no pickle")
            handler = _HANDLERS.get(instruction.name)
            if handler is None and instruction.name != "STOP":
                raise RefusedError(f"the instruction {instruction.name}")
            try:
                argument = instruction.arg.reader(self.stream) if instruction.arg else None
                if handler is None:
                    return self.stack.pop()
                handler(self, argument)
            except _DAMAGE as error:
                what = f"the file is damaged (instruction {instruction.name}: {str(error)[:200]})"
                raise RefusedError(what) from None
        raise RefusedError(f"more than {MAX_INSTRUCTIONS} instructions")

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark from the stack."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def take(self, count: int) -> tuple[Any, ...]:
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise IndexError("too little on the stack")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        return items

    def fill(self, items: list[Any]) -> None:
        """Append to the list, or set in the dictionary, that lies on top."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, dict):
            # Hashing anything else could recurse as deep as the file likes.
            if wrong := [key for key in items[::2] if not isinstance(key, str)]:
                raise RefusedError(f"a key that is no text ({_kind(wrong[0])})")
            target.update(zip(items[::2], items[1::2], strict=True))
        else:
            raise TypeError(f"cannot add to {_kind(target)}")

    def name(self, module: object, name: object) -> None:
        text = f"{module}.{name}"
        if text not in _NAMES:
            raise RefusedError(f"it names {text[:200]!r}")
        self.stack.append(Name(text))

    def call(self) -> None:
        function, arguments = self.take(2)
        make = _CALLS.get(function.text) if isinstance(function, Name) else None
        if make is None or not isinstance(arguments, tuple):
            raise RefusedError(f"a call of {_kind(function)}")
        made = make(*arguments)
        if isinstance(made, bytes):
            self.encoded += len(made)
            if self.encoded > self.size:
                raise RefusedError("more bytes than the file has")
        self.stack.append(made)

    def build(self) -> None:
        target, state = self.take(2)
        self.stack.append(target)
        if isinstance(target, Type):
            order, *details = state[1:]
            if order not in ("<", "|", "=") or any(item is not None for item in details[:3]):
                raise RefusedError(
                    f"an array of type {target.code!r} with fields or another byte order"
                )
            target.order = order
        elif isinstance(target, Array):
            _, shape, dtype, columns_first, data = state
            target.content = _array(data, dtype, shape, "F" if columns_first else "C")
        else:
            raise RefusedError(f"a state for {_kind(target)}")


def _array(data: object, dtype: object, shape: object, order: str) -> NDArray[Any]:
    if not isinstance(dtype, Type) or not isinstance(data, (bytes, bytearray)):
        raise RefusedError(f"an array of {_kind(data)}, which are no plain numbers")
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise RefusedError("an array with an impossible shape")
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * dtype.numpy.itemsize != len(data):
        raise RefusedError(
            f"an array of shape {str(shape[:MAX_DIMENSIONS])[:200]} with {len(data)} bytes"
        )
    return np.frombuffer(data, dtype.numpy).reshape(shape, order="F" if order == "F" else "C")


def _new_array(kind: object, shape: object, code: object) -> Array:
    if kind != Name("numpy.ndarray"):
        raise RefusedError(f"an array of kind {_kind(kind)}")
    return Array()


def _buffer_array(data: object, dtype: object, shape: object, order: object) -> Array:
    return Array(_array(data, dtype, shape, "F" if order == "F" else "C"))


def _new_type(code: object, align: object = False, copy: object = True) -> Type:
    if not isinstance(code, str) or code not in DTYPES:
        raise RefusedError(
            f"an array of type {code[:80] if isinstance(code, str) else _kind(code)!r}"
        )
    return Type(code)


def _bytes(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError("bytes that are not encoded in Latin-1")
    return text.encode("latin-1")


def _tuple(items: object) -> tuple[Any, ...]:
    if not isinstance(items, tuple):
        raise RefusedError(f"a tuple made of {_kind(items)}")
    return items


def _kind(value: object) -> str:
    return value.text if isinstance(value, Name) else type(value).__name__


_CALLS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _bytes,
    "builtins.tuple": _tuple,
    "__builtin__.tuple": _tuple,
    "collections.OrderedDict": lambda: {},
    "numpy.dtype": _new_type,
    "numpy.core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy.core.numeric._frombuffer": _buffer_array,
    "numpy._core.numeric._frombuffer": _buffer_array,
}
_NAMES = {*_CALLS, "numpy.ndarray"}

_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_Handler = Callable[[_Machine, Any], object]
_HANDLERS: dict[str, _Handler] = {
    **{name: lambda machine, value: machine.stack.append(value) for name in _VALUES},
    "PROTO": lambda machine, version: None,
    "FRAME": lambda machine, size: None,
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.stack.append(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.stack.append(machine.take(3)),
    "APPEND": lambda machine, _: machine.fill(list(machine.take(1))),
    "APPENDS": lambda machine, _: machine.fill(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.fill(list(machine.take(2))),
    "SETITEMS": lambda machine, _: machine.fill(machine.since_mark()),
    "MEMOIZE": lambda machine, _: machine.memo.update({len(machine.memo): machine.stack[-1]}),
    "BINPUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, place: machine.memo.update({place: machine.stack[-1]}),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "GLOBAL": lambda machine, name: machine.name(*str(name).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
