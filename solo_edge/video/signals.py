"""Signals that end a stream, with everything that was written complete."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["STOP_SIGNALS", "stopped_by_signals"]

# The last: the terminal, or the connection to it, is gone. Windows has no such thing.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def stopped_by_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Call `stop` with the name of the first signal; a SIGINT after it raises KeyboardInterrupt.

    `stop` interrupts whatever the main thread does, which may hold a lock: it must take none. Outside
    of the main thread, where no handlers can be set, nothing happens. SIGHUP stays ignored where it
    is, as `nohup` does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped = False

    def handle(number: int, stack_frame: FrameType | None) -> None:
        nonlocal stopped
        if stopped and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not stopped:
            stopped = True
            stop(signal.Signals(number).name)

    kept = {n for n in STOP_SIGNALS if n != signal.SIGINT and signal.getsignal(n) == signal.SIG_IGN}
    before = {n: signal.signal(n, handle) for n in STOP_SIGNALS if n not in kept}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python and cannot be set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
