"""`twincar-edge score`: classify an archive into Parquet files, on one machine or a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.completion import complete_files
from twincar_edge.cli.groups import GroupedCommand, option
from twincar_edge.cli.options import check_needs, ep_option
from twincar_edge.cli.written import print_written
from twincar_edge.wording import counted

if TYPE_CHECKING:
    from twincar_edge.runtime.scoring.score import ScoreProgress, ScoreReport

_PROGRESS_INTERVAL_S = 30  # without a terminal
_MAX_MAKES = 10


@click.command("score", cls=GroupedCommand, groups=("Archive", "Model", "Workers"))
@click.argument("source", metavar="INPUT", shell_complete=complete_files)
@option(
    "-o",
    "--output",
    group="Archive",
    common=True,
    required=True,
    metavar="OUT",
    shell_complete=complete_files,
    help="Write the Parquet files (one per partition) into this folder or URL.",
)
@option(
    "--resume",
    group="Archive",
    common=True,
    is_flag=True,
    help="Continue the run in OUT, or start one if OUT is empty.",
)
@option(
    "--model",
    group="Model",
    common=True,
    type=click.Path(path_type=Path),
    help="Score with this exported .onnx file.  [default: the bundled model]",
)
@option(
    "--embedding", group="Archive", common=True, is_flag=True, help="Add a column with the embedding of each image."
)
@option(
    "--ray",
    "ray_address",
    group="Workers",
    common=True,
    metavar="auto|ADDRESS",
    help="Run on the Ray cluster of this machine (auto) or at this address.  [default: this machine, without Ray]",
)
@option(
    "--workers",
    group="Workers",
    common=True,
    metavar="N",
    type=click.IntRange(min=1),
    help="Run this many workers, or at most this many on a cluster.  [default: one per core, or as many as fit on the "
    "cluster]",
)
@option(
    "--partition-size",
    group="Archive",
    metavar="N",
    type=click.IntRange(1, 100_000),
    default=2000,
    show_default=True,
    help="Put this many images into one partition.",
)
@option(
    "--detector",
    group="Model",
    type=click.Path(path_type=Path),
    help="Find vehicles in videos with this ONNX file.  [default: the one from `detector pull`, or motion]",
)
@ep_option
@option(
    "--threads",
    group="Model",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Run one inference on this many CPU threads.",
)
@option(
    "--batch",
    group="Model",
    metavar="N",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Score up to this many images in one inference.",
)
@option(
    "--num-cpus",
    group="Workers",
    metavar="N",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Reserve this many CPUs of the cluster for one worker.",
)
@option(
    "--num-gpus",
    group="Workers",
    metavar="N",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Reserve this many GPUs of the cluster for one worker; 0.5 lets two share one.",
)
@option("--json", "as_json", group="Archive", is_flag=True, help="Print the summary as JSON.")
def command(
    source: str,
    output: str,
    model: Path | None,
    resume: bool,
    embedding: bool,
    ray_address: str | None,
    workers: int | None,
    partition_size: int,
    detector: Path | None,
    ep: str,
    threads: int,
    batch: int,
    num_cpus: float,
    num_gpus: float,
    as_json: bool,
) -> None:
    """Classify a whole archive, and write the answers as Parquet files to OUT.

    INPUT is a folder (searched with its subfolders), a quoted pattern, a CSV or Parquet file of paths or images,
    WebDataset tars, or videos: a local path, or a URL like s3://bucket/crops. An unreadable input becomes a row with
    an error. A partition is written whole or not at all; --resume continues after an interruption.
    """
    check_needs({"num_cpus": ("ray_address",), "num_gpus": ("ray_address",)})
    from twincar_edge.runtime.scoring.on_ray import RayOptions
    from twincar_edge.runtime.scoring.score import ScoreConfig, score

    config = ScoreConfig(
        source=source,
        output=output,
        model=model,
        resume=resume,
        embedding=embedding,
        partition_size=partition_size,
        batch=batch,
        workers=workers,
        ep=ep,
        threads=threads,
        detector=detector,
        ray=None if ray_address is None else RayOptions(ray_address, num_cpus, num_gpus),
    )
    with _progress() as progress:
        report = score(config, progress=progress)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _print(report)


def _print(report: ScoreReport) -> None:
    resumed = f", {counted(report.resumed, 'partition')} from earlier runs" if report.resumed else ""
    makes = [f"{make} {rows:,}" for make, rows in list(report.makes.items())[:_MAX_MAKES]]
    others = len(report.makes) - len(makes)
    rows = f"{counted(report.rows, 'row')} in {counted(report.partitions, 'partition')}{resumed}"
    print_written(report.output, about=rows)
    for line in (
        f"{report.errors:,} could not be read",
        "by level: " + (", ".join(f"{level} {rows:,}" for level, rows in report.levels.items()) or "none"),
        "by make: " + (", ".join(makes) or "none") + (f", and {counted(others, 'more make')}" if others else ""),
        f"{_duration(report.elapsed_s)}, {report.rows_per_s:,.0f} rows/s",
    ):
        click.echo(line)


@contextmanager
def _progress() -> Iterator[Callable[[ScoreProgress], None]]:
    """Yield a callback that shows progress: a bar on a terminal, otherwise a line every 30 seconds."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("partitions"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(progress: ScoreProgress) -> None:
            bar.update(task, completed=progress.partitions, total=progress.of, description=_rate(progress))

        yield show


def _lines() -> Callable[[ScoreProgress], None]:
    last_s = time.monotonic()

    def show(progress: ScoreProgress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _PROGRESS_INTERVAL_S:
            last_s = time.monotonic()
            click.echo(f"{progress.partitions:,} of {progress.of:,} partitions, {_rate(progress)}", err=True)

    return show


def _rate(progress: ScoreProgress) -> str:
    return f"{progress.rows:,} rows, {progress.rows_per_s:,.0f} rows/s, {_duration(progress.left_s)} left"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
