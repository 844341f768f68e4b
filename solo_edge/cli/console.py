"""What the commands print: results on standard output, progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Progress", "note", "progress", "status_line", "table"]

SECONDS_BETWEEN_LINES = 10.0  # of progress where standard error is no terminal


class Progress(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


def note(text: str) -> None:
    """One line on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yield a function to be called with (done, total): a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield _plain_progress(title)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task(title)

        def show(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        yield show


def _plain_progress(title: str) -> Progress:
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            note(f"{title}: {done} of {total}")

    return show


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Yield a function for how things stand: one line of a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        last = time.monotonic()

        def show(text: str) -> None:
            nonlocal last
            if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                note(text)

        yield show
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(escape(text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output; the first column is text, the others numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # Where there is no terminal nobody knows its width, and a wrapped table cannot be searched.
    console = Console(width=None if sys.stdout.isatty() else 200)
    # "ascii" where the output cannot take lines drawn with Unicode is rich's own choice.
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for position, title in enumerate(header):
        shown.add_column(title, justify="right" if position else "left", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(shown, markup=False)
