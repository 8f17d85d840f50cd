"""How long to wait before the next attempt: longer each time, and never the same for all boxes."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential backoff with jitter.

    The nth wait is drawn evenly from the upper half of `first_s * 2**n`, at most `limit_s`, so that a hundred boxes do
    not come back in step when their receiver returns.
    Source: "equal jitter", M. Brooker, Exponential Backoff And Jitter, 2015.
    """

    def __init__(
        self, first_s: float = 1.0, limit_s: float = 60.0, *, draw: Callable[[], float] = random.random
    ) -> None:
        """Start with about `first_s` seconds and end with about `limit_s`; `draw` gives a number from 0 to 1."""
        self._first_s = first_s
        self._limit_s = limit_s
        self._draw = draw
        self._attempts = 0

    def next_s(self) -> float:
        """Return how many seconds to wait now."""
        longest_s = min(self._limit_s, self._first_s * 2.0 ** min(self._attempts, 60))
        self._attempts += 1
        return longest_s * (0.5 + self._draw() / 2)

    def reset(self) -> None:
        """Start again: the last attempt was good."""
        self._attempts = 0
