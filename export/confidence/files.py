"""Writes the files of a confidence report."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.errors import require
from twincar_edge.export.confidence.report import ConfidenceReport
from twincar_edge.export.report_files import write_report


def write_confidence(report: ConfidenceReport, folder: Path, stem: str = "confidence") -> tuple[Path, ...]:
    """Write `confidence.json`, `.md` and `.png` into a folder, each atomically; return the paths.

    Args:
        report: the report.
        folder: the folder to write to.
        stem: the file name without suffix.

    Raises:
        InputError: a file cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    from twincar_edge.export.confidence.plot import plot_confidence

    return write_report(report, folder, stem, lambda path: plot_confidence(report, path))
