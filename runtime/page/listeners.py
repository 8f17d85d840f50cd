"""Listeners that a thread notifies of new data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Who can be woken."""

    def wake(self) -> None:
        """Say that there is something new; from any thread."""


class Listeners:
    """The listeners to one thing; true while there are any."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._all: list[Listener] = []
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        """Return whether there are listeners, without taking the lock."""
        return bool(self._all)

    def wake(self) -> None:
        """Wake all of them."""
        with self._lock:
            listeners = tuple(self._all)
        for listener in listeners:
            listener.wake()

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Have one more woken while the block runs."""
        with self._lock:
            self._all.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._all.remove(listener)
