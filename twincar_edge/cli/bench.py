"""`twincar-edge bench`: measure latency and accuracy across providers and precisions, and compare two reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from twincar_edge.benchmarks import (
    BenchmarkConfig,
    BenchmarkReport,
    CameraPace,
    Limits,
    Schedule,
    check_limits,
    compare,
    read_report,
    run,
    write_report,
)
from twincar_edge.benchmarks.compare import COLUMNS as COMPARED
from twincar_edge.benchmarks.compare import PRIORITY as COMPARED_PRIORITY
from twincar_edge.benchmarks.config import CAMERA_FPS, DURATION_S, PRECISIONS
from twincar_edge.benchmarks.formats import WRITERS, cells, check_suffix, columns, is_paced, reasons
from twincar_edge.benchmarks.report import OK
from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import data_options, progress_bar, refuse_options
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.tables import print_table
from twincar_edge.cli.written import print_written
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, nearest
from twincar_edge.files import check_not_read
from twincar_edge.runtime.quantities import parse_age

_DEFAULTS = Schedule()
_STAGES = {
    "opening": "opening, rows",
    "timing": "timing, rounds",
    "pace": "at the camera's frame rate, rows",
    "accuracy": "measuring accuracy",
}
_TEXT_COLUMNS = ("Model", "Precision", "EP asked", "EP actual", "Status", "Row")
# The columns that a narrow terminal keeps, most important first. Reasons are printed below the table too.
_PRIORITY = (
    "Model", "p50 ms", "p95 ms", "Precision", "EP actual", "× first", "Top-5", "Top-1", "Threads", "Batch", "FPS",
    "Infer ms", "Status", "MB", "Top-5 change", "Pre ms", "Post ms", "p99 ms", "p90 ms", "EP asked",
)  # fmt: skip
_VARIED = ("Precision", "EP asked", "Threads", "Batch")
_PRIORITY_PACED = (
    "Model", "In time", "FPS", "p50 ms", "Precision", "EP actual", "p95 ms", "Cores busy", "Last tenth by first",
    "Threads", "Infer ms", "p99 ms", "Status", "Decode ms", "Pre ms", "MHz",
)  # fmt: skip


def _names(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _counts(_context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not all(re.fullmatch(r"\d{1,9}", name) for name in names):
        raise InputError(f"--{parameter.name} must be whole numbers like 1,8,32, found {value!r}")
    return tuple(int(name) for name in names)


def _duration(_context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = parse_age(value if value[-1:].isalpha() else f"{value}s").total_seconds()
    except ValueError:
        seconds = 0
    if not seconds:
        raise InputError(f"--{parameter.name} must be a time above 0 like 30s or 10m, found {value!r}")
    return seconds


class _Bench(Command):
    """Runs `bench`, or `bench compare A B`. To measure a model file named `compare`, write `./compare`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["compare"]:
            return compare_command.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("bench", cls=_Bench)
@click.argument("models", nargs=-1, metavar="[MODEL]...", type=click.Path(path_type=Path))
@click.option(
    "--ep",
    "eps",
    default="",
    callback=_names,
    help="Measure on these providers: auto,cpu,openvino,…  [default: all installed]",
)
@click.option("--strict-ep", is_flag=True, help="Fail if a provider is unusable, instead of reporting it in its row.")
@click.option(
    "--precision",
    "precisions",
    default="",
    callback=_names,
    help=f"Measure each MODEL in these precisions: {','.join(PRECISIONS)}.  [default: MODEL as it is]",
)
@click.option(
    "--batch", default="1", show_default=True, callback=_counts, help="Run this many images per inference: 1,8,…"
)
@click.option(
    "--threads",
    default="",
    callback=_counts,
    help="Run each inference on this many CPU threads: 1,2,…  [default: all usable cores]",
)
@click.option(
    "--spinning/--no-spinning",
    default=None,
    help="Let idle threads spin.  [default: spin, except at a camera's frame rate]",
)
@data_options(required=False)
@click.option("--peers", is_flag=True, help="Also measure PyTorch, torch.compile and native OpenVINO.")
@click.option(
    "--warmup", type=int, default=_DEFAULTS.warmup, show_default=True, help="Discard this many runs before measuring."
)
@click.option(
    "--rounds", type=int, default=_DEFAULTS.rounds, show_default=True, help="Measure every row this many times in turn."
)
@click.option(
    "--per-round", type=int, default=_DEFAULTS.per_round, show_default=True, help="Time this many runs per round."
)
@click.option(
    "--fps",
    type=float,
    help=f"Send frames at this rate, in frames per second.  [default with --duration or --sustain: {CAMERA_FPS:g}]",
)
@click.option(
    "--duration", callback=_duration, help=f"Send frames for this long: 30s, 10m.  [default: {DURATION_S:g}s]"
)
@click.option("--sustain", callback=_duration, help="Same as --duration, for an endurance test: 10m.")
@click.option(
    "--clip", type=click.Path(path_type=Path), help="Decode frames from this video.  [default: the demo clip]"
)
@click.option("--min-top5", type=float, help="Fail if a row's top-5 is lower, in percent; needs --data.")
@click.option("--max-p95", type=float, help="Fail if a row's p95 is higher, in milliseconds.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Give up on a row after this many seconds.")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help=f"Write the report to this file, in the format of its suffix: {', '.join(WRITERS)}. Repeatable.",
)
def command(
    models: tuple[Path, ...],
    eps: tuple[str, ...],
    strict_ep: bool,
    precisions: tuple[str, ...],
    batch: tuple[int, ...],
    threads: tuple[int, ...],
    spinning: bool | None,
    data: OpenOptions | None,
    peers: bool,
    warmup: int,
    rounds: int,
    per_round: int,
    fps: float | None,
    duration: float | None,
    sustain: float | None,
    clip: Path | None,
    min_top5: float | None,
    max_p95: float | None,
    timeout: float,
    outputs: tuple[Path, ...],
) -> None:
    """Measure the latency of MODEL in ms and, with --data, its top-1 and top-5.

    MODEL is one or more .onnx files; without one, the bundled model. Each row runs in its own process, and rows take
    turns, so that drift of the machine affects all of them equally. Pre, infer and post are the medians of
    preprocessing, inference and postprocessing; p50 to p99 cover all three. "× first" is the speedup over the first
    row.

    `bench compare BEFORE.json AFTER.json` shows what became faster or slower between two reports. The exit code is 1 if
    a row misses --min-top5 or --max-p95.
    """
    for path in outputs:
        check_suffix(path)
    read = [*models, clip, *(data.label_files() if data is not None else ())]
    check_not_read(outputs, read, "outputs")
    limits = Limits(min_top5, max_p95)
    if min_top5 is not None and data is None:
        raise InputError("--min-top5 needs labeled images: add --data DATA")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(f"no precision {precision!r}: {nearest(precision, PRECISIONS)}")
    if precisions and not models:
        from twincar_edge.cli.bench_precisions import bundled_in

        models, precisions = bundled_in(precisions), ()
    pace = _pace(fps, duration, sustain, clip)
    if pace is not None:
        refuse_options(("warmup", "rounds", "per_round"), "at a camera's frame rate")
    config = BenchmarkConfig(
        models=models,
        precisions=precisions,
        eps=eps,
        batches=batch,
        threads=threads or (None,),
        spinning=spinning,
        schedule=Schedule(warmup, rounds, per_round),
        dataset=None if data is None else data.open(),
        peers=peers,
        strict_ep=strict_ep,
        pace=pace,
        timeout_s=timeout,
    )
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        report = run(
            config, lambda stage, done, total: bar.update(task, description=_STAGES[stage], completed=done, total=total)
        )
    written: list[Path] = []
    try:
        for path in outputs:
            write_report(report, path)
            written.append(path)
    finally:  # a report that cannot be written is still printed
        with checked_output():
            _print(report, written)
    if report.interrupted:
        raise click.exceptions.Abort
    check_limits(report, limits)


def _print(report: BenchmarkReport, written: list[Path]) -> None:
    headings = columns(report)
    rows = [[_short(heading, cell) for heading, cell in zip(headings, row, strict=True)] for row in cells(report)]
    # Columns that differ between rows come first, so that the rows of one model can be told apart.
    varied = [
        heading
        for heading in _VARIED
        if heading in headings and len({row[headings.index(heading)] for row in rows}) > 1
    ]
    kept = _PRIORITY_PACED if is_paced(report) else _PRIORITY
    priority = (kept[0], *varied, *(heading for heading in kept[1:] if heading not in varied))
    caption = "\n".join(report.conditions())
    print_table(
        headings, rows, priority=priority, left=_TEXT_COLUMNS, elsewhere="-o FILE.csv", wrap="Model", caption=caption
    )
    for line in reasons(report):
        click.echo(line)
    print_written(*written)


def _pace(fps: float | None, duration: float | None, sustain: float | None, clip: Path | None) -> CameraPace | None:
    if duration is not None and sustain is not None:
        raise InputError("--duration and --sustain are the same option: give only one")
    if fps is None and duration is None and sustain is None:
        if clip is not None:
            raise InputError("--clip needs a frame rate: add --fps, for example --fps 25")
        return None
    return CameraPace(CAMERA_FPS if fps is None else fps, duration or sustain or DURATION_S, clip)


@click.command("compare", cls=Command)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare_command(before: Path, after: Path) -> None:
    """Compare two reports written by `bench -o FILE.json`, row by row."""
    found = compare(read_report(before), read_report(after))
    if not found.changes:
        raise InputError(f"{before} and {after} have no measured row in common")
    rows = [change.cells() for change in found.changes]
    print_table(
        COMPARED, rows, priority=COMPARED_PRIORITY, left=("Row", "Verdict"), elsewhere="redirect to a file", wrap="Row"
    )
    for line in (
        *(f"only in {before}: {label}" for label in found.only_before),
        *(f"only in {after}: {label}" for label in found.only_after),
        *(f"compare times with care: {caution}" for caution in found.cautions),
    ):
        click.echo(line)


def _short(heading: str, cell: str) -> str:
    """Shorten a reason that would break the table layout; the full text follows below the table."""
    return "see below" if heading == "Status" and cell != OK else cell
