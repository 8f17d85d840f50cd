"""`twincar-edge bench`: latency and top-5 over providers and precisions, and two such reports compared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from twincar_edge.benchmarks import (
    BenchmarkConfig,
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
from twincar_edge.benchmarks.compare import WORTH as COMPARED_WORTH
from twincar_edge.benchmarks.config import CAMERA_FPS, DURATION_S, PRECISIONS
from twincar_edge.benchmarks.formats import WRITERS, cells, check_suffix, columns, is_paced, reasons
from twincar_edge.benchmarks.report import OK
from twincar_edge.cli.options import data_options, progress_bar
from twincar_edge.cli.tables import print_table
from twincar_edge.datasets import OpenOptions
from twincar_edge.errors import InputError, nearest
from twincar_edge.runtime.quantities import parse_age

_DEFAULTS = Schedule()
_STAGES = {
    "opening": "opening, rows",
    "timing": "timing, rounds",
    "pace": "at the camera's pace, rows",
    "accuracy": "counting right answers",
}
_TEXT_COLUMNS = ("Model", "Precision", "EP asked", "EP actual", "Status", "Row")
# Which columns a narrow terminal keeps, the most worthy first; reasons stand below the table too.
_WORTH = (
    "Model", "p50 ms", "p95 ms", "Precision", "EP actual", "× first", "Top-5", "Top-1", "Threads", "Batch", "FPS",
    "Infer ms", "Status", "MB", "Top-5 change", "Pre ms", "Post ms", "p99 ms", "p90 ms", "EP asked",
)  # fmt: skip
_VARIED = ("Precision", "EP asked", "Threads", "Batch")
_WORTH_PACED = (
    "Model", "In time", "FPS", "p50 ms", "Precision", "EP actual", "p95 ms", "Cores busy", "Last tenth by first",
    "Threads", "Infer ms", "p99 ms", "Status", "Decode ms", "Pre ms", "MHz",
)  # fmt: skip


def _names(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _counts(_context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    if not all(re.fullmatch(r"\d{1,9}", name) for name in names):
        raise InputError(f"--{parameter.name} takes whole numbers, as 1,8,32, found {value!r}")
    return tuple(int(name) for name in names)


def _duration(_context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        seconds = parse_age(value if value[-1:].isalpha() else f"{value}s").total_seconds()
    except ValueError:
        seconds = 0
    if not seconds:
        raise InputError(f"--{parameter.name} takes a time above 0, as 30s or 10m, found {value!r}")
    return seconds


class _Bench(click.Command):
    """Measures; `bench compare A B` compares instead. A model file of that name is `./compare`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == ["compare"]:
            return compare_command.make_context(f"{info_name} compare", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("bench", cls=_Bench)
@click.argument("models", nargs=-1, metavar="[MODEL]...", type=click.Path(path_type=Path))
@click.option(
    "--ep", "eps", default="", callback=_names, help="Providers: auto,cpu,openvino,…  [default: all that are here]"
)
@click.option("--strict-ep", is_flag=True, help="A provider that cannot be used is an error, not a row.")
@click.option(
    "--precision",
    "precisions",
    default="",
    callback=_names,
    help=f"{','.join(PRECISIONS)}: of each MODEL, the files in these precisions.  [default: MODEL as it is]",
)
@click.option("--batch", default="1", show_default=True, callback=_counts, help="Images in one inference: 1,8,…")
@click.option(
    "--threads", default="", callback=_counts, help="Threads within one inference: 1,2,…  [default: all usable cores]"
)
@click.option(
    "--spinning/--no-spinning",
    default=None,
    help="Let idle threads spin on.  [default: in a loop without pauses, not at a camera's pace]",
)
@data_options(required=False)
@click.option("--peers", is_flag=True, help="PyTorch, torch.compile and native OpenVINO in the same run.")
@click.option("--warmup", type=int, default=_DEFAULTS.warmup, show_default=True, help="Runs that do not count.")
@click.option("--rounds", type=int, default=_DEFAULTS.rounds, show_default=True, help="Turns of every row.")
@click.option("--per-round", type=int, default=_DEFAULTS.per_round, show_default=True, help="Runs in one turn.")
@click.option(
    "--fps", type=float, help=f"Send frames at a camera's pace.  [default with --duration or --sustain: {CAMERA_FPS:g}]"
)
@click.option(
    "--duration", callback=_duration, help=f"For how long, at that pace: 30s, 10m.  [default: {DURATION_S:g}s]"
)
@click.option("--sustain", callback=_duration, help="The same as --duration, for a test of staying power: 10m.")
@click.option("--clip", type=click.Path(path_type=Path), help="Video to decode at that pace.  [default: the demo's]")
@click.option("--min-top5", type=float, help="Percent that each row must reach; needs --data.")
@click.option("--max-p95", type=float, help="Milliseconds that each row's p95 may take.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds after which a row is given up.")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    type=click.Path(path_type=Path),
    help=f"Write the report, by suffix: {', '.join(WRITERS)}. May be given more than once.",
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
    """Measure MODEL (.onnx files, or the bundled one): times in ms, and with --data top-1 and top-5.

    Each row is a process of its own; rows take turns, so that the machine's drift meets all alike. Pre, infer and post
    are medians of preparing, inference and answering; p50 to p99 are of all three together. × first is how many times
    as fast a row is as the first.

    `bench compare BEFORE.json AFTER.json` shows what became faster between two reports. Exit code 1: a row misses
    --min-top5 or --max-p95.
    """
    for path in outputs:
        check_suffix(path)
    limits = Limits(min_top5, max_p95)
    if min_top5 is not None and data is None:
        raise InputError("--min-top5 needs labeled images: give --data")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InputError(f"no precision {precision!r}: {nearest(precision, PRECISIONS)}")
    if precisions and not models:
        from twincar_edge.cli.bench_precisions import bundled_in

        models, precisions = bundled_in(precisions), ()
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
        pace=_pace(fps, duration, sustain, clip),
        timeout_s=timeout,
    )
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        report = run(
            config, lambda stage, done, total: bar.update(task, description=_STAGES[stage], completed=done, total=total)
        )
    heads = columns(report)
    rows = [[_short(head, cell) for head, cell in zip(heads, row, strict=True)] for row in cells(report)]
    # What tells rows from one another comes first: without their batch sizes, two rows of a model say nothing.
    varied = [head for head in _VARIED if head in heads and len({row[heads.index(head)] for row in rows}) > 1]
    kept = _WORTH_PACED if is_paced(report) else _WORTH
    worth = (kept[0], *varied, *(head for head in kept[1:] if head not in varied))
    caption = "\n".join(report.conditions())
    print_table(heads, rows, worth=worth, left=_TEXT_COLUMNS, elsewhere="-o FILE.csv", wrap="Model", caption=caption)
    for line in reasons(report):
        click.echo(line)
    for path in outputs:
        write_report(report, path)
        click.echo(f"written: {path}")
    if report.interrupted:
        raise click.exceptions.Abort
    check_limits(report, limits)


def _pace(fps: float | None, duration: float | None, sustain: float | None, clip: Path | None) -> CameraPace | None:
    if duration is not None and sustain is not None:
        raise InputError("--duration and --sustain say the same: give one of them")
    if fps is None and duration is None and sustain is None:
        if clip is not None:
            raise InputError("--clip is decoded at a camera's pace: give --fps, as 25")
        return None
    return CameraPace(CAMERA_FPS if fps is None else fps, duration or sustain or DURATION_S, clip)


@click.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
def compare_command(before: Path, after: Path) -> None:
    """Show what became faster between two reports that `bench -o FILE.json` wrote, row by row."""
    found = compare(read_report(before), read_report(after))
    if not found.changes:
        raise InputError(f"{before} and {after} have no measured row in common")
    rows = [change.cells() for change in found.changes]
    print_table(COMPARED, rows, worth=COMPARED_WORTH, left=("Row", "Verdict"), elsewhere="a file", wrap="Row")
    for line in (
        *(f"only in {before}: {label}" for label in found.only_before),
        *(f"only in {after}: {label}" for label in found.only_after),
        *(f"compare times with care: {caution}" for caution in found.cautions),
    ):
        click.echo(line)


def _short(head: str, cell: str) -> str:
    """Keep a reason out of the table, which it would tear: it stands below."""
    return "see below" if head == "Status" and cell != OK else cell
