"""Print a parity report on a terminal."""

from __future__ import annotations

from twincar_edge.cli.tables import print_table
from twincar_edge.export.parity.report import COLUMNS, ParityReport

_TEXT = ("Model", "Against")
_PRIORITY = ("Model", "Limits", "Top-1", "Agreement", "Where confident", "Top-5", "Against", "Max Δ")


def print_parity(report: ParityReport, elsewhere: str = "parity.md") -> None:
    """Print a report's table to standard output; `elsewhere` is the file with all columns."""
    print_table(
        COLUMNS,
        report.rows(),
        priority=_PRIORITY,
        left=_TEXT,
        elsewhere=elsewhere,
        title=f"{report.name} on {report.data.images} images of {report.data.name}",
        caption="Δ: difference of a logit",
    )
