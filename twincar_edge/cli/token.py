"""`twincar-edge token`: the tokens that open the web page of this box."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from twincar_edge.runtime.page.tokens import Tokens

_STATE = click.option(
    "--state", type=click.Path(path_type=Path), help="The state folder.  [default: $TWINCAR_STATE, or the system's]"
)


@click.group("token")
def command() -> None:
    """Make, list or remove tokens that open the web page.

    A page on any other address than the loopback's demands one. What is changed here holds at once, also for a page
    that is being served.
    """


@command.command("add")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(["view", "teach"]),
    default="view",
    show_default=True,
    help="See everything, or correct answers and teach the model too.",
)
@_STATE
def add(name: str, role: str, state: Path | None) -> None:
    """Make a token for NAME and print it: it is stored only as a digest, and shown only now."""
    click.echo(_tokens(state).add(name, "teach" if role == "teach" else "view"))


@command.command("list")
@_STATE
def list_(state: Path | None) -> None:
    """List the tokens' names and roles."""
    for token in _tokens(state).all():
        click.echo(f"{token.name}  {token.role}  since {token.created_at.astimezone():%Y-%m-%d %H:%M}")


@command.command("remove")
@click.argument("name")
@_STATE
def remove(name: str, state: Path | None) -> None:
    """Remove the token of NAME, and lock out who uses it."""
    _tokens(state).remove(name)


def _tokens(state: Path | None) -> Tokens:
    from twincar_edge.runtime.page.tokens import Tokens
    from twincar_edge.runtime.storage.state import StateFolder

    return Tokens(StateFolder(state).folder)
