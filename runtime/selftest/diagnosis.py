"""The results of `doctor`, as data and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from twincar_edge.errors import GateError
from twincar_edge.machine import Machine
from twincar_edge.records import Record

DIAGNOSIS_SCHEMA_VERSION: Literal[1] = 1
Status = Literal["ok", "absent", "warn", "fail"]


class Check(Record):
    """The result of one check.

    The status `fail` means that answers would be wrong or nothing would run; `warn`, that something is slow, worse than
    before, or missing; `absent`, that something optional is not installed. `advice` is the remedy, empty if none is
    needed or `found` includes it.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


class Measured(Record):
    """The measurements as numbers; None if a measurement was impossible.

    `latency` is the time from a 720p crop in memory to its answer, `locate` the time to find vehicles in a 720p frame,
    both in milliseconds. `sustained_fps` is the highest frame rate, with one vehicle per frame, that does not fill the
    queue; it does not include decoding. `pixel_difference` and `logit_difference` are those of the golden inputs.
    """

    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    locate_p95_ms: float | None = None
    sustained_fps: float | None = None
    pixel_difference: float | None = None
    logit_difference: float | None = None


class Diagnosis(Record):
    """All checks on this machine, in order of dependency."""

    schema_version: Literal[1] = DIAGNOSIS_SCHEMA_VERSION
    created: datetime
    machine: Machine
    model: str
    ep_asked: str
    ep: str | None
    checks: tuple[Check, ...]
    measured: Measured = Measured()

    @property
    def failures(self) -> tuple[Check, ...]:
        """Return the failed checks."""
        return tuple(check for check in self.checks if check.status == "fail")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return one table row per check: name, status, and the finding with its advice."""
        return [(c.name, c.status, f"{c.found}\n-> {c.advice}" if c.advice else c.found) for c in self.checks]

    def to_json(self) -> str:
        """Return the diagnosis as JSON."""
        return self.model_dump_json(indent=2) + "\n"


class DoctorError(GateError):
    """A check failed: answers on this machine would be wrong, or nothing would run."""

    def __init__(self, failures: Sequence[Check]) -> None:
        """Name the failed checks; the table has the details."""
        super().__init__(f"checks failed on this machine: {', '.join(check.name for check in failures)}")
