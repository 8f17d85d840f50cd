"""Retry delays: exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential backoff with jitter.

    The nth delay is uniform over the upper half of `first_s * 2**n`, capped at `limit_s`. The jitter keeps a hundred
    boxes from reconnecting in step when their receiver returns.
    Source: "equal jitter", M. Brooker, Exponential Backoff And Jitter, 2015.
    """

    def __init__(
        self, first_s: float = 1.0, limit_s: float = 60.0, *, draw: Callable[[], float] = random.random
    ) -> None:
        """Start at up to `first_s` seconds and grow to at most `limit_s`; `draw` returns a random number in 0..1."""
        self._first_s = first_s
        self._limit_s = limit_s
        self._draw = draw
        self._attempts = 0

    def next_s(self) -> float:
        """Return the next delay in seconds."""
        ceiling_s = min(self._limit_s, self._first_s * 2.0 ** min(self._attempts, 60))
        self._attempts += 1
        return ceiling_s * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        """Return to the shortest delay, after a successful attempt."""
        self._attempts = 0
