"""Latency and accuracy over execution providers and precisions."""

from twincar_edge.benchmarks.bench import BenchmarkConfig, run
from twincar_edge.benchmarks.report import BenchmarkReport, Latency, Row, Timing, read_report, write_report
from twincar_edge.machine import Machine
from twincar_edge.runtime.timing import Schedule

__all__ = [
    "BenchmarkConfig",
    "BenchmarkReport",
    "Latency",
    "Machine",
    "Row",
    "Schedule",
    "Timing",
    "read_report",
    "run",
    "write_report",
]
