"""`twincar-edge enroll`: new classes for a model file from a handful of pictures each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.options import ep_option, threads_option

if TYPE_CHECKING:
    from twincar_edge.runtime.enroll import EnrollReport

PATH = click.Path(path_type=Path)


@click.command("enroll")
@click.argument("paths", nargs=-1, metavar="[MODEL] [CROP]...", type=PATH)
@click.option("--class", "name", help='The class of the crops, such as "Ford Fiesta Hatchback 2002".')
@click.option("--from", "folder", type=PATH, help="A folder with a subfolder of crops for each class, named after it.")
@click.option("--remove", multiple=True, metavar="CLASS", help="Take out an enrolled class. May be repeated.")
@click.option("-o", "--output", required=True, type=PATH, help="The new file; it may be MODEL itself.")
@click.option(
    "--reach",
    type=float,
    help="How far a crop may lie from its class, as a share of the class's variance. More names more crops, and more "
    "cars of other classes wrongly.  [default: 1.0]",
)
@click.option("--unchecked", is_flag=True, help="Write the file although a check fails or cannot be made.")
@ep_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
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
    """Teach MODEL new classes from a handful of pictures each, without training.

    MODEL is an exported .onnx file; without one, the bundled model. Each CROP is an image file, a folder of images, or
    a quoted pattern: pictures cut to the car, five or more of different views.

    The new file is written only if the new pictures recognize one another, and the answers for the pictures that the
    model was validated on stay. Otherwise the exit code is 1. A running `watch` takes the file on SIGHUP.
    """
    from twincar_edge.api.enroll import enroll
    from twincar_edge.runtime.sources.images import expand

    model = paths[0] if paths and paths[0].suffix.lower() == ".onnx" else None
    crops = paths if model is None else paths[1:]
    if bool(crops) != (name is not None):
        raise click.UsageError("crops and --class go together")
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
    click.echo(report.model_dump_json(indent=2) if as_json else _text(report))


def _text(report: EnrollReport) -> str:
    lines = []
    for one in report.classes:
        found = "not checked" if one.recognized is None else f"{one.recognized} recognized by the others"
        lines.append(f"enrolled {one.name}: {one.images} pictures, {found}")
    lines += [f"removed {name}" for name in report.removed]
    if report.held_out is not None:
        lines.append(f"held-out pictures with another answer: {report.held_out_changed} of {report.held_out}")
    lines += [f"not checked: {fault}" for fault in report.faults]
    lines.append(f"{report.output}: {len(report.enrolled)} enrolled classes")
    return "\n".join(lines)
