"""Delays actions that forget events, such as recording an image as seen, until these events are safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import Queue
from typing import Self

from twincar_edge.runtime.sinks.delivery import Delivery
from twincar_edge.runtime.supervised import SupervisedThread

POLL_S = 0.1
MAX_WAITING = 10_000  # actions; above that the oldest is called early: the state folder's disk has hung for long

Action = Callable[[], None]


class Acknowledger:
    """Calls actions once the events put before them are safe; see `Delivery.watermark`.

    The actions are called in order, in a thread of their own. Leave the context after the deliveries have closed: it
    calls the remaining actions, except those whose events were lost at closing.
    """

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        """Wait for the events of `deliveries`; entering the context starts the thread."""
        self._deliveries = deliveries
        self._queue: Queue[tuple[list[Callable[[], bool]], Action] | None] = Queue()
        self._closing = threading.Event()
        self._thread = SupervisedThread(self._run, "acknowledger", pause=self._closing.wait)

    def when_safe(self, action: Action) -> None:
        """Call `action` once all events put so far are safe. Returns at once."""
        self._queue.put(([delivery.watermark() for delivery in self._deliveries], action))

    def faults(self) -> list[str]:
        """Return a line if the thread failed recently."""
        return [] if self._thread.problem is None else [self._thread.problem]

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Call the remaining actions whose events are safe, and end the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            watermarks, action = entry
            while not all(is_safe() for is_safe in watermarks) and self._queue.qsize() < MAX_WAITING:
                if self._closing.wait(POLL_S):
                    break
            if not self._closing.is_set() or all(is_safe() for is_safe in watermarks):
                action()
