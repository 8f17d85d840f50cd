"""`twincar-edge zones`: draw a grid over a frame, to define zones by coordinates or by clicking."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.completion import complete_files
from twincar_edge.cli.options import check_needs
from twincar_edge.cli.watch_options import parse_size
from twincar_edge.cli.written import print_written
from twincar_edge.errors import InputError, nearest
from twincar_edge.files import check_not_read

_EXAMPLE = "gate=0.1,0.2 0.9,0.2 0.9,0.8 0.1,0.8"


@click.command("zones", cls=Command)
@click.argument("source", required=False, shell_complete=complete_files)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Take the camera from this cameras.toml instead of SOURCE.",
)
@click.option("--camera", metavar="NAME", help="With --config: use this camera.  [default: the first]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("zones.jpg"), show_default=True,
    help="Write the picture to this file.",
)  # fmt: skip
@click.option(
    "--zone",
    "zones",
    multiple=True,
    metavar='"X,Y X,Y X,Y"',
    help="Draw this zone, in the format of `watch`. Repeatable.",
)
@click.option(
    "--at",
    "at_s",
    type=click.FloatRange(min=0),
    help="Take the frame at this time, in seconds.  [default: 0; for a camera 1, when its exposure has settled]",
)
@click.option("--size", metavar="WxH", help="Request frames of this size from a local camera, in pixels.")
@click.option("--click", "clicks", is_flag=True, help="Draw zones by clicking in a window, and print them as TOML.")
def command(
    source: str | None,
    config_file: Path | None,
    camera: str | None,
    output: Path,
    zones: tuple[str, ...],
    at_s: float | None,
    size: str | None,
    clicks: bool,
) -> None:
    """Draw a grid over one frame of SOURCE, in pixels and in shares of the frame, to define zones.

    SOURCE is anything that `watch` accepts. Zones from --zone or the configuration file are drawn too. Zones are
    printed as TOML; paste them below their camera in cameras.toml.
    """
    check_needs({"camera": ("config_file",)})
    from twincar_edge.images import write_image
    from twincar_edge.runtime.annotating.zone_picture import draw_zone_picture, zone_toml
    from twincar_edge.runtime.configuration.config import CameraConfig, one_camera, open_camera
    from twincar_edge.runtime.configuration.config_file import read_config
    from twincar_edge.runtime.locating.zones import parse_zone
    from twincar_edge.runtime.sources import is_camera
    from twincar_edge.runtime.sources.base import size_of
    from twincar_edge.runtime.sources.first_frame import first_frame
    from twincar_edge.runtime.sources.images import expand

    if (source is None) == (config_file is None):
        raise click.UsageError("give either SOURCE or --config FILE")
    given = [parse_zone(zone) for zone in zones]
    chosen: CameraConfig
    if config_file is not None:
        by_name = {one.name: one for one in read_config(config_file).cameras}
        if camera is not None and camera not in by_name:
            raise InputError(f"{config_file} has no camera {camera!r}: {nearest(camera, tuple(by_name))}")
        chosen = by_name[camera or next(iter(by_name))]
    else:
        assert source is not None
        chosen = one_camera(source).cameras[0]
    if "://" not in chosen.source:
        check_not_read([output], expand([Path(chosen.source)]))
    if at_s is None:  # the next picture of a camera that is polled may come much later
        at_s = 1.0 if chosen.poll_s is None and is_camera(chosen.source, once=chosen.once) else 0.0
    size_wh = chosen.size if size is None else one_camera(chosen.source, size=parse_size(size)).cameras[0].size
    opened = chosen.model_copy(update={"once": True, "stride": 1, "size": size_wh})
    frame, _ = first_frame(lambda: open_camera(opened), at_s=at_s)
    there = [*chosen.zones, *given]
    if clicks:
        from twincar_edge.runtime.annotating.clicking import click_zones

        given += click_zones(frame.image_bgr, there)
        there = [*chosen.zones, *given]
    write_image(output, draw_zone_picture(frame.image_bgr, there))
    width, height = size_of(frame)
    print_written(
        output, about=f"{width}x{height}; shares at the top and left, pixels at the bottom and right", err=True
    )
    if not clicks and not given:
        click.echo(f'write a zone as --zone "{_EXAMPLE}", or below its camera in cameras.toml:', err=True)
        given = [parse_zone(_EXAMPLE)]
    for zone in given:
        click.echo(f"\n{zone_toml(zone)}", nl=False)
