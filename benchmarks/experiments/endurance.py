"""What a run that lasts holds on to: memory, open files and threads of `twincar-edge watch`.

    python -m twincar_edge.benchmarks.experiments endurance SOURCE [--duration 30m] [-o results.json] [-- OPTION…]

Nothing is changed in the run to look at it: what it holds is read from the system, what it does from its metrics.

The first minute is left out: libraries are loaded when they are needed first, and buffers take their size. Growth is
the median of the last minute by that of the second; the slope through all samples behind the first minute tells a leak
from a step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import linear_regression, median
from typing import Literal

import click

from twincar_edge.benchmarks.experiments.options import model_option, output_option, publish
from twincar_edge.benchmarks.experiments.watch_process import Sample, WatchProcess
from twincar_edge.bundled import default_model
from twincar_edge.errors import GateError, InputError
from twincar_edge.files import sha256
from twincar_edge.machine import Machine, this_machine
from twincar_edge.manifest import read_manifest
from twincar_edge.records import Record
from twincar_edge.runtime.quantities import parse_age
from twincar_edge.runtime.sources.base import redact_url

SCHEMA_VERSION: Literal[2] = 2
CROPS_LIMIT = "1MB"  # so small that old pictures go within minutes


class Growth(Record):
    """Memory in the second minute and in the last, in MB; the growth in percent, and the slope of all between."""

    first_mb: float
    last_mb: float
    percent: float
    mb_per_hour: float


class Endurance(Record):
    """A whole measurement.

    `options` are those of `twincar-edge watch` beyond the benchmark's own. `written_mb` is what lay on the disk in the
    end: `events`, `store` and `crops`, of which `crops_limit` is the most.
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
        """Return what was found, in a few lines."""
        first, last = self.samples[0], self.samples[-1]
        ages_ms = [1e3 * one.answer_age_s for one in self.samples if one.answer_age_s is not None]
        behind = f"{median(ages_ms):.0f} ms behind their frame, at most {max(ages_ms):.0f}" if ages_ms else "none"
        lines = [
            f"{self.source}: {self.seconds / 60:.1f} minutes, {self.model}",
            *(
                f"{name:<12} {held.first_mb:.1f} MB at first, {held.last_mb:.1f} MB in the end: {held.percent:+.2f}%, "
                f"{held.mb_per_hour:+.2f} MB an hour"
                for name, held in (("resident", self.resident), ("anonymous", self.anonymous))
            ),
            f"open files   {_course([one.open_files for one in self.samples])}",
            f"threads      {_course([one.threads for one in self.samples])}",
            f"frames       {last.frames}, {last.frames / self.seconds:.1f} a second; passed over: "
            f"{last.frames_dropped}; reconnected {last.reconnects} times",
            f"visits       {last.visits}; events delivered: {last.events}, given up: {last.events_dropped}",
            f"answers      {behind}",
            f"cores busy   {(last.cpu_s - first.cpu_s) / (last.at_s - first.at_s):.2f}",
            "on the disk  " + ", ".join(f"{name} {size:.2f} MB" for name, size in self.written_mb.items()),
        ]
        return "\n".join(lines)

    def check(self, most_percent: float) -> None:
        """See that memory has not grown beyond a limit.

        Raises:
            GateError: it has.
        """
        if self.resident.percent >= most_percent:
            raise GateError(
                f"resident memory grew by {self.resident.percent:.2f}%, and should grow by less than {most_percent:g}%"
            )


def measure_endurance(
    source: str,
    model: Path | None = None,
    options: Sequence[str] = (),
    *,
    duration_s: float = 1800.0,
    every_s: float = 5.0,
    window_s: float = 60.0,
) -> Endurance:
    """Watch a source for a while, and look at the process that does.

    Args:
        source: a camera or stream, as `twincar-edge watch` takes it.
        model: an exported model; None for the bundled one.
        options: more of `twincar-edge watch`, as `--zone`.
        duration_s: how long, from when the run is ready.
        every_s: between two samples.
        window_s: what is left out at first, and the length of what is compared then.

    Raises:
        InputError: the source cannot be watched, the run ends before its time, or this system does not tell what a
            process holds.
        ModelError: the model cannot be used.
    """
    if duration_s < 3 * window_s or every_s > window_s / 2:
        raise InputError(
            f"{duration_s:g} s with a sample every {every_s:g} s are too few: {window_s:g} s are left out, two windows "
            "of that length compared, and each needs two samples"
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
    """Return how memory grew, from pairs of seconds and MB in their order, the first `window_s` left out."""
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


def _course(values: Sequence[int]) -> str:
    return f"{values[0]} at first, {values[-1]} in the end, never fewer than {min(values)} or more than {max(values)}"


def _seconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    try:
        return parse_age(value).total_seconds()
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("endurance")
@click.argument("source")
@click.argument("options", nargs=-1, metavar="[-- OPTION...]")
@model_option
@click.option("--duration", callback=_seconds, default="30m", show_default=True, help="Time from ready on.")
@click.option("--every", callback=_seconds, default="5s", show_default=True, help="Time between two samples.")
@click.option(
    "--window", callback=_seconds, default="1m", show_default=True, help="Left out at first, and compared then."
)
@click.option("--max-growth", default=2.0, show_default=True, help="Most growth of resident memory, in percent.")
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
    """Watch SOURCE, a camera or stream that lasts, and sample what the process holds.

    OPTIONs are more options of `twincar-edge watch`.
    """
    report = measure_endurance(source, model, options, duration_s=duration, every_s=every, window_s=window)
    publish(report, report.summary(), output)
    report.check(max_growth)
