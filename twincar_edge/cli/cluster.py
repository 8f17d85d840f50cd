"""`twincar-edge cluster`: group pictures of unknown cars, so that a person can name each group."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.options import ep_option, threads_option
from twincar_edge.wording import counted

PATH = click.Path(path_type=Path)


@click.command("cluster", cls=Command)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Write one subfolder per group into this new folder.")
@click.option(
    "--model",
    type=PATH,
    help="Compare pictures by the embeddings of this .onnx file, the model to extend.  [default: the bundled model]",
)
@click.option(
    "--smallest",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    help="Require at least this many pictures per group.",
)
@ep_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    folder: Path, output: Path, model: Path | None, smallest: int, ep: str, threads: int | None, as_json: bool
) -> None:
    """Group the pictures in DIR and its subfolders by similarity, as the model sees it.

    DIR can be the folder of `watch --collect`. Pictures are copied into cluster-001 (the largest group),
    cluster-002 and so on; those without similar pictures go into unsorted. clusters.jpg shows all groups. Rename each
    folder to the class that it shows, then run `enroll --from` to add the classes to the model. It ignores folders that
    are not renamed.
    """
    from twincar_edge.runtime.cluster import SHEET, ClusterConfig, cluster

    report = cluster(ClusterConfig(folder, output, model, smallest, ep, threads))
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    sizes = ", ".join(map(str, report.sizes[:10])) + (", …" if len(report.sizes) > 10 else "")
    click.echo(counted(len(report.sizes), "group") + (f" of {sizes} pictures" if sizes else ""))
    click.echo(f"unsorted: {counted(report.unsorted, 'picture')}")
    if report.unreadable:
        click.echo(f"skipped: {report.unreadable} unreadable pictures", err=True)
    click.echo(f"next: look at {output / SHEET} and rename the folders in {output}")
