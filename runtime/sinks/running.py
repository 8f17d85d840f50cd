"""Opening and closing what has threads of its own, several at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar


class Runs(AbstractContextManager[Any], Protocol):
    """What goes on for a while when it is told to stop: leaving its context waits for the end."""

    def stop(self) -> None:
        """Begin to end."""


R = TypeVar("R", bound=Runs)


@contextmanager
def running(deliveries: Sequence[R]) -> Iterator[Sequence[R]]:
    """Open deliveries, and close all of them at once in the end: their deadlines run side by side.

    Raises:
        InputError: a sink can never work as it is set up; those before it are closed again.
    """
    with ExitStack() as stack:
        for delivery in deliveries:
            stack.enter_context(delivery)
        try:
            yield deliveries
        finally:
            for delivery in deliveries:
                delivery.stop()
