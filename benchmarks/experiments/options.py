"""Common options of the experiments, and the output of reports."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import BaseModel

from twincar_edge.cli.written import print_written
from twincar_edge.files import write_text
from twincar_edge.runtime.quantities import parse_age

PATH = click.Path(path_type=Path)

model_option = click.option("--model", type=PATH, help="An exported model.  [default: the bundled one]")
threads_option = click.option("--threads", type=int, help="Threads per inference.  [default: as watch]")
output_option = click.option("-o", "--output", type=PATH, help="Write the results to this JSON file.")


def duration_s(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """Return the seconds of an option such as `90s` or `30m`: the `callback` of its declaration.

    Raises:
        click.BadParameter: the text is not a duration.
    """
    try:
        return parse_age(value).total_seconds()
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def publish(report: BaseModel, text: str, output: Path | None) -> None:
    """Print a report as text and, if `output` is given, write it as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    if output is not None:
        write_text(output, report.model_dump_json(indent=1) + "\n")
    click.echo(text.rstrip("\n"))
    if output is not None:
        print_written(output, err=True)
