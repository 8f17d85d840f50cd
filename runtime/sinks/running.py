"""Opening and closing several deliveries together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar


class Runs(AbstractContextManager[Any], Protocol):
    """A context manager with threads: `stop` asks them to end, and leaving the context waits until they have ended."""

    def stop(self) -> None:
        """Ask the threads to end; return immediately."""


R = TypeVar("R", bound=Runs)


@contextmanager
def running(deliveries: Sequence[R]) -> Iterator[Sequence[R]]:
    """Open deliveries; at the end, close them concurrently, so that all drain within one deadline.

    Raises:
        InputError: the settings of a sink can never work; the sinks opened before it are closed.
    """
    with ExitStack() as stack:
        for delivery in deliveries:
            stack.enter_context(delivery)
        try:
            yield deliveries
        finally:
            for delivery in deliveries:
                delivery.stop()
