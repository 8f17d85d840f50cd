"""What a benchmark found, as data: read again from JSON by `read_report`."""

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


class Timing(Record):
    """The times of one row: each step's and the total's summary, images a second, and every raw sample in ms.

    `total` runs from images in memory to answers; decoding is not in it. `fps` is images over the mean total. Samples
    stand in the order of the runs, `per_round` of the report to a round.
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


def bootstrap_interval(values: Sequence[float], statistic: Callable[..., Any]) -> tuple[float, float]:
    """Return the 95% interval of a statistic of values, one or more, by the bootstrap's percentiles.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.

    Args:
        values: measured independently of each other, or differences of pairs that were.
        statistic: `np.mean`, `np.median` or another one that takes an `axis`.
    """
    array = np.asarray(values, np.float64)
    drawn = np.random.default_rng(0).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(statistic(array[drawn], axis=1), (2.5, 97.5))
    return float(low), float(high)


class Ratio(Record):
    """How many times as fast a row is as the first row, by image: the median over rounds, and its 95% interval.

    Each round compares medians that were measured within the same seconds; the interval is over rounds.
    """

    median: float = Field(ge=0)
    low: float = Field(ge=0)
    high: float = Field(ge=0)

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Summarize the ratios of the rounds, one or more."""
        low, high = bootstrap_interval(ratios, np.median)
        return cls(median=float(np.median(ratios)), low=low, high=high)


class Start(Record):
    """What a program waits for once: importing what runs the model, opening the model, and the first inference."""

    import_ms: Milliseconds
    open_ms: Milliseconds
    first_ms: Milliseconds


class Paced(Record):
    """How a row kept up with a camera of `fps` frames a second.

    `frames` came in `duration_s`, `answered` of them were answered, and the share `in_time` of all before the next one
    came; what came while one was being answered was let go, except the newest. `latency` runs from a frame's arrival to
    its answer, its decoding included; the samples stand in the order of the frames. `slowdown` is the median time of
    work of the last tenth by that of the first. `cores_busy` is processor time over time. `mhz_first`, `mhz_last` are
    the cores' mean clock in these tenths, where the system tells it.
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
    """One model on one provider, or a `peer`, by its name in `PEERS`.

    `ep` is what was really used; what was not measured is None. `weights` is the digest of the checkpoint that a model
    was exported from, `nodes` how many each provider ran. `top5_change` is against the FP32 row of the same weights.
    `times_first` compares total times with the first row's, `times_first_infer` those of inference alone. Memory is the
    peak of the row's own process, `gpu_mb` what it held on the GPU. `status` is "ok", or the reason why this row has no
    figures.
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
        """Return the time to an answer: from images in memory, or at a camera's pace from the frame's arrival."""
        if self.timing is not None:
            return self.timing.total
        return None if self.paced is None else self.paced.latency

    def label(self) -> str:
        """Return how a person tells this row from the others."""
        threads = "" if self.threads is None else f", threads {self.threads}"
        return f"{self.model} {self.precision} on {self.ep or self.ep_asked}, batch {self.batch}{threads}"


class Gpu(Record):
    """A GPU: its name, its memory in MB, and its driver's version."""

    name: str
    memory_mb: float
    driver: str


class BenchmarkReport(Record):
    """A whole benchmark: on what, with what, how often, and its rows.

    `auto` says which provider `auto` takes here and why. `interrupted` says that not all rounds were measured.
    `not_run` lists the providers of the table that this machine could not run, with the reason.

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
        """Return everything, raw samples included; `read_report` reads it again."""
        return self.model_dump_json(indent=1) + "\n"

    def conditions(self) -> list[str]:
        """Return, in words, on what and how was measured."""
        machine = self.machine
        flags = " ".join(machine.flags) or "no telling flags"
        gpus = "; ".join(f"{gpu.name}, {gpu.memory_mb:.0f} MB, driver {gpu.driver}" for gpu in self.gpus) or "no GPU"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        spins = " and ".join(
            {True: "spinning", False: "sleeping between runs"}[spins]
            for spins in sorted({row.spinning for row in self.rows}, reverse=True)
        )
        how = f"{self.rounds} rounds of {self.per_round} runs after {self.warmup} of warm-up"
        if any(row.paced for row in self.rows):
            how = next(
                f"{row.paced.fps:g} frames a second for {row.paced.duration_s:g} s each, decoded from {row.paced.clip}"
                for row in self.rows
                if row.paced
            )
        return [
            f"{machine.cpu} ({flags}), {machine.usable_cores} usable cores, {machine.system}, Python {machine.python}; "
            f"{gpus}",
            versions,
            f"{how}, a process for each row, threads {spins}",
            f"images: {self.images}",
            self.auto,
            *(("interrupted: not all rounds were measured",) if self.interrupted else ()),
            *(f"not run: {reason}" for reason in self.not_run),
        ]


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
        raise InputError(f"{path} is not a benchmark report of this release, at {first_fault(error)}") from error
