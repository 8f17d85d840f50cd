"""Writes the files of an open-set report."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.errors import require
from twincar_edge.export.open_set.report import OpenSetReport
from twincar_edge.export.report_files import write_report


def write_open_set(report: OpenSetReport, folder: Path, stem: str = "open_set") -> tuple[Path, ...]:
    """Write `open_set.json`, `.md` and `.png` into a folder, each atomically; return the paths.

    Raises:
        InputError: a file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    from twincar_edge.export.open_set.plot import plot_open_set

    return write_report(report, folder, stem, lambda path: plot_open_set(report, path))
