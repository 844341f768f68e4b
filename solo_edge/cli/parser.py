"""argparse with one-line errors that name the nearest right word, and options made from dataclasses."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import shutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from solo_edge.errors import UsageError, did_you_mean

__all__ = [
    "Command",
    "CommandParser",
    "config_values",
    "one_of",
    "parse_assignments",
    "positive",
    "positive_number",
    "probability",
]


class CommandParser(argparse.ArgumentParser):
    """A parser of one command. It raises `UsageError` where argparse would print its usage and exit."""

    def __init__(self, name: str, summary: str, example: str):
        columns = min(shutil.get_terminal_size().columns, 110)
        super().__init__(
            prog=f"solo-edge {name}",
            description=summary,
            epilog=f"example:\n  {example}",
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
                prog, max_help_position=34, width=columns
            ),
            allow_abbrev=False,
        )
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        has_remedy = "did you mean" in message or "known:" in message
        fix = None if has_remedy else f"see {self.prog} --help"
        raise UsageError(message.removeprefix("argument "), fix=fix)

    def shorten_usage(self) -> None:
        """Name only what must be given in the usage line; the list of options follows below it."""
        needed = [a for a in self._actions if a.required and a.option_strings]
        words = [f"{a.option_strings[0]} {a.metavar}" for a in needed]
        places = [a for a in self._actions if not a.option_strings]
        words += [f"{a.metavar}{' ...' if a.nargs == '+' else ''}" for a in places]
        self.usage = " ".join(["%(prog)s", *words, "[OPTIONS]"])

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse, and name the nearest option for an unknown one.

        Unknown options are looked for first: otherwise `--dat x` would be reported as a missing --data.
        """
        known = self._option_string_actions
        for word in argv:
            if word == "--":
                break
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known:
                long = [name for name in known if name.startswith("--")]
                raise UsageError(f"unknown option {option}", fix=did_you_mean(option, long))
        values, extra = self.parse_known_args(argv)
        if extra:
            raise UsageError(f"unexpected argument {extra[0]!r}", fix=f"see {self.prog} --help")
        return values

    def add_config(
        self,
        config: type,
        help_texts: Mapping[str, str],
        title: str,
        *,
        default: str | None = None,
    ) -> None:
        """One option for each field of the dataclass `config`; absent ones stay out of the namespace.

        Args:
            help_texts: what each field means, by its name.
            default: shown instead of the field's own default.
        """
        group = self.add_argument_group(title)
        hints = typing.get_type_hints(config)
        for field in dataclasses.fields(config):
            shown = _show(field.default) if default is None else default
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                dest=field.name,
                default=argparse.SUPPRESS,
                help=f"{help_texts[field.name]} (default: {shown})".replace("%", "%%"),
                **_argument_kind(hints[field.name]),
            )


@dataclass(frozen=True)
class Command:
    """One command of `solo-edge`."""

    name: str
    summary: str  # one sentence
    example: str
    arguments: Callable[[CommandParser], None]  # declares them
    run: Callable[[argparse.Namespace], int | None]  # calls one function; returns the exit code

    def parser(self) -> CommandParser:
        parser = CommandParser(self.name, self.summary, self.example)
        self.arguments(parser)
        parser.shorten_usage()
        return parser


def config_values(config: type, values: argparse.Namespace) -> dict[str, Any]:
    """The fields of the dataclass `config` that were given on the command line."""
    names = [field.name for field in dataclasses.fields(config)]
    given = {name: getattr(values, name) for name in names if hasattr(values, name)}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in given.items()}


def one_of(what: str, names: Iterable[str]) -> Callable[[str], str]:
    """A converter for `type=` that accepts only `names` and suggests the nearest one."""
    names = tuple(names)

    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f"unknown {what} {text!r}; {did_you_mean(text, names)}"
            )
        return text

    return convert


def positive(text: str) -> int:
    """A converter for `type=`: a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def positive_number(text: str) -> float:
    """A converter for `type=`: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def probability(text: str) -> float:
    """A converter for `type=`: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def parse_assignments(texts: Iterable[str], config: type) -> dict[str, Any]:
    """`name=value` texts as values for the fields of the dataclass `config`.

    A value is a Python literal (64, 0.2, "(512, 512)"); anything else counts as text.

    Raises:
        UsageError: not of that form, an unknown name, or a value of another type than the default's.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value_text = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {text!r} has no '='", fix="write --set name=value")
        if name not in defaults:
            raise UsageError(f"--set: unknown field {name!r}", fix=did_you_mean(name, defaults))
        try:
            value = ast.literal_eval(value_text.strip())
        except (ValueError, SyntaxError):
            value = value_text.strip()
        default = defaults[name]
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise UsageError(
                f"--set: {name} cannot be {value_text!r}", fix=f"its default is {default!r}"
            )
        values[name] = value
    return values


def _argument_kind(hint: Any) -> dict[str, Any]:
    """The arguments of `add_argument` for a field's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if origin is typing.Literal:
        return {"type": one_of("choice", parts), "metavar": "|".join(parts)}
    if origin is tuple:
        count = "+" if parts[-1] is Ellipsis else len(parts)
        return {"type": parts[0], "nargs": count, "metavar": _metavar(parts[0])}
    if origin in (typing.Union, types.UnionType):
        raise TypeError(f"no option for a field of type {hint}")
    return {"type": hint, "metavar": _metavar(hint)}


def _metavar(kind: type) -> str:
    return {int: "N", float: "X", str: "NAME", Path: "PATH"}[kind]


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(_show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
