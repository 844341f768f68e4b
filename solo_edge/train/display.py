"""What a run shows while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["epoch_line", "progress_bar"]


def epoch_line(epoch: int, epochs: int, row: Mapping[str, float]) -> str:
    losses = [name for name in row if name.endswith("_loss")]
    parts = [f"epoch {epoch}/{epochs}"]
    parts += [f"{name.removesuffix('_loss').replace('_', ' ')} {row[name]:.3f}" for name in losses]
    if "AP" in row:
        parts += [f"AP {row['AP']:.3f}", f"AP50 {row['AP50']:.3f}"]
    return "  ".join([*parts, f"{row['images_per_s']:.1f} images/s"])


@contextmanager
def progress_bar(show: bool, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the remaining time on the terminal; yields the function that moves it on."""
    if not show:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)
        yield lambda count: bar.advance(task, count)
