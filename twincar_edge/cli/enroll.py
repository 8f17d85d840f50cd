"""`twincar-edge enroll`: add classes to a model file from a handful of pictures each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import check_needs, ep_option, threads_option
from twincar_edge.cli.written import print_written
from twincar_edge.wording import counted

if TYPE_CHECKING:
    from twincar_edge.runtime.enroll import EnrollReport

PATH = click.Path(path_type=Path)


@click.command("enroll", cls=Command)
@click.argument("paths", nargs=-1, metavar="[MODEL] [CROP]...", type=PATH)
@click.option("--class", "name", help='Enroll the crops as this class, for example "Ford Fiesta Hatchback 2002".')
@click.option(
    "--from", "folder", type=PATH, help="Enroll a class from each subfolder of this folder; its name is the class."
)
@click.option("--remove", multiple=True, metavar="CLASS", help="Remove an enrolled class. Repeatable.")
@click.option(
    "-o", "--output", required=True, type=PATH, help="Write the new model to this file; it may be MODEL itself."
)
@click.option(
    "--reach",
    type=float,
    help="Accept crops up to this distance from their class, as a share of its variance. A larger value recognizes "
    "more crops, but also gives more cars of other classes a wrong name.  [default: 1.0]",
)
@click.option("--unchecked", is_flag=True, help="Write the file even if a check fails or cannot run.")
@ep_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    paths: tuple[Path, ...],
    name: str | None,
    folder: Path | None,
    remove: tuple[str, ...],
    output: Path,
    reach: float | None,
    unchecked: bool,
    ep: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Add classes to MODEL from a handful of pictures each, without training.

    MODEL is an exported .onnx file; without one, the bundled model. Each CROP is an image file, a folder of images, or
    a quoted pattern. Crop pictures to the car, and give five or more from different views.

    The new file is written only if the new pictures recognize one another and the answers for the model's validation
    pictures do not change. Otherwise the exit code is 1. A running `watch` reloads the file on SIGHUP.
    """
    check_needs({"reach": ("name", "folder")})
    from twincar_edge.api.enroll import enroll
    from twincar_edge.runtime.sources.images import expand

    model = paths[0] if paths and paths[0].suffix.lower() == ".onnx" else None
    crops = paths if model is None else paths[1:]
    if bool(crops) != (name is not None):
        raise click.UsageError("crops and --class must be given together")
    if name is not None and folder is not None:
        raise click.UsageError("--class and --from cannot be combined")
    report = enroll(
        output,
        folder if name is None else {name: expand(list(crops))},
        model=model,
        remove=remove,
        unchecked=unchecked,
        reach=reach,
        ep=ep,
        threads=threads,
    )
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        _print(report)


def _print(report: EnrollReport) -> None:
    lines = []
    for one in report.classes:
        found = "not checked" if one.recognized is None else f"{one.recognized} recognized by the others"
        lines.append(f"enrolled {one.name}: {counted(one.images, 'picture')}, {found}")
    lines += [f"removed {name}" for name in report.removed]
    if report.held_out is not None:
        lines.append(f"held-out pictures with another answer: {report.held_out_changed} of {report.held_out}")
    lines += [f"limit not met: {fault}" for fault in report.faults]
    for line in lines:
        click.echo(line)
    print_written(report.output, about=counted(len(report.enrolled), "enrolled class"))
