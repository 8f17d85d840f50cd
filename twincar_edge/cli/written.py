"""How every command reports a file or folder that it has written."""

from __future__ import annotations

from pathlib import Path

import click

from twincar_edge.errors import one_line


def print_written(*paths: Path | str, about: str = "", err: bool = False) -> None:
    """Print one line for each written file or folder: `wrote PATH`, or `wrote PATH: ABOUT`.

    Args:
        paths: the files or folders, or URLs.
        about: what they hold.
        err: print to standard error, because standard output carries the command's answers.
    """
    for path in paths:
        click.echo(f"wrote {one_line(str(path))}" + (f": {about}" if about else ""), err=err)
