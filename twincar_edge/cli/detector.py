"""`twincar-edge detector`: show or download the detector in the state folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.commands import Group
from twincar_edge.cli.spelling import option_spelling
from twincar_edge.errors import Parameter, parameter_spelling

if TYPE_CHECKING:
    from twincar_edge.runtime.locating.pulled import OfficialDetector

_state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Use this state folder.  [default: $TWINCAR_STATE, or the system's]",
)


@click.group("detector", cls=Group, invoke_without_command=True)
@_state_option
def command(state: Path | None) -> None:
    """Download a vehicle detector, or show the installed one."""
    from twincar_edge.runtime.locating.pulled import PULL, RELEASE, detectors_folder, pulled_detector

    context = click.get_current_context()
    context.obj = state
    if context.invoked_subcommand is not None:
        return
    path = pulled_detector(state)
    if path is None:
        click.echo(f"no detector in {detectors_folder(state)}: run {PULL}")
    else:
        click.echo(f"{path}: identical to the file of YOLOX's release {RELEASE}")


@command.command("pull", short_help="Download and install an official YOLOX detector.")
@click.argument("name", required=False, metavar="[nano|tiny]", type=click.Choice(["nano", "tiny"]))
@click.option(
    "--from",
    "file",
    type=click.Path(path_type=Path),
    help="Install this file, downloaded on another machine, instead of downloading.",
)
@_state_option
def pull(name: str | None, file: Path | None, state: Path | None) -> None:
    """Install an official YOLOX detector: nano (the default), or tiny, which is slower and more accurate.

    Downloads the file from YOLOX's GitHub release (Apache License 2.0, trained on COCO), verifies its SHA-256, and puts
    it into the state folder instead of any earlier detector. `watch` then uses it on videos and cameras, unless
    `--locate` says otherwise.
    """
    from twincar_edge.runtime.locating.pull import DEFAULT, pull_detector, take_detector

    context = click.get_current_context()
    context.find_root().with_resource(parameter_spelling(_spelling))
    state = state or context.obj
    if file is not None:
        path = take_detector(file, name, state=state)
    else:
        path = pull_detector(name or DEFAULT, state=state, announce=_announce)
    click.echo(path)


def _announce(official: OfficialDetector) -> None:
    click.echo(f"downloading {official.url} ({official.size_bytes / 1e6:.1f} MB)", err=True)


def _spelling(parameter: Parameter) -> str:
    """Spell `detector` as the option of `watch`, and all other parameters as options of `pull`."""
    from twincar_edge.cli.watch import command as watch

    return option_spelling(watch if parameter.name == "detector" else pull, parameter)
