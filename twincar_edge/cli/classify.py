"""`twincar-edge classify`: name the car in each image."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.bundled import default_model
from twincar_edge.cli.pipes import discard_output
from twincar_edge.errors import one_line
from twincar_edge.files import as_text

if TYPE_CHECKING:
    from twincar_edge.runtime.classify import ImageAnswer


@click.command("classify")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="An exported .onnx file.  [default: the bundled model]")
@click.option("--ep", default="auto", show_default=True, help="Execution provider.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all]")
@click.option("--batch", type=click.IntRange(1, 1024), default=16, show_default=True, help="Images at once.")
@click.option("--recursive", is_flag=True, help="Search folders with their subfolders.")
@click.option("--top", type=click.IntRange(1, 5), default=1, show_default=True, help="How many guesses to show.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines; the default where the output is not a terminal.")
def command(
    paths: tuple[Path, ...],
    model: Path | None,
    ep: str,
    threads: int | None,
    batch: int,
    recursive: bool,
    top: int,
    as_json: bool,
) -> None:
    """Name the car in each image: PATH is an image file, a folder of images, or a quoted pattern.

    An image that cannot be read is reported and left out; only if none can be read the exit code is 2.
    """
    from twincar_edge.runtime.classify import classify_each
    from twincar_edge.runtime.inference.classifier import Classifier
    from twincar_edge.runtime.inference.session import open_session

    session = open_session(model or default_model(), ep=ep, threads=threads, spinning=True)
    answers = _report_problems(classify_each(paths, Classifier(session), batch=batch, recursive=recursive))
    if as_json or not sys.stdout.isatty():
        try:
            for answer in answers:
                click.echo(json.dumps(_record(answer, top), ensure_ascii=False))
        except BrokenPipeError:
            discard_output()
    else:
        _print_table(answers, top)


def _report_problems(answers: Iterable[ImageAnswer]) -> Iterable[ImageAnswer]:
    """Give the answers, and report images that cannot be read; the error of a run without any names the last one."""
    pending: str | None = None
    for answer in answers:
        if pending is not None:
            click.echo(f"skipped: {pending}", err=True)
        pending = answer.problem
        if pending is None:
            yield answer
    if pending is not None:
        click.echo(f"skipped: {pending}", err=True)


def _record(answer: ImageAnswer, top: int) -> dict[str, Any]:
    assert answer.prediction is not None
    return {"image": as_text(str(answer.image)), **answer.prediction.to_dict(top)}


def _print_table(answers: Iterable[ImageAnswer], top: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", "vehicle", box=None, pad_edge=False)
    table.add_column("probability", justify="right")
    for answer in answers:
        assert answer.prediction is not None
        prediction = answer.prediction
        image = escape(one_line(str(answer.image)))
        table.add_row(image, escape(prediction.name), f"{prediction.probability:.1%}")
        for place, guess in enumerate(prediction.top5[:top] if top > 1 else (), 1):
            if place > 1 or guess.name != prediction.name:
                table.add_row("", f"  {place}. {escape(guess.name)}", f"{guess.probability:.1%}")
    Console().print(table)
