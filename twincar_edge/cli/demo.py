"""`twincar-edge demo`: the bundled clip through the bundled model, beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from twincar_edge.runtime.demo import DemoReport
    from twincar_edge.runtime.truth import Score


@click.command("demo")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("out/demo"), show_default=True,
    help="Folder for the annotated video, the contact sheet and the visits.",
)  # fmt: skip
@click.option(
    "--clip", type=click.Path(path_type=Path), help="Another clip with its truth.  [default: the bundled one]"
)
@click.option("--model", type=click.Path(path_type=Path), help="Another exported model.  [default: the bundled one]")
@click.option("--ep", default="auto", show_default=True, help="Execution provider.")
def command(output: Path, clip: Path | None, model: Path | None, ep: str) -> None:
    """Watch a gate clip and show each visit beside what truly drove through.

    Exits with 1 where fewer than 90% of the visits are right.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from twincar_edge.runtime.demo import run_demo

    columns = (SpinnerColumn(), TextColumn("watching, frame {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("watching", total=None)
        report = run_demo(output, clip=clip, model=model, ep=ep, on_frame=lambda *_: progress.advance(task))
    _print_visits(report.score)
    _print_summary(report)
    report.require()


def _print_visits(score: Score) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="What drove through, and what the camera box said")
    for heading in ("frames", "truth", "visit", "probability", ""):
        table.add_column(heading, justify="right" if heading in ("frames", "probability") else "left")
    for result in score.passes:
        truth, right = result.truth, result.verdict == "right"
        table.add_row(
            f"{truth.first_frame}-{truth.last_frame}",
            escape(truth.name),
            escape(" + ".join(visit.name for visit in result.visits)) or "-",
            " + ".join(f"{visit.probability:.1%}" for visit in result.visits),
            f"[green]{result.verdict}[/green]" if right else f"[bold red]{result.verdict}[/bold red]",
        )
    for visit in score.extra:
        row = (f"{visit.first_frame}-{visit.last_frame}", "-", escape(visit.name), f"{visit.probability:.1%}")
        table.add_row(*row, "[bold red]extra[/bold red]")
    Console().print(table)


def _print_summary(report: DemoReport) -> None:
    summary = report.summary
    stages = ", ".join(f"{name} {stage.p50_ms:.1f}" for name, stage in summary.stages.items())
    click.echo(f"{report.score.summary()}")
    click.echo(f"{summary.frames} frames in {summary.seconds:.1f} s, {summary.fps:.0f} fps; median ms: {stages}")
    for path in (report.video, report.sheet, report.events):
        click.echo(f"wrote {path}")
