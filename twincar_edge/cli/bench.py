"""`twincar-edge bench`: latency and top-5 over providers and precisions."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.benchmarks import BenchmarkConfig, BenchmarkReport, Schedule, run, write_report
from twincar_edge.benchmarks.report import COLUMNS, OK, WRITERS, check_suffix
from twincar_edge.cli.options import data_options, progress_bar
from twincar_edge.datasets.options import OpenOptions

_DEFAULTS = Schedule()
_STAGES = {"timing": "timing, rounds", "accuracy": "counting right answers"}
_TEXT_COLUMNS = ("Model", "Precision", "EP asked", "EP actual", "Status")
_PIPE_WIDTH = 220  # nothing is cut off where the table goes into a file


def _names(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command("bench")
@click.argument("models", nargs=-1, metavar="[MODEL]...", type=click.Path(path_type=Path))
@click.option(
    "--ep", "eps", default="", callback=_names, help="Providers: cpu,openvino,…  [default: all that are here]"
)
@click.option(
    "--precision",
    "precisions",
    default="",
    callback=_names,
    help="fp32,int8: of each MODEL, the files in these precisions.  [default: MODEL as it is]",
)
@click.option("--batch", type=int, default=1, show_default=True, help="Images in one inference.")
@click.option("--threads", type=int, help="Threads within one inference.  [default: all usable cores]")
@click.option("--spinning", is_flag=True, help="Idle threads spin: for a loop without pauses, not for a camera.")
@data_options(required=False)
@click.option("--warmup", type=int, default=_DEFAULTS.warmup, show_default=True, help="Runs that do not count.")
@click.option("--rounds", type=int, default=_DEFAULTS.rounds, show_default=True, help="Turns of every row.")
@click.option("--per-round", type=int, default=_DEFAULTS.per_round, show_default=True, help="Runs in one turn.")
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
    precisions: tuple[str, ...],
    batch: int,
    threads: int | None,
    spinning: bool,
    data: OpenOptions | None,
    warmup: int,
    rounds: int,
    per_round: int,
    outputs: tuple[Path, ...],
) -> None:
    """Measure MODEL (.onnx files, or the bundled one): times in ms, and with --data top-1 and top-5.

    Pre, infer and post are medians of preparing, inference and answering; p50 to p99 are of all three together. Rows
    take turns, so that the machine's drift meets all alike.
    """
    for path in outputs:
        check_suffix(path)
    schedule = Schedule(warmup, rounds, per_round)
    dataset = None if data is None else data.open()
    config = BenchmarkConfig(models, precisions, eps, batch, threads, spinning, schedule, dataset)
    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        report = run(
            config, lambda stage, done, total: bar.update(task, description=_STAGES[stage], completed=done, total=total)
        )
    _print(report)
    for path in outputs:
        write_report(report, path)
        click.echo(f"written: {path}")


def _print(report: BenchmarkReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption=escape("\n".join(report.conditions())), caption_justify="left")
    for column in COLUMNS[:-1]:
        table.add_column(column, justify="left" if column in _TEXT_COLUMNS else "right")
    for *cells, _ in report.cells():
        table.add_row(*(escape(cell) for cell in cells))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)
    for row in report.rows:  # a reason is too long for a cell
        if row.status != OK:
            click.echo(f"not measured: {row.file} on {row.ep_asked}: {row.status}")
