"""What the doctor found, as data and as JSON."""

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
    """One thing that was looked at.

    `fail` says that answers would be wrong or nothing would run, `warn` that it is slower, worse than before, or that
    something is missing, `absent` that something is not installed which nobody asked for.
    `advice` says what to do; it is empty where there is nothing to.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


class Measured(Record):
    """What was measured, for machines; None where it could not be.

    `latency` is from a 720p crop in memory to its answer, `locate` finding vehicles in a 720p frame, both in
    milliseconds. `sustained_fps` is how many frames a second, each with one vehicle in it, leave no queue behind:
    decoding is not in it. `pixel_difference` and `logit_difference` are the golden inputs'.
    """

    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    locate_p95_ms: float | None = None
    sustained_fps: float | None = None
    pixel_difference: float | None = None
    logit_difference: float | None = None


class Diagnosis(Record):
    """Everything that was looked at on this machine, in the order in which one thing rests on another."""

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
        """Return the checks that would make answers wrong, or let nothing run."""
        return tuple(check for check in self.checks if check.status == "fail")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return one row a check for a table: name, status, and what was found with what to do about it."""
        return [(c.name, c.status, f"{c.found}\n-> {c.advice}" if c.advice else c.found) for c in self.checks]

    def to_json(self) -> str:
        """Return the diagnosis as JSON."""
        return self.model_dump_json(indent=2) + "\n"


class DoctorError(GateError):
    """Something on this machine would make answers wrong, or lets nothing run."""

    def __init__(self, failures: Sequence[Check]) -> None:
        """Name what failed; the table says how."""
        super().__init__(f"this machine is not fit to answer: {', '.join(check.name for check in failures)}")
