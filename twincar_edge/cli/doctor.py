"""`twincar-edge doctor`: check that this machine gives correct answers, and how fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import ep_option
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.tables import has_no_width
from twincar_edge.terminal import new_table

if TYPE_CHECKING:
    from twincar_edge.runtime.selftest.diagnosis import Diagnosis

_COLORS = {"ok": "green", "absent": "dim", "warn": "yellow", "fail": "bold red"}
_PIPE_WIDTH = 160  # columns of the table if standard output is not a terminal


@click.command("doctor", cls=Command)
@click.option(
    "--model", type=click.Path(path_type=Path), help="Check this exported .onnx file.  [default: the bundled model]"
)
@ep_option
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Run one inference on this many CPU threads.  [default: all usable cores but one, like watch]",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also compare each camera's newest visits in this database with those of the two weeks before.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the diagnosis as JSON.")
def command(model: Path | None, ep: str, threads: int | None, store: Path | None, as_json: bool) -> None:
    """Check that this machine gives correct answers, and how fast.

    Checks versions, providers, the model file and its golden inputs, cores, CPU instructions, latency and cameras and,
    with --store, whether a camera's answers have become worse. "fail": answers would be wrong, or nothing runs (exit
    code 1). "warn": slower, worse than before, or something is missing. "absent": optional and not installed.
    """
    from twincar_edge.runtime.selftest.diagnosis import DoctorError
    from twincar_edge.runtime.selftest.doctor import DoctorConfig, diagnose

    diagnosis = diagnose(DoctorConfig(model=model, ep=ep, threads=threads, store=store))
    with checked_output():
        if as_json:
            click.echo(diagnosis.to_json(), nl=False)
        else:
            _print(diagnosis)
    if diagnosis.failures:
        raise DoctorError(diagnosis.failures)


def _print(diagnosis: Diagnosis) -> None:
    from rich.console import Console
    from rich.markup import escape

    table = new_table()
    table.add_column("Check", no_wrap=True)
    table.add_column("Status")
    table.add_column("Found", overflow="fold")
    for name, status, found in diagnosis.rows():
        table.add_row(escape(name), f"[{_COLORS[status]}]{status}[/]", escape(found))
    console = Console()
    if has_no_width():
        console = Console(width=_PIPE_WIDTH)
    console.print(table)
