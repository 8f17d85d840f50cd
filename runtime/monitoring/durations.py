"""Histograms of durations, with the same buckets on every box, so that Prometheus can aggregate boxes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

# 1, 2 and 5 of each decade, so that an interpolated quantile is wrong by a factor of at most 2.5. 2 s, the age of an
# answer above which a model falls behind, is an edge, so that the share above it is exact. Do not change the buckets:
# Prometheus could not compare the result with stored data.
BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class DurationCounts:
    """A histogram of durations since the start of a run.

    Attributes:
        counts: number of durations in each of `BUCKETS_S`, not cumulative, then the number above all buckets.
        sum_s: sum of all durations.
    """

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    sum_s: float = 0.0


class Durations:
    """Collects durations. Only one thread may add, or several under a lock; any thread may read."""

    def __init__(self) -> None:
        """Start empty."""
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Add a duration."""
        self._counts[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def read(self) -> DurationCounts:
        """Return the histogram so far."""
        return DurationCounts(tuple(self._counts), self._sum_s)
