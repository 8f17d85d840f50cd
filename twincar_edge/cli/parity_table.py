"""A parity report on a terminal."""

from __future__ import annotations

from twincar_edge.export.parity.report import COLUMNS, ParityReport


def print_parity(report: ParityReport) -> None:
    """Print the table of a report on standard output."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        title=escape(f"{report.name} on {report.data.images} images of {report.data.name}"),
    )
    table.caption = "Δ: difference of a logit"
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("Model", "Against") else "right")
    for row in report.rows():
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
