"""Tables that fit the terminal: columns that have no room are left out, the least worthy first, and named below."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import JustifyMethod

NOTHING = "–"  # of a cell
_FEWEST = 2  # columns; they wrap where even these have no room
_WRAPPED = 20  # characters that a column which may wrap keeps


def has_no_width() -> bool:
    """Return whether standard output is no terminal, and COLUMNS does not say how wide it is."""
    return not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit()


def print_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    worth: Sequence[str],
    left: Sequence[str],
    elsewhere: str,
    wrap: str = "",
    title: str = "",
    caption: str = "",
) -> None:
    """Print a table on standard output.

    Where that is no terminal, and COLUMNS does not say how wide it is, all columns are printed.

    Args:
        heads: of the columns, from left to right, each another one.
        rows: cells of each row, plain text.
        worth: all heads, the most worthy first. Columns that say nothing in any row are worth less than all others.
        left: the heads of columns with text; the others are figures, and stand at the right.
        elsewhere: what else shows all columns: "--json", for example.
        wrap: the head of a column that may wrap before others are left out.
        title: above the table.
        caption: below the table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    lines = [dict(zip(heads, row, strict=True)) for row in rows]
    console = Console()

    def build(shown: set[str], *, whole: bool = True) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1), title=Text(title) if title else None)
        if caption:
            table.caption, table.caption_justify = Text(caption), "left"
        for head in heads:
            if head in shown:
                justify: JustifyMethod = "left" if head in left else "right"
                table.add_column(head, justify=justify, no_wrap=whole and head != wrap, overflow="fold")
        for line in lines:
            table.add_row(*(Text(line[head]) for head in heads if head in shown))
        return table

    def width(table: Table) -> int:
        return Measurement.get(console, console.options.update(max_width=10_000), table).maximum

    says = [head for head in worth if any(line[head] != NOTHING for line in lines)]
    order = says + [head for head in worth if head not in says]
    if has_no_width():
        console = Console(width=max(width(build(set(order))), 80))
    count = len(order)
    spare = max([len(line[wrap]) - _WRAPPED for line in lines] + [0]) if wrap else 0
    while count > _FEWEST and width(build(set(order[:count]))) - spare > console.width:
        count -= 1
    shown = set(order[:count])
    console.print(build(shown, whole=width(build(shown)) - spare <= console.width))
    hidden = [head for head in heads if head in order[count:]]
    if hidden:
        click.echo(f"columns left out: {', '.join(hidden)}; a wider terminal shows them, and so does {elsewhere}")
