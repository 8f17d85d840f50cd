"""Opening and closing several deliveries together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar


class Runs(AbstractContextManager[Any], Protocol):
    """A context manager with threads: `stop` tells them to end, and leaving the context waits until they have."""

    def stop(self) -> None:
        """Begin to end, and return at once."""


R = TypeVar("R", bound=Runs)


@contextmanager
def running(deliveries: Sequence[R]) -> Iterator[Sequence[R]]:
    """Open deliveries, and close them concurrently at the end, so that they drain within one deadline.

    Raises:
        InputError: a sink can never work with its settings; those opened before it are closed again.
    """
    with ExitStack() as stack:
        for delivery in deliveries:
            stack.enter_context(delivery)
        try:
            yield deliveries
        finally:
            for delivery in deliveries:
                delivery.stop()
