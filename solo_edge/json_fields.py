"""JSON values of a manifest as dataclasses: every field checked, every error naming the field."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, get_args

from solo_edge.errors import UsageError, did_you_mean

__all__ = ["FieldError", "decode"]


class FieldError(ValueError):
    """A field of the manifest is not as its annotation says."""


def decode(kind: Any, value: Any, field: str = "") -> Any:
    """`value` (of JSON) as `kind`, an annotation made of the types that `Manifest` uses.

    Raises:
        FieldError: it does not fit; the message names the field.
    """
    origin, arguments = typing.get_origin(kind), get_args(kind)
    if origin is types.UnionType:  # the one union in use is "or null"
        return None if value is None else decode(arguments[0], value, field)
    if origin is Literal:
        if value not in arguments or type(value) is not str:
            fix = did_you_mean(str(value)[:50], arguments)
            raise FieldError(f"manifest field {field!r} is {_shown(value)} ({fix})")
        return value
    if origin is tuple:
        items = _of_type(list, value, field, "a list")
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(items)
        if len(items) != len(arguments):
            raise FieldError(f"manifest field {field!r} must have {len(arguments)} entries")
        pairs = enumerate(zip(arguments, items, strict=True))
        return tuple(decode(each, item, f"{field}[{i}]") for i, (each, item) in pairs)
    if origin is dict:
        entries = _of_type(dict, value, field, "an object")
        return {name: decode(arguments[1], v, f"{field}.{name}") for name, v in entries.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_fields(kind, _of_type(dict, value, field, "an object"), field)
    if kind is float:
        number = _of_type((int, float), value, field, "a number")
        if not abs(number) < 1e300:  # NaN and infinity are no JSON, but Python reads them
            raise FieldError(f"manifest field {field!r} must be a finite number")
        return number
    if kind is bool:
        if type(value) is not bool:
            raise FieldError(f"manifest field {field!r} must be true or false, got {_shown(value)}")
        return value
    what = {int: "a whole number", str: "a text"}[kind]
    return _of_type(kind, value, field, what)


def _decode_fields(kind: type, values: dict[str, Any], field: str) -> Any:
    hints, prefix = typing.get_type_hints(kind), f"{field}." if field else ""
    for name in values:
        if name not in hints:
            fix = did_you_mean(name[:50], hints)
            raise FieldError(f"manifest field {prefix + name!r} is unknown ({fix})")
    decoded = {}
    for each in dataclasses.fields(kind):
        if each.name in values:
            decoded[each.name] = decode(hints[each.name], values[each.name], prefix + each.name)
        elif each.default is dataclasses.MISSING:
            raise FieldError(f"manifest field {prefix + each.name!r} is missing")
    try:
        return kind(**decoded)
    except (UsageError, ArithmeticError) as error:  # the rules of ModelConfig and PostprocessConfig
        raise FieldError(f"manifest field {field!r} makes no sense ({error})") from None


def _of_type(kind: Any, value: Any, field: str, what: str) -> Any:
    # bool is a kind of int in Python, but true is no number in JSON.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise FieldError(f"manifest field {field!r} must be {what}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
