"""The report of a benchmark, as data; `read_report` reads it from JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from twincar_edge.errors import InputError, first_fault
from twincar_edge.machine import Machine
from twincar_edge.manifest import DataRecord, Precision
from twincar_edge.records import Record, Share
from twincar_edge.runtime.timing import Sample

BENCHMARK_SCHEMA_VERSION: Literal[2] = 2
OK = "ok"
STEPS = ("pre", "infer", "post")
RESAMPLES = 2000
Milliseconds = Annotated[float, Field(ge=0)]


class Latency(Record):
    """Summary of times in milliseconds: percentiles (with linear interpolation), mean and minimum."""

    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds
    mean_ms: Milliseconds
    min_ms: Milliseconds

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Latency:
        """Summarize one or more samples."""
        p50, p90, p95, p99 = (float(value) for value in np.percentile(samples_ms, (50, 90, 95, 99)))
        mean, least = float(np.mean(samples_ms)), float(np.min(samples_ms))
        return cls(p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99, mean_ms=mean, min_ms=least)


class Timing(Record):
    """The times of one row: summaries of each step and of the total, images per second, and all raw samples in ms.

    `total` is from images in memory to answers, without decoding. `fps` is the batch size divided by the mean total.
    Samples are in the order of the runs, with the report's `per_round` samples per round.
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
        pre, infer, post = (tuple(getattr(sample, f"{step}_ms") for sample in samples) for step in STEPS)
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


def bootstrap_interval(values: Sequence[float], statistic: Callable[..., Any]) -> tuple[float, float] | None:
    """Return the 95% percentile bootstrap interval of a statistic, or None for fewer than two values.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.

    Args:
        values: independent measurements, or differences of independent pairs.
        statistic: `np.mean`, `np.median` or another function with an `axis` parameter.
    """
    if len(values) < 2:
        return None
    array = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(statistic(array[drawn], axis=1), (2.5, 97.5))
    return float(low), float(high)


class Ratio(Record):
    """The speedup of a row over the first row, per image: the median over rounds, and its 95% interval.

    One round has no interval: `low` and `high` are None. Each round compares medians that were measured within seconds
    of each other.
    """

    median: float = Field(ge=0)
    low: float | None = Field(ge=0)
    high: float | None = Field(ge=0)

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Summarize the ratios of one or more rounds."""
        low, high = bootstrap_interval(ratios, np.median) or (None, None)
        return cls(median=float(np.median(ratios)), low=low, high=high)


class Start(Record):
    """One-time costs: importing the runtime, opening the model, and the first inference."""

    import_ms: Milliseconds
    open_ms: Milliseconds
    first_ms: Milliseconds


class Paced(Record):
    """The results of a row at the pace of a camera of `fps` frames per second.

    `frames` arrived in `duration_s`, and `answered` of them were classified. The share `in_time` of all frames was
    classified before the next one arrived. Frames that arrive during a classification are dropped, except the newest.
    `latency` is from a frame's arrival to its answer, including decoding; samples are in the order of the frames.
    `slowdown` is the ratio of the median working times of the last and the first tenth. `cores_busy` is CPU time
    divided by elapsed time. `mhz_first` and `mhz_last` are the mean clock rates of the cores in these tenths, or None
    if not known.
    """

    fps: float
    duration_s: float
    clip: str
    frames: int
    answered: int
    in_time: Share
    sustained_fps: float
    latency: Latency
    decode: Latency
    pre: Latency
    infer: Latency
    post: Latency
    slowdown: float
    cores_busy: float
    mhz_first: float | None
    mhz_last: float | None
    latency_samples_ms: tuple[Milliseconds, ...]


class Row(Record):
    """One model on one provider, or a `peer` (a key of `PEERS`). Values that were not measured are None.

    `ep` is the provider that actually ran the model. `weights` is the digest of the model's checkpoint, `nodes` the
    number of nodes by provider. `top5_change` is relative to the FP32 row of the same weights. `times_first` is the
    speedup over the first row by total times, `times_first_infer` by inference times. `peak_mb` is the peak memory of
    the row's process, `gpu_mb` its GPU memory. `status` is "ok", or the reason why the row was not measured, or
    not completely.
    """

    model: str
    file: str
    peer: str | None = None
    sha256: str | None
    weights: str | None
    size_mb: float | None
    precision: Precision
    ep_asked: str
    ep: str | None = None
    nodes: dict[str, int] | None = None
    threads: int | None = None
    batch: int
    spinning: bool
    top1: Share | None = None
    top5: Share | None = None
    top5_change: float | None = None
    timing: Timing | None = None
    paced: Paced | None = None
    times_first: Ratio | None = None
    times_first_infer: Ratio | None = None
    start: Start | None = None
    peak_mb: float | None = None
    gpu_mb: float | None = None
    status: str = OK

    @property
    def latency(self) -> Latency | None:
        """Return the latency: from images in memory or, at a camera's pace, from the frame's arrival."""
        if self.timing is not None:
            return self.timing.total
        return None if self.paced is None else self.paced.latency

    def label(self) -> str:
        """Return a label that distinguishes this row from the others."""
        threads = "" if self.threads is None else f", threads {self.threads}"
        return f"{self.model} {self.precision} on {self.ep or self.ep_asked}, batch {self.batch}{threads}"


class Gpu(Record):
    """A GPU: its name, its memory in MB, and its driver's version."""

    name: str
    memory_mb: float
    driver: str


class BenchmarkReport(Record):
    """The full report: the conditions of the measurement, and the rows.

    `auto` explains which provider `auto` selects on this machine. `interrupted` means that not all rounds were
    measured. `not_run` lists the providers that are not usable on this machine, with the reason.

    >>> report = tw.benchmark(tw.demo_model(), eps=["cpu"], threads=[1], warmup=1, rounds=1, per_round=2)
    >>> len(report.rows), report.rows[0].model
    (1, 'twins')
    >>> Path("bench.json").write_text(report.to_json()) > 0
    True
    """

    schema_version: Literal[2] = BENCHMARK_SCHEMA_VERSION
    created: datetime
    machine: Machine
    gpus: tuple[Gpu, ...] = ()
    versions: dict[str, str]
    images: str
    data: DataRecord | None
    warmup: int
    rounds: int
    per_round: int
    auto: str
    interrupted: bool = False
    not_run: tuple[str, ...] = ()
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """Return the report as JSON, including raw samples; `read_report` reads it."""
        return self.model_dump_json(indent=1) + "\n"

    def conditions(self) -> list[str]:
        """Return the conditions of the measurement, one line each."""
        machine = self.machine
        flags = " ".join(machine.flags) or "no relevant flags"
        gpus = "; ".join(f"{gpu.name}, {gpu.memory_mb:.0f} MB, driver {gpu.driver}" for gpu in self.gpus) or "no GPU"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        spins = " and ".join(
            {True: "spinning", False: "sleeping between runs"}[spins]
            for spins in sorted({row.spinning for row in self.rows}, reverse=True)
        )
        how = f"{self.rounds} rounds of {self.per_round} runs after {self.warmup} warm-up runs"
        if any(row.paced for row in self.rows):
            how = next(
                f"{row.paced.fps:g} fps for {row.paced.duration_s:g} s each, decoded from {row.paced.clip}"
                for row in self.rows
                if row.paced
            )
        return [
            f"{machine.cpu} ({flags}), {machine.usable_cores} usable cores, {machine.system}, Python {machine.python}; "
            f"{gpus}",
            versions,
            f"{how}, one process per row, threads {spins}",
            f"images: {self.images}",
            self.auto,
            *(("interrupted: not all rounds were measured",) if self.interrupted else ()),
            *(f"not run: {reason}" for reason in self.not_run),
        ]


def read_report(path: Path) -> BenchmarkReport:
    """Read a report from JSON.

    Raises:
        InputError: the file is missing, or is not a benchmark report of this release.
    """
    try:
        return BenchmarkReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise InputError(f"{path} is not a benchmark report of this release, at {first_fault(error)}") from error
