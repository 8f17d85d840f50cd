"""Limits that a benchmark is held to: what CI asks."""

from __future__ import annotations

from dataclasses import dataclass

from twincar_edge.benchmarks.report import OK, BenchmarkReport
from twincar_edge.errors import GateError, InputError


@dataclass(frozen=True)
class Limits:
    """What every measured row of this project's models has to hold; peers are not held to it.

    Attributes:
        min_top5: the least top-5, in percent; None for none.
        max_p95_ms: the longest p95 from image to answer, or at a camera's pace from a frame's arrival, in ms.

    Raises:
        InputError: a limit that nothing can meet, or that is no number.
    """

    min_top5: float | None = None
    max_p95_ms: float | None = None

    def __post_init__(self) -> None:
        """Check the figures."""
        if self.min_top5 is not None and not 0 <= self.min_top5 <= 100:
            raise InputError(f"top-5 is a percentage from 0 to 100, found {self.min_top5}")
        if self.max_p95_ms is not None and not self.max_p95_ms > 0:
            raise InputError(f"a time is above 0 ms, found {self.max_p95_ms}")

    @property
    def any(self) -> bool:
        """Say whether there is a limit at all."""
        return self.min_top5 is not None or self.max_p95_ms is not None


def breaches(report: BenchmarkReport, limits: Limits) -> list[str]:
    """Return, a line each, what the rows miss; a row that could not be measured misses every limit."""
    found = []
    for row in report.rows:
        if not limits.any or row.peer is not None:
            continue
        if row.latency is None:
            found.append(f"{row.label()} was not measured: {row.status if row.status != OK else 'interrupted'}")
            continue
        if limits.max_p95_ms is not None and row.latency.p95_ms > limits.max_p95_ms:
            found.append(f"{row.label()}: p95 {row.latency.p95_ms:.2f} ms, allowed {limits.max_p95_ms:g}")
        if limits.min_top5 is not None:
            if row.top5 is None:
                found.append(f"{row.label()}: top-5 was not measured, {limits.min_top5:g}% is wanted")
            elif 100 * row.top5 < limits.min_top5:
                found.append(f"{row.label()}: top-5 {row.top5:.2%}, wanted {limits.min_top5:g}%")
    return found


def check_limits(report: BenchmarkReport, limits: Limits) -> None:
    """Hold a report against limits.

    Raises:
        GateError: a row misses one.
    """
    found = breaches(report, limits)
    if found:
        raise GateError("; ".join(found))
