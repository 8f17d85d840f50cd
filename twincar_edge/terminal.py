"""The style of all tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def new_table(title: str = "", caption: str = "", *, head: bool = True) -> Table:
    """Return an empty table with a line below the headings and no frame.

    Args:
        title: text above the table.
        caption: text below the table.
        head: whether the columns have headings.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, show_header=head, show_edge=head, pad_edge=False, padding=(0, 0, 0, 1))
    if title:
        table.title, table.title_justify = Text(title), "left"
    if caption:
        table.caption, table.caption_justify = Text(caption), "left"
    return table
