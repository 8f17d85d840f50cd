"""Listeners that a thread wakes on new data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """A consumer that waits for new data."""

    def wake(self) -> None:
        """Signal new data; from any thread."""


class Listeners:
    """The listeners to one source of data. It is true while there are any."""

    def __init__(self) -> None:
        """Start without listeners."""
        self._all: list[Listener] = []
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Return whether there are listeners, without taking the lock."""
        return bool(self._all)

    def wake(self) -> None:
        """Wake all listeners."""
        with self._lock:
            listeners = tuple(self._all)
        for listener in listeners:
            listener.wake()

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Add a listener while the block runs."""
        with self._lock:
            self._all.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._all.remove(listener)
