"""Limits for the results of a benchmark, for use in CI."""

from __future__ import annotations

from dataclasses import dataclass

from twincar_edge.benchmarks.report import OK, BenchmarkReport
from twincar_edge.errors import GateError, InputError
from twincar_edge.metrics import at_least


@dataclass(frozen=True)
class Limits:
    """Limits for all rows except peers.

    Attributes:
        min_top5: the lowest top-5, in percent; None for no limit.
        max_p95_ms: the longest p95, from image to answer or, at a camera's pace, from the frame's arrival, in ms; None
            for no limit.

    Raises:
        InputError: a limit is out of range.
    """

    min_top5: float | None = None
    max_p95_ms: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.min_top5 is not None and not 0 <= self.min_top5 <= 100:
            raise InputError(f"the limit for top-5 must be 0 to 100 percent, found {self.min_top5}")
        if self.max_p95_ms is not None and not self.max_p95_ms > 0:
            raise InputError(f"the limit for p95 must be above 0 ms, found {self.max_p95_ms}")

    @property
    def any(self) -> bool:
        """Return whether there is any limit."""
        return self.min_top5 is not None or self.max_p95_ms is not None


def breaches(report: BenchmarkReport, limits: Limits) -> list[str]:
    """Return a line for each limit that a row does not meet; rows without measurements meet none."""
    found = []
    for row in report.rows:
        if not limits.any or row.peer is not None:
            continue
        if row.latency is None:
            found.append(f"{row.label()} was not measured: {row.status if row.status != OK else 'interrupted'}")
            continue
        if limits.max_p95_ms is not None and row.latency.p95_ms > limits.max_p95_ms:
            found.append(f"{row.label()}: p95 is {row.latency.p95_ms:.2f} ms (limit {limits.max_p95_ms:g} ms)")
        if limits.min_top5 is not None:
            if row.top5 is None:
                found.append(f"{row.label()}: top-5 was not measured (limit {limits.min_top5:g}%)")
            elif not at_least(100 * row.top5, limits.min_top5):
                found.append(f"{row.label()}: top-5 is {row.top5:.2%} (limit {limits.min_top5:g}%)")
    return found


def check_limits(report: BenchmarkReport, limits: Limits) -> None:
    """Check a report against limits.

    Raises:
        GateError: a row does not meet a limit.
    """
    found = breaches(report, limits)
    if found:
        raise GateError("; ".join(found))
