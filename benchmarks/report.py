"""What a benchmark found, as data, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twincar_edge.errors import InputError, first_fault
from twincar_edge.files import write_text
from twincar_edge.machine import Machine
from twincar_edge.manifest import DataRecord, Precision
from twincar_edge.runtime.timing import Sample

BENCHMARK_SCHEMA_VERSION: Literal[1] = 1
OK = "ok"
Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Latency(_Part):
    """How long something took, in milliseconds: percentiles by linear interpolation, mean and minimum."""

    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    mean_ms: Milliseconds
    min_ms: Milliseconds

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Latency:
        """Summarize samples, one or more."""
        p50, p90, p95, p99 = (float(value) for value in np.percentile(samples_ms, (50, 90, 95, 99)))
        mean, least = float(np.mean(samples_ms)), float(np.min(samples_ms))
        return cls(p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99, mean_ms=mean, min_ms=least)


class Timing(_Part):
    """The times of one row: each step's and the total's summary, images a second, and every raw sample in ms.

    `total` runs from images in memory to answers; decoding is not in it. `fps` is images over the mean total.
    """

    pre: Latency
    infer: Latency
    post: Latency
    total: Latency
    fps: float = Field(ge=0)
    pre_samples_ms: tuple[Milliseconds, ...]
    infer_samples_ms: tuple[Milliseconds, ...]
    post_samples_ms: tuple[Milliseconds, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample], batch: int) -> Timing:
        """Summarize the samples of batches of `batch` images."""
        pre, infer, post = (tuple(getattr(sample, f"{step}_ms") for sample in samples) for step in _STEPS)
        total = Latency.of([sample.total_ms for sample in samples])
        return cls(
            pre=Latency.of(pre),
            infer=Latency.of(infer),
            post=Latency.of(post),
            total=total,
            fps=batch * 1e3 / total.mean_ms if total.mean_ms else 0.0,
            pre_samples_ms=pre,
            infer_samples_ms=infer,
            post_samples_ms=post,
        )


_STEPS = ("pre", "infer", "post")


class Row(_Part):
    """One model on one provider. `ep` is the provider that was really used; what was not measured is None.

    `status` is "ok", or the reason why this row has no figures.
    """

    model: str
    file: str
    sha256: str
    size_mb: float
    precision: Precision
    ep_asked: str
    ep: str | None = None
    threads: int | None = None
    batch: int
    top1: Share | None = None
    top5: Share | None = None
    timing: Timing | None = None
    status: str = OK


class BenchmarkReport(_Part):
    """A whole benchmark: on what, with what, how often, and its rows."""

    schema_version: Literal[1] = BENCHMARK_SCHEMA_VERSION
    created: datetime
    machine: Machine
    versions: dict[str, str]
    images: str
    data: DataRecord | None
    warmup: int
    rounds: int
    per_round: int
    spinning: bool
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Return everything, raw samples included; `read_report` reads it again."""
        return self.model_dump_json(indent=1) + "\n"

    def to_csv(self) -> str:
        """Return one line a row, for a spreadsheet; times in milliseconds, accuracies between 0 and 1."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, _CSV_COLUMNS, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(_csv_row(row) for row in self.rows)
        return text.getvalue()

    def to_markdown(self) -> str:
        """Return the table with the machine that it was measured on."""
        lines = ["# Benchmark", "", *(f"- {line}" for line in self.conditions()), ""]
        table = [COLUMNS, ("---",) * len(COLUMNS), *self.cells()]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table]
        return "\n".join(lines) + "\n"

    def conditions(self) -> list[str]:
        """Return, in words, on what and how was measured."""
        machine = self.machine
        flags = " ".join(machine.flags) or "no telling flags"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        spinning = "spinning" if self.spinning else "sleeping between runs"
        return [
            f"{machine.cpu} ({flags}), {machine.usable_cores} usable cores, {machine.system}, Python {machine.python}",
            versions,
            f"{self.rounds} rounds of {self.per_round} runs after {self.warmup} of warm-up, threads {spinning}",
            f"images: {self.images}",
        ]

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table's text, `COLUMNS` for each row."""
        return [_cells(row) for row in self.rows]


COLUMNS = (
    "Model", "Precision", "EP asked", "EP actual", "Threads", "Batch", "MB", "Top-1", "Top-5",
    "Pre ms", "Infer ms", "Post ms", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "FPS", "Status",
)  # fmt: skip
_PLAIN = (
    "model", "file", "sha256", "size_mb", "precision", "ep_asked", "ep", "threads", "batch", "top1", "top5", "status",
)  # fmt: skip
_CSV_COLUMNS = (*_PLAIN, "fps", *(f"{step}_{figure}" for step in (*_STEPS, "total") for figure in Latency.model_fields))


def _cells(row: Row) -> tuple[str, ...]:
    timing = row.timing
    accuracies = ["–" if share is None else f"{share:.2%}" for share in (row.top1, row.top5)]
    times = ["–"] * 8
    if timing is not None:
        total = timing.total
        medians = [timing.pre.p50_ms, timing.infer.p50_ms, timing.post.p50_ms]
        times = [f"{value:.2f}" for value in (*medians, total.p50_ms, total.p90_ms, total.p95_ms, total.p99_ms)]
        times.append(f"{timing.fps:.1f}")
    threads = "–" if row.threads is None else str(row.threads)
    return (
        row.model, row.precision, row.ep_asked, row.ep or "–", threads, str(row.batch), f"{row.size_mb:.1f}",
        *accuracies, *times, row.status,
    )  # fmt: skip


def _csv_row(row: Row) -> dict[str, object]:
    values = row.model_dump(include=set(_PLAIN))
    found: dict[str, object] = {name: "" if value is None else value for name, value in values.items()}
    if row.timing is not None:
        found["fps"] = row.timing.fps
        for step in (*_STEPS, "total"):
            latency: Latency = getattr(row.timing, step)
            found.update({f"{step}_{figure}": value for figure, value in latency.model_dump().items()})
    return found


# A report's file format, by the suffix of its name.
WRITERS: dict[str, Callable[[BenchmarkReport], str]] = {
    ".json": BenchmarkReport.to_json,
    ".csv": BenchmarkReport.to_csv,
    ".md": BenchmarkReport.to_markdown,
}


def check_suffix(path: Path) -> None:
    """Make sure that a report can be written to `path`, before minutes are spent on it.

    Raises:
        InputError: its suffix names no format.
    """
    if path.suffix.lower() not in WRITERS:
        raise InputError(f"cannot write {path}: a report ends in {', '.join(WRITERS)}")


def write_report(report: BenchmarkReport, path: Path) -> None:
    """Write the report in the format of the path's suffix, whole or not at all.

    Raises:
        InputError: the suffix names no format, or the file cannot be written.
    """
    check_suffix(path)
    write_text(path, WRITERS[path.suffix.lower()](report))


def read_report(path: Path) -> BenchmarkReport:
    """Read a report that was written as JSON.

    Raises:
        InputError: the file is missing, or is no benchmark report of this release.
    """
    try:
        return BenchmarkReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path} is not a benchmark report, at {first_fault(error)}") from error
