"""`twincar-edge token`: manage the access tokens for the web page of this box."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twincar_edge.cli.commands import Group
from twincar_edge.cli.tables import print_table

if TYPE_CHECKING:
    from twincar_edge.runtime.page.tokens import Tokens

_STATE = click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Use this state folder.  [default: $TWINCAR_STATE, or the system's]",
)


@click.group("token", cls=Group)
def command() -> None:
    """Create, list or remove access tokens for the web page.

    A page requires a token unless it is served on the loopback address. Changes take effect immediately, also for a
    running page.
    """


@command.command("add", short_help="Create a token for NAME and print it.")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["view", "teach"]),
    default="view",
    show_default=True,
    help="Grant this role. view: see everything; teach: also correct answers and teach the model.",
)
@_STATE
def add(name: str, role: str, state: Path | None) -> None:
    """Create a token for NAME and print it. Only its digest is stored, so it cannot be shown again."""
    tokens = _tokens(state)
    token = tokens.add(name, "teach" if role == "teach" else "view")
    try:
        click.echo(token)
        sys.stdout.flush()
    except BaseException:
        tokens.remove(name)  # nobody has seen it
        raise


@command.command("list", short_help="List all tokens.")
@_STATE
def list_(state: Path | None) -> None:
    """List all tokens with their names, roles and creation times."""
    rows = [(one.name, one.role, f"{one.created_at.astimezone():%Y-%m-%d %H:%M}") for one in _tokens(state).all()]
    headings = ("Name", "Role", "Created")
    if rows:
        print_table(headings, rows, priority=headings, left=headings, elsewhere="redirect to a file")


@command.command("remove", short_help="Remove the token of NAME.")
@click.argument("name")
@_STATE
def remove(name: str, state: Path | None) -> None:
    """Remove the token of NAME; its holder loses access immediately."""
    _tokens(state).remove(name)


def _tokens(state: Path | None) -> Tokens:
    from twincar_edge.runtime.page.tokens import Tokens
    from twincar_edge.runtime.storage.state import StateFolder

    return Tokens(StateFolder(state).folder)
