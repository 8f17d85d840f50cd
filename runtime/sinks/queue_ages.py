"""How long the oldest event of a queue has waited, from samples of the times at which events were queued."""

from __future__ import annotations

from collections import deque

_STEP_S = 5.0
_MAX_SAMPLES = 10_000


class QueueAges:
    """Numbers of events and the times when they were queued, some seconds apart."""

    def __init__(self) -> None:
        """Start without samples."""
        self._samples: deque[tuple[int, float]] = deque()

    def note(self, number: int, now_s: float, *, was_empty: bool) -> None:
        """Sample the time of an event if the queue was empty before, or the last sample is some seconds old."""
        if was_empty:
            self._samples.clear()
        if not self._samples or (now_s - self._samples[-1][1] >= _STEP_S and len(self._samples) < _MAX_SAMPLES):
            self._samples.append((number, now_s))

    def oldest_s(self, number: int, now_s: float) -> float:
        """Return how long the event `number`, the oldest one in the queue, has waited, accurate to some seconds."""
        while len(self._samples) > 1 and self._samples[1][0] <= number:
            self._samples.popleft()
        return now_s - self._samples[0][1]
