"""Tables that fit the terminal: the least important columns are dropped if needed, and named below the table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from twincar_edge.terminal import new_table

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

EMPTY = "–"
_MIN_COLUMNS = 2  # always shown; they wrap if they do not fit
_MIN_WRAP_WIDTH = 20  # characters


def has_no_width() -> bool:
    """Return whether standard output is not a terminal and COLUMNS is not set to a number."""
    return not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit()


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    priority: Sequence[str],
    left: Sequence[str],
    elsewhere: str,
    wrap: str = "",
    title: str = "",
    caption: str = "",
) -> None:
    """Print a table to standard output.

    If that is not a terminal and COLUMNS is not set, all columns are printed.

    Args:
        headings: column headings from left to right, all different.
        rows: the cells of each row, as plain text.
        priority: all headings, most important first. Columns that are empty in every row are dropped before all others.
        left: headings of text columns, aligned left; all others hold numbers, aligned right.
        elsewhere: where to see all columns, for example "--json".
        wrap: heading of a column that may wrap before others are dropped.
        title: text above the table.
        caption: text below the table.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.text import Text

    lines = [dict(zip(headings, row, strict=True)) for row in rows]
    console = Console()

    def build(shown: set[str], *, whole: bool = True) -> Table:
        table = new_table(title, caption)
        for heading in headings:
            if heading in shown:
                justify: JustifyMethod = "left" if heading in left else "right"
                table.add_column(heading, justify=justify, no_wrap=whole and heading != wrap, overflow="fold")
        for line in lines:
            table.add_row(*(Text(line[heading]) for heading in headings if heading in shown))
        return table

    def width(table: Table) -> int:
        return Measurement.get(console, console.options.update(max_width=10_000), table).maximum

    filled = [heading for heading in priority if any(line[heading] != EMPTY for line in lines)]
    order = filled + [heading for heading in priority if heading not in filled]
    if has_no_width():
        console = Console(width=max(width(build(set(order))), 80))
    count = len(order)
    slack = max([len(line[wrap]) - _MIN_WRAP_WIDTH for line in lines] + [0]) if wrap else 0
    while count > _MIN_COLUMNS and width(build(set(order[:count]))) - slack > console.width:
        count -= 1
    shown = set(order[:count])
    console.print(build(shown, whole=width(build(shown)) - slack <= console.width))
    hidden = [heading for heading in headings if heading in order[count:]]
    if hidden:
        click.echo(f"columns not shown: {', '.join(hidden)}; use a wider terminal or {elsewhere}")
