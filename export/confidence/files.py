"""The files of a confidence report."""

from __future__ import annotations

from pathlib import Path

from twincar_edge.errors import require
from twincar_edge.export.confidence.report import ConfidenceReport
from twincar_edge.files import write_text

JSON_NAME, MARKDOWN_NAME, PLOT_NAME = "confidence.json", "confidence.md", "confidence.png"


def write_confidence(report: ConfidenceReport, folder: Path) -> tuple[Path, ...]:
    """Write `confidence.json`, `.md` and `.png` into a folder, each whole or not at all; return their paths.

    Raises:
        InputError: they cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "train")
    from twincar_edge.export.confidence.plot import plot_confidence

    paths = tuple(folder / name for name in (JSON_NAME, MARKDOWN_NAME, PLOT_NAME))
    write_text(paths[0], report.to_json())
    write_text(paths[1], report.to_markdown())
    plot_confidence(report, paths[2])
    return paths
