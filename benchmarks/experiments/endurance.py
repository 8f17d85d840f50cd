"""Measures memory, open files and threads of a long run of `twincar-edge watch`.

    python -m twincar_edge.benchmarks.experiments endurance SOURCE [--duration 30m] [-o results.json] [-- OPTION…]

The run is unmodified: resources are read from the operating system, activity from the run's metrics.

The first minute is excluded, because libraries are loaded on first use and buffers grow to their size. Growth is the
ratio of the medians of the last minute and the second one. The slope of all samples after the first minute
distinguishes a leak from a step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import linear_regression, median
from typing import Literal

import click

from twincar_edge.benchmarks.experiments.options import duration_s, model_option, output_option, publish
from twincar_edge.benchmarks.experiments.watch_process import Sample, WatchProcess
from twincar_edge.bundled import default_model
from twincar_edge.cli.commands import Command
from twincar_edge.errors import GateError, InputError
from twincar_edge.files import sha256
from twincar_edge.machine import Machine, this_machine
from twincar_edge.manifest import read_manifest
from twincar_edge.records import Record
from twincar_edge.runtime.sources.base import redact_url

SCHEMA_VERSION: Literal[2] = 2
CROPS_LIMIT = "1MB"  # so small that old images are deleted within minutes


class Growth(Record):
    """Memory in the second and in the last minute, in MB, the growth in percent, and the slope of all samples."""

    first_mb: float
    last_mb: float
    percent: float
    mb_per_hour: float


class Endurance(Record):
    """The full measurement.

    `options` are additional options of `twincar-edge watch`. `written_mb` is the disk usage at the end, of `events`,
    `store` and `crops`; the last is limited to `crops_limit`.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    created: datetime
    machine: Machine
    source: str
    options: tuple[str, ...]
    model: str
    model_sha256: str
    seconds: float
    crops_limit: str
    resident: Growth
    anonymous: Growth
    written_mb: dict[str, float]
    samples: tuple[Sample, ...]

    def summary(self) -> str:
        """Return the results in a few lines."""
        first, last = self.samples[0], self.samples[-1]
        ages_ms = [1e3 * one.answer_age_s for one in self.samples if one.answer_age_s is not None]
        ages = f"{median(ages_ms):.0f} ms after their frame (median), at most {max(ages_ms):.0f}" if ages_ms else "none"
        lines = [
            f"{self.source}: {self.seconds / 60:.1f} minutes, {self.model}",
            *(
                f"{name:<12} {held.first_mb:.1f} MB at the start, {held.last_mb:.1f} MB at the end: "
                f"{held.percent:+.2f}%, {held.mb_per_hour:+.2f} MB per hour"
                for name, held in (("resident", self.resident), ("anonymous", self.anonymous))
            ),
            f"open files   {_range([one.open_files for one in self.samples])}",
            f"threads      {_range([one.threads for one in self.samples])}",
            f"frames       {last.frames}, {last.frames / self.seconds:.1f} per second; dropped: "
            f"{last.frames_dropped}; reconnects: {last.reconnects}",
            f"visits       {last.visits}; events delivered: {last.events}, dropped: {last.events_dropped}",
            f"answers      {ages}",
            f"cores busy   {(last.cpu_s - first.cpu_s) / (last.at_s - first.at_s):.2f}",
            "disk usage   " + ", ".join(f"{name} {size:.2f} MB" for name, size in self.written_mb.items()),
        ]
        return "\n".join(lines)

    def check(self, most_percent: float) -> None:
        """Check the growth of memory against a limit.

        Raises:
            GateError: the limit is reached.
        """
        if self.resident.percent >= most_percent:
            raise GateError(f"resident memory grew by {self.resident.percent:.2f}% (limit {most_percent:g}%)")


def measure_endurance(
    source: str,
    model: Path | None = None,
    options: Sequence[str] = (),
    *,
    duration_s: float = 1800.0,
    every_s: float = 5.0,
    window_s: float = 60.0,
) -> Endurance:
    """Run `watch` on a source for some time, and sample its process.

    Args:
        source: a camera or stream for `twincar-edge watch`.
        model: an exported model; None for the bundled one.
        options: additional options of `twincar-edge watch`, such as `--zone`.
        duration_s: duration after the run is ready, in seconds.
        every_s: interval between samples, in seconds.
        window_s: length of the excluded start and of the two windows to compare, in seconds.

    Raises:
        InputError: the source cannot be watched, the run ends early, or the operating system does not report the
            memory of processes.
        ModelError: the model cannot be used.
    """
    if duration_s < 3 * window_s or every_s > window_s / 2:
        raise InputError(
            f"cannot measure growth in {duration_s:g} s with a sample every {every_s:g} s: use a duration of at least "
            f"three windows of {window_s:g} s, and at least two samples per window"
        )
    model = model or default_model()
    manifest = read_manifest(model)
    samples: list[Sample] = []
    with (
        tempfile.TemporaryDirectory(prefix="endurance-") as folder,
        WatchProcess(source, model, options, Path(folder), CROPS_LIMIT) as run,
    ):
        while len(samples) * every_s <= duration_s:
            run.wait_until(len(samples) * every_s)
            samples.append(run.sample())
        run.stop()
        written_mb = run.written_mb()
    return Endurance(
        created=datetime.now(UTC),
        machine=this_machine(),
        source=redact_url(source),
        options=tuple(map(redact_url, options)),
        model=manifest.name,
        model_sha256=sha256(model),
        seconds=samples[-1].at_s,
        crops_limit=CROPS_LIMIT,
        resident=growth([(one.at_s, one.resident_mb) for one in samples], window_s),
        anonymous=growth([(one.at_s, one.anonymous_mb) for one in samples], window_s),
        written_mb=written_mb,
        samples=tuple(samples),
    )


def growth(samples: Sequence[tuple[float, float]], window_s: float) -> Growth:
    """Return the growth of memory, from ordered pairs of seconds and MB, excluding the first `window_s` seconds."""
    counted = [(at_s, held_mb) for at_s, held_mb in samples if at_s >= window_s]
    last_s = counted[-1][0]
    first_mb = median(held_mb for at_s, held_mb in counted if at_s < 2 * window_s)
    last_mb = median(held_mb for at_s, held_mb in counted if at_s > last_s - window_s)
    times_s, held_mb = zip(*counted, strict=True)
    return Growth(
        first_mb=first_mb,
        last_mb=last_mb,
        percent=100 * (last_mb / first_mb - 1),
        mb_per_hour=3600 * linear_regression(times_s, held_mb).slope,
    )


def _range(values: Sequence[int]) -> str:
    return f"{values[0]} at the start, {values[-1]} at the end, from {min(values)} to {max(values)}"


@click.command("endurance", cls=Command)
@click.argument("source")
@click.argument("options", nargs=-1, metavar="[-- OPTION...]")
@model_option
@click.option("--duration", callback=duration_s, default="30m", show_default=True, help="Duration after start-up.")
@click.option("--every", callback=duration_s, default="5s", show_default=True, help="Interval between samples.")
@click.option(
    "--window",
    callback=duration_s,
    default="1m",
    show_default=True,
    help="Length of the excluded start and of the two windows to compare.",
)
@click.option("--max-growth", default=2.0, show_default=True, help="Limit of resident memory growth, in percent.")
@output_option
def command(
    source: str,
    options: tuple[str, ...],
    model: Path | None,
    duration: float,
    every: float,
    window: float,
    max_growth: float,
    output: Path | None,
) -> None:
    """Run watch on SOURCE, a camera or endless stream, and sample its memory, files and threads.

    OPTIONs are additional options of `twincar-edge watch`.
    """
    report = measure_endurance(source, model, options, duration_s=duration, every_s=every, window_s=window)
    publish(report, report.summary(), output)
    report.check(max_growth)
