"""`twincar-edge cluster`: pictures of unknown cars in groups that a person can name."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.cli.options import ep_option, threads_option

PATH = click.Path(path_type=Path)


@click.command("cluster")
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="A new folder, which gets one folder a group.")
@click.option("--model", type=PATH, help="The model that is to learn them.  [default: the bundled model]")
@click.option("--smallest", type=click.IntRange(min=2), default=3, show_default=True, help="Pictures of a group.")
@ep_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def command(
    folder: Path, output: Path, model: Path | None, smallest: int, ep: str, threads: int | None, as_json: bool
) -> None:
    """Group the pictures in DIR and its subfolders, such as `watch --collect` keeps, by how alike the model finds them.

    The pictures are copied into cluster-001, the largest, and so on, and those that are like no others into unsorted.
    clusters.jpg shows all groups. Rename each folder to the class that it shows, and `enroll --from` teaches them to
    the model; folders that keep their name are left out.
    """
    from twincar_edge.runtime.cluster import SHEET, ClusterConfig, cluster

    report = cluster(ClusterConfig(folder, output, model, smallest, ep, threads))
    if as_json:
        click.echo(report.model_dump_json(indent=2))
        return
    sizes = ", ".join(map(str, report.sizes[:10])) + (", …" if len(report.sizes) > 10 else "")
    click.echo(f"{len(report.sizes)} groups" + (f" of {sizes} pictures" if sizes else ""))
    click.echo(f"unsorted: {report.unsorted} pictures")
    if report.unreadable:
        click.echo(f"skipped: {report.unreadable} pictures that cannot be read", err=True)
    click.echo(f"look at {output / SHEET}, then rename the folders of {output}")
