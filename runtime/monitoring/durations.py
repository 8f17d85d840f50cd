"""Durations counted in buckets that are the same on every box, so that Prometheus can add up boxes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

# 1, 2 and 5 of each decade: a quantile that Prometheus interpolates is wrong by a factor of 2.5 at most. 2 s, the age
# of an answer above which a model does not keep up, is an edge, so that its share is exact. Other buckets could not be
# compared with what Prometheus has stored.
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class DurationCounts:
    """Durations since the start of a run.

    Attributes:
        counts: for each of `BUCKETS_S`, how many were at most so long and longer than the bucket before; then how many
            were longer than all buckets.
        sum_s: their sum.
    """

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    sum_s: float = 0.0


class Durations:
    """Counts durations. One thread adds, or those that do hold a lock; any thread may read."""

    def __init__(self) -> None:
        """Start with none."""
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def read(self) -> DurationCounts:
        """Return what was counted so far."""
        return DurationCounts(tuple(self._counts), self._sum_s)
