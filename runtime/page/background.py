"""Threads behind the live pages: they work while a block runs, and wait for what other threads hand over."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

from twincar_edge.runtime.supervised import SupervisedThread


class BackgroundWorker(ABC):
    """A thread that starts and ends with a `with` block. After an error its work is started again."""

    def __init__(self, name: str) -> None:
        """Prepare the thread; `name` is its name."""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = SupervisedThread(
            self._work,
            name,
            pause=lambda seconds: self._wait_for(lambda: False, seconds),
            wanted=lambda: not self._stopping,
        )

    def __enter__(self) -> Self:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the thread, and wait for its end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()

    @abstractmethod
    def _work(self) -> None:
        """Do the work of the thread until `_wait_for` returns False."""

    def _wait_for(self, ready: Callable[[], object], timeout_s: float | None = None) -> bool:
        """Wait until `ready` returns true or the time is over; return False if the thread has to stop.

        `ready` runs under the lock of `_changed`, which must be notified of changes.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or ready(), timeout_s)
            return not self._stopping
