"""Stops a long run on a signal: gracefully on the first one, immediately on the second."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals(stop: threading.Event) -> Iterator[list[int]]:
    """Set `stop` on the first SIGINT or SIGTERM, and restore the old handlers, so that a second one ends the process.

    Yields:
        the list of received signals.
    """
    received: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        stop.set()
        for one, handler in before.items():
            signal.signal(one, handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
