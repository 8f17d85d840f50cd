"""Stops a run on a signal: gracefully, or immediately if that takes too long."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def stop_signals(stop: threading.Event) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM end the run in good order; a second one ends it at once, as by default."""
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
