"""The option `--page`, whose value is optional, and the announcement of a served page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from twincar_edge.cli.groups import GroupedOption
from twincar_edge.runtime.listening import PAGE_ADDRESS

if TYPE_CHECKING:
    from twincar_edge.runtime.page.server import PageServer

_ADDRESS = re.compile(r"(\[[^\]/]*\]|[^/:\s]*):\d+")


class PageOption(GroupedOption):
    """An option with an optional HOST:PORT: a following word that is not an address remains an argument."""

    def __init__(self, *args: Any, **attrs: Any) -> None:
        """Create the option; arguments go to `GroupedOption`."""
        super().__init__(*args, is_flag=False, flag_value=PAGE_ADDRESS, **{"group": "Service", **attrs})

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Put back a value that is not an address; click consumes any text that does not begin with a dash."""
        super().add_to_parser(parser, ctx)
        for name in self.opts:
            known = parser._long_opt[name]
            known.process = _putting_back(known.process)


def _putting_back(process: Any) -> Any:
    def put_back(value: Any, state: Any) -> None:
        if isinstance(value, str) and not _ADDRESS.fullmatch(value):
            state.rargs.insert(0, value)
            value = PAGE_ADDRESS
        process(value, state)

    return put_back


def announce(page: PageServer) -> None:
    """Print the page's URL and its first token, which is not stored in clear."""
    click.echo(f"page: {page.url}", err=True)
    if page.first_token is not None:
        click.echo(f"page token, shown only once: {page.first_token}", err=True)
