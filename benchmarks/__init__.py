"""Benchmarks latency and accuracy of models on all execution providers and precisions."""

from twincar_edge.opencv_environment import check_opencv_environment

check_opencv_environment()  # before a module of this package imports OpenCV
# ruff: noqa: E402 - the other imports come after this check

from twincar_edge.benchmarks.bench import run
from twincar_edge.benchmarks.compare import Comparison, compare
from twincar_edge.benchmarks.config import BenchmarkConfig, CameraPace
from twincar_edge.benchmarks.formats import write_report
from twincar_edge.benchmarks.gates import Limits, check_limits
from twincar_edge.benchmarks.report import BenchmarkReport, Latency, Row, Timing, read_report
from twincar_edge.machine import Machine
from twincar_edge.runtime.timing import Schedule

__all__ = [
    "BenchmarkConfig",
    "BenchmarkReport",
    "CameraPace",
    "Comparison",
    "Latency",
    "Limits",
    "Machine",
    "Row",
    "Schedule",
    "Timing",
    "check_limits",
    "compare",
    "read_report",
    "run",
    "write_report",
]
