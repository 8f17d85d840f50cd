"""`twincar-edge demo`: run a clip of synthetic cars through a model and compare with the ground truth."""

from __future__ import annotations

import shlex
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import ep_option
from twincar_edge.cli.page_option import PageOption, announce
from twincar_edge.cli.pipes import checked_output
from twincar_edge.cli.stopping import stop_signals
from twincar_edge.cli.written import print_written
from twincar_edge.runtime.listening import PAGE_ADDRESS
from twincar_edge.terminal import new_table
from twincar_edge.wording import counted

if TYPE_CHECKING:
    from twincar_edge.runtime.demo import DemoReport
    from twincar_edge.runtime.truth import Score


_OUTPUT = Path("out/demo")


@click.command("demo", cls=Command)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=_OUTPUT, show_default=True,
    help="Write the annotated video, the contact sheet and the visits into this folder.",
)  # fmt: skip
@click.option(
    "--clip",
    type=click.Path(path_type=Path),
    help="Use this clip, with its ground truth next to it.  [default: the demo clip]",
)
@click.option("--model", type=click.Path(path_type=Path), help="Use this exported model.  [default: the demo model]")
@ep_option
@click.option(
    "--page", cls=PageOption, metavar="[HOST:PORT]",
    help="Loop the clip live on the web page instead, until Ctrl-C. Needs the extra `page`.  "
    f"[default: {PAGE_ADDRESS}]",
)  # fmt: skip
def command(output: Path, clip: Path | None, model: Path | None, ep: str, page: str | None) -> None:
    """Watch a gate clip and compare each visit with the ground truth.

    The exit code is 1 if fewer than 90% of the visits are right.
    """
    if page is not None:
        _show_live(output, clip, model, ep, page)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from twincar_edge.runtime.demo import run_demo

    columns = (SpinnerColumn(), TextColumn("watching, frame {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("watching", total=None)
        report = run_demo(output, clip=clip, model=model, ep=ep, on_frame=lambda *_: progress.advance(task))
    with checked_output():
        _print_visits(report.score)
        _print_summary(report)
        folder = "" if output == _OUTPUT else f" -o {shlex.quote(str(output))}"
        click.echo(f"see the visits, and the clip live, in a browser: twincar-edge demo --page{folder}")
    report.require()


def _show_live(output: Path, clip: Path | None, model: Path | None, ep: str, address: str) -> None:
    from twincar_edge.runtime.configuration.page_settings import PageSettings
    from twincar_edge.runtime.demo import live_demo

    stop = threading.Event()
    settings = PageSettings(address=address)
    with stop_signals(stop), live_demo(output, settings, clip=clip, model=model, ep=ep, stop=stop) as service:
        assert service.page is not None
        announce(service.page)
        click.echo("the clip plays until Ctrl-C", err=True)
        service.run()


def _print_visits(score: Score) -> None:
    from rich.console import Console
    from rich.markup import escape

    from twincar_edge.runtime.inference.answers import certainty

    table = new_table("Vehicles and visits")  # two names of up to 30 letters fit into 80 columns
    for heading, justify in (("Frame", "right"), ("Truth", "left"), ("Visit", "left"), ("", "right"), ("", "left")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for result in score.passes:
        names = " + ".join(visit.name for visit in result.visits) or result.verdict
        probabilities = " + ".join(certainty(visit) for visit in result.visits)
        right = result.verdict == "right"
        row = (str(result.truth.first_frame), escape(result.truth.name), escape(names), escape(probabilities))
        table.add_row(*row, "[green]✓[/green]" if right else "[bold red]✗[/bold red]", style="" if right else "red")
    for visit in score.extra:
        row = (str(visit.first_frame), "nothing", escape(visit.name), escape(certainty(visit)))
        table.add_row(*row, "[bold red]✗[/bold red]", style="red")
    Console().print(table)


def _print_summary(report: DemoReport) -> None:
    summary = report.summary
    stages = ", ".join(f"{name} {stage.p50_ms:.1f}" for name, stage in summary.stages.items())
    click.echo(f"{report.score.summary()}")
    click.echo(
        f"{counted(summary.frames, 'frame')} in {summary.seconds:.1f} s, {summary.fps:.0f} fps; median ms: {stages}"
    )
    print_written(report.video, report.sheet, report.events)
