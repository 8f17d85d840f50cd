"""Latencies of the stages of a loop, in constant memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twincar_edge.records import Record
from twincar_edge.runtime.monitoring.durations import DurationCounts, Durations

_SHORTEST_S = 1e-6
_STEP = 1.02  # each bin is 2% wider than the last, so that a percentile is accurate to 1%
_BINS = 1000  # up to 400 s


class StageLatency(Record):
    """A stage's number of runs, and the median and 95th percentile of its latency, accurate to 1%."""

    runs: int
    p50_ms: float
    p95_ms: float


class Stages:
    """Measures named stages, from any number of threads. `timer` returns seconds."""

    def __init__(self, timer: Callable[[], float] = time.perf_counter) -> None:
        """Start empty."""
        self.timer = timer
        self._counts: dict[str, list[int]] = {}
        self._durations: dict[str, Durations] = {}
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block, whether or not it raises."""
        started = self.timer()
        try:
            yield
        finally:
            self.add(name, self.timer() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add a run of a stage."""
        place = min(int(math.log(max(seconds, _SHORTEST_S) / _SHORTEST_S) / math.log(_STEP)), _BINS - 1)
        with self._lock:
            counts = self._counts.get(name)
            if counts is None:
                counts = self._counts[name] = [0] * _BINS
                self._durations[name] = Durations()
            counts[place] += 1
            self._durations[name].add(seconds)

    def durations(self) -> dict[str, DurationCounts]:
        """Return a histogram for each stage, in the order in which the stages first ran."""
        with self._lock:
            return {name: durations.read() for name, durations in self._durations.items()}

    def latencies(self) -> dict[str, StageLatency]:
        """Return the latencies of each stage, in the order in which the stages first ran."""
        with self._lock:
            copies = {name: list(counts) for name, counts in self._counts.items()}
        return {
            name: StageLatency(
                runs=sum(counts), p50_ms=_percentile_ms(counts, 0.5), p95_ms=_percentile_ms(counts, 0.95)
            )
            for name, counts in copies.items()
        }


def _percentile_ms(counts: list[int], share: float) -> float:
    wanted = max(1, math.ceil(share * sum(counts)))
    seen = 0
    for place, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return float(round(1000 * _SHORTEST_S * _STEP ** (place + 0.5), 3))
    return 0.0
